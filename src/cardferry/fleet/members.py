"""What a fleet's directory says of a host and its readers: plain values, one JSON document for each host."""

from __future__ import annotations

import msgspec

from cardferry.link.messages import name_of, packed_name
from cardferry.transports.nats.settings import NAME
from cardferry.wire.errors import WireError

#: Bytes of the longest document, and hosts that are looked at.
MOST_BYTES = 64 * 1024
MOST_HOSTS = 4096


class FleetReader(msgspec.Struct, frozen=True):
    """A reader of a host.

    Attributes:
        name: as programs see it at the host.
        card: what to call the card; empty when that is not known.
        atr: answer to reset in hex, empty without a card.
        serials: the card's numbers, as far as they are read without a PIN.
        subjects: whom its certificates are about (RFC 4514), by key (``9A``, ``AUT``); likewise.
        held: whether somebody has the card at this moment.
        waiting: programs that wait for it.
    """

    name: str
    card: str = ""
    atr: str = ""
    serials: tuple[str, ...] = ()
    subjects: dict[str, str] = {}
    held: bool = False
    waiting: int = 0

    @property
    def queue(self) -> int:
        """How many are before the next one who comes."""
        return self.waiting + self.held


class FleetHost(msgspec.Struct, frozen=True):
    """A host of the fleet; ``fleet:NAME`` leads to it.

    Attributes:
        name: unique in the fleet.
        address: where it is, for people.
        labels: what its administrator says of it.
        readers: in the host's order.
        version: name and version of its program.
        instance: another one for each start of the host.
    """

    name: str
    address: str = ""
    labels: dict[str, str] = {}
    readers: tuple[FleetReader, ...] = ()
    version: str = ""
    instance: str = ""


_decoder = msgspec.json.Decoder(FleetHost)


def encode(host: FleetHost) -> bytes:
    """The document: text in UTF-8, whatever readers are called."""
    return msgspec.json.encode(msgspec.structs.replace(host, readers=tuple(map(_packed, host.readers))))


def _packed(reader: FleetReader) -> FleetReader:
    subjects = {_text(key): _text(value) for key, value in reader.subjects.items()}
    return msgspec.structs.replace(
        reader,
        name=packed_name(reader.name),
        card=_text(reader.card),
        serials=tuple(map(_text, reader.serials)),
        subjects=subjects,
    )


def _text(words: str) -> str:
    return words.encode(errors="replace").decode()


def _unpacked(reader: FleetReader) -> FleetReader:
    return msgspec.structs.replace(reader, name=name_of(reader.name))


def decode(document: bytes, name: str) -> FleetHost:
    """Read one.

    Args:
        name: of the host that it must be about.

    Raises:
        WireError: it is none.
    """
    if len(document) > MOST_BYTES:
        raise WireError(f"{len(document)} bytes about a host")
    try:
        host = _decoder.decode(document)
        host = msgspec.structs.replace(host, readers=tuple(map(_unpacked, host.readers)))
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise WireError("no document about a host") from error
    if host.name != name or not NAME.fullmatch(name):  # it becomes a part of an address
        raise WireError(f"the document is about {host.name!r}")
    return host
