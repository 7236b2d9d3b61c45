"""Every message of the pcsc-lite protocol, described once: both codecs read and write by the table in `rows`.

Source: ``winscard_msg.h``, ``winscard_clnt.c`` and ``winscard_svc.c`` of pcsc-lite 1.6.5 to 2.5.

A request is a header ``{size, command}`` and a C struct. The reply is that struct again, without a header: pcscd writes
its results into what it has received, and sends it back. So the request has the first fields of the struct and the
reply has the last ones; where both have a field, the server writes over it. `exchanges` compiles the table for a byte
order and a name size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from operator import attrgetter
from struct import Struct, calcsize
from typing import Any, Final, NamedTuple

from cardferry.pcsc.constants import MAX_APDU_SIZE, MAX_ATTRIBUTE_SIZE
from cardferry.wire.errors import WireError
from cardferry.wire.pcsclite import messages as m
from cardferry.wire.pcsclite.layout import FLAGS, MAJOR, ByteOrder, Command, decode_name, encode_name

#: The largest state array that is accepted, in records.
MAX_SLOTS: Final = 1024
#: `Row.first` of a reply that begins with any number but zero.
NOT_ZERO: Final = -1


class Row(NamedTuple):
    """One kind of request, and its reply.

    Attributes:
        command: the number in the header.
        fields: the C struct in the notation of `struct`, with a blank between two fields.
        request: what it is as a value.
        asked: the request's attributes in the first fields; the others are zero. Without any it is a header alone.
        reply: what the reply is as a value; None where it depends on more than the request.
        answered: the reply's attributes in the last fields; the others are the request's.
        first: the first word of a reply that has the first field itself: a number, or `NOT_ZERO`.
        raw: the request's attribute that follows the struct as raw bytes, ``send_length`` of them.
    """

    command: Command
    fields: str
    request: type[m.Request]
    asked: str = ""
    reply: type[m.Reply] | None = None
    answered: str = ""
    first: int = 0
    raw: str = ""


def rows(names: int) -> tuple[Row, ...]:
    """The table, for reader names of so many bytes. Handles of cards are signed, those of contexts are not."""
    c = Command
    connect, connected = "context reader share protocols", "card protocol rv"
    reconnect = "card share protocols initialization"
    transmit = "card protocol send_pci_length send_length receive_protocol receive_pci_length receive_length"
    transmitted = "receive_protocol receive_pci_length length rv"
    control = "card code send_length receive_length"
    # The value has its field in each request and reply, whether there is one or not.
    attribute, valued = "card attribute value length", f"i I {MAX_ATTRIBUTE_SIZE}s I I"
    return (
        Row(c.VERSION, "i i I", m.Version, "major minor rv", m.VersionReply, "major minor rv", MAJOR),
        Row(c.ESTABLISH_CONTEXT, "I I I", m.EstablishContext, "scope", m.ContextReply, "context rv"),
        Row(c.RELEASE_CONTEXT, "I I", m.ReleaseContext, "context", m.Acknowledged, "rv"),
        Row(c.CONNECT, f"I {names}s I I i I I", m.Connect, connect, m.ConnectReply, connected),
        Row(c.RECONNECT, "i I I I I I", m.Reconnect, reconnect, m.ReconnectReply, "protocol rv"),
        Row(c.DISCONNECT, "i I I", m.Disconnect, "card disposition", m.Acknowledged, "rv"),
        Row(c.BEGIN_TRANSACTION, "i I", m.BeginTransaction, "card", m.Acknowledged, "rv"),
        Row(c.END_TRANSACTION, "i I I", m.EndTransaction, "card disposition", m.Acknowledged, "rv"),
        # A reply whose rv is 0 is followed by ``length`` raw bytes; otherwise that is only a number.
        Row(c.TRANSMIT, "i I I I I I I I", m.Transmit, transmit, m.TransmitReply, transmitted, raw="apdu"),
        Row(c.CONTROL, "i I I I I I", m.Control, control, m.ControlReply, "length rv", raw="data"),
        Row(c.STATUS, "i I", m.Status, "card", m.Acknowledged, "rv"),
        Row(c.CANCEL, "I I", m.Cancel, "context", m.Acknowledged, "rv"),
        Row(c.GET_ATTRIB, valued, m.GetAttribute, attribute, m.AttributeReply, "value length rv"),
        Row(c.SET_ATTRIB, valued, m.SetAttribute, attribute, m.AttributeReply, "value length rv"),
        Row(c.GET_READERS_STATE, "", m.GetReadersState),
        # Up to 4:3 the wait and its stop have a struct, on newer levels they are a header alone.
        Row(c.WAIT_READER_STATE_CHANGE, "I I", m.WaitReaderStateChange, "timeout"),
        Row(c.WAIT_READER_STATE_CHANGE, "", m.WaitReaderStateChange),
        Row(c.STOP_WAITING_READER_STATE_CHANGE, "I I", m.StopWaiting, "timeout"),
        Row(c.STOP_WAITING_READER_STATE_CHANGE, "", m.StopWaiting),
        Row(c.GET_READER_EVENTS, "I I", m.GetReaderEvents, "", m.ReaderEventsReply, "count rv", NOT_ZERO),
        Row(c.GET_READERS_STATE_SIZE, "i", m.GetReadersStateSize, "", m.StateCountReply, "count", NOT_ZERO),
        Row(c.GET_READERS_STATE_ARRAY, "", m.GetReadersStateArray),
    )


def _length(length: int) -> int:
    if length > MAX_ATTRIBUTE_SIZE:
        raise WireError(f"attribute of {length} bytes")
    return length


def _count(count: int) -> m.StateCountReply:
    if not 1 <= count <= MAX_SLOTS:
        raise WireError(f"state array of {count} records")
    return m.StateCountReply(count)


#: What makes a message of its fields, in the order of the table, where it is not the class with the fields as they are.
#: ``_``: it does not keep that field.
MADE: Final[Mapping[Any, Callable[..., Any]]] = {
    m.Connect: lambda context, reader, share, protocols: m.Connect(context, decode_name(reader), share, protocols),
    m.Transmit: lambda card, protocol, send_pci_length, _, receive_protocol, receive_pci_length, receive_length: (
        m.Transmit(card, protocol, b"", receive_length, receive_protocol, send_pci_length, receive_pci_length)
    ),
    m.Control: lambda card, code, _, receive_length: m.Control(card, code, b"", receive_length),
    m.GetAttribute: lambda card, attribute, _, length: m.GetAttribute(card, attribute, _length(length)),
    m.SetAttribute: lambda card, attribute, value, length: m.SetAttribute(card, attribute, value[: _length(length)]),
    m.ContextReply: lambda context, rv: m.ContextReply(rv, context),
    m.ConnectReply: lambda card, protocol, rv: m.ConnectReply(rv, card, protocol),
    m.ReconnectReply: lambda protocol, rv: m.ReconnectReply(rv, protocol),
    m.TransmitReply: lambda receive_protocol, _, length, rv: m.TransmitReply(rv, b"", length, receive_protocol),
    m.ControlReply: lambda length, rv: m.ControlReply(rv, b"", length),
    m.AttributeReply: lambda value, length, rv: m.AttributeReply(rv, b"" if rv else value[: _length(length)]),
    m.StateCountReply: _count,
}


def _fitter(data: str, room: str, most: int) -> Callable[[Any], Any]:
    """What makes a request such that every pcscd takes it, out of the attributes that have its bytes and its room."""
    data_of, room_of = attrgetter(data), attrgetter(room)

    def fit(request: Any) -> Any:
        if len(data_of(request)) > most:
            raise ValueError(f"{type(request).__name__} with {len(data_of(request))} bytes, where {most} fit")
        # pcscd closes the connection when the room is larger than its buffer, for raw bytes up to 1.9.7.
        return replace(request, **{room: most}) if room_of(request) > most else request

    return fit


@dataclass(frozen=True, slots=True)
class Exchange:
    """A row of the table, compiled.

    Attributes:
        command: the number in the header.
        size: bytes of the request's struct, 0 for a header alone.
        first: see `Row`.
        whole: header and struct of the request with the fields that it has.
        reply: the reply with all fields.
        fit: what makes a request such that every pcscd takes it, or raises `ValueError`; None where each does.
        encode: what makes header and struct of a request.
        raw: what gets the raw bytes that follow them; None without any.
        decode: what makes a request of the struct in the bytes at an offset, and tells how many raw bytes follow.
        encode_reply: what makes the reply of the request and the values of the fields that the reply has.
        decode_reply: what makes the reply, without raw bytes, of exactly its bytes, or raises `WireError`. None where
            that depends on more than the request.
    """

    command: int
    size: int
    first: int
    whole: Struct
    reply: Struct
    fit: Callable[[Any], Any] | None
    encode: Callable[[Any], bytes]
    raw: Callable[[Any], bytes] | None
    decode: Callable[[bytes, int], tuple[Any, int]]
    encode_reply: Callable[..., bytes]
    decode_reply: Callable[[bytes], Any] | None


def _packer(pack: Callable[..., bytes], names: Sequence[str], name_size: int) -> Callable[..., bytes]:
    """What packs these attributes of a message, and other values behind them."""
    if not names:
        return lambda _message, *values: pack(*values)
    if "reader" in names:
        return lambda message, *values: pack(
            message.context, encode_name(message.reader, name_size), message.share, message.protocols, *values
        )
    get = attrgetter(*names)
    if len(names) == 1:
        return lambda message, *values: pack(get(message), *values)
    return lambda message, *values: pack(*get(message), *values)


def _compiled(row: Row, flag: str, name_size: int) -> Exchange:
    fields, asked, answered = row.fields.split(), row.asked.split(), row.answered.split()
    reply = Struct(flag + row.fields)
    size = reply.size if asked else 0
    # ``x`` is packed as zero, and skipped when unpacked: clients leave anything in the fields of the reply.
    first = "".join(fields[: len(asked)])
    first += f"{size - calcsize(flag + first)}x"
    whole, struct = Struct(f"{flag}II{first}"), Struct(flag + first)
    echoed = len(fields) - len(answered)
    last = "".join(fields[echoed:])
    results = Struct(f"{flag}{reply.size - calcsize(flag + last)}x{last}")
    make, read = MADE.get(row.request, row.request), MADE.get(row.reply, row.reply)
    length_at = asked.index("send_length") if row.raw else None
    fit = None
    if row.raw:
        fit = _fitter(row.raw, "receive_length", MAX_APDU_SIZE)
    elif "value" in asked:
        fit = _fitter("value", "length", MAX_ATTRIBUTE_SIZE)

    def decode(data: bytes, offset: int) -> tuple[Any, int]:
        values = struct.unpack_from(data, offset)
        return make(*values), 0 if length_at is None else values[length_at]

    return Exchange(
        row.command.value,
        size,
        row.first,
        whole,
        reply,
        fit,
        _packer(partial(whole.pack, size, row.command.value), asked, name_size),
        attrgetter(row.raw) if row.raw else None,
        decode,
        _packer(reply.pack, asked[:echoed], name_size),
        None if read is None else lambda data: read(*results.unpack(data)),
    )


class Table(NamedTuple):
    """All exchanges: by the request, the wait and its stop as on 4:4 and later; and by command and announced size."""

    by_request: Mapping[type[m.Request], Exchange]
    by_header: Mapping[tuple[int, int], Exchange]


@lru_cache(maxsize=4)
def exchanges(byte_order: ByteOrder, name_size: int) -> Table:
    """The one `Table` of a byte order and a name size."""
    compiled = [(row.request, _compiled(row, FLAGS[byte_order], name_size)) for row in rows(name_size)]
    return Table(dict(compiled), {(each.command, each.size): each for _, each in compiled})
