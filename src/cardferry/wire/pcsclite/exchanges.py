"""What each request of the pcsc-lite protocol looks like on the wire, and what comes back for it.

Source: ``winscard_clnt.c`` and ``winscard_msg.h`` of pcsc-lite. A request is packed as a whole, header included. The
client's codec (`client`) looks its requests up in `EXCHANGES`. Three kinds are not in there, because their replies
depend on more than the request: state arrays, the wait and the stop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

from cardferry.pcsc.constants import MAX_APDU_SIZE, MAX_ATTRIBUTE_SIZE
from cardferry.wire.errors import WireError
from cardferry.wire.pcsclite.layout import MAJOR, Command, Layout, encode_name
from cardferry.wire.pcsclite.messages import (
    Acknowledged,
    AttributeReply,
    BeginTransaction,
    Cancel,
    Connect,
    ConnectReply,
    ContextReply,
    Control,
    ControlReply,
    Disconnect,
    EndTransaction,
    EstablishContext,
    GetAttribute,
    GetReaderEvents,
    GetReadersStateSize,
    ReaderEventsReply,
    Reconnect,
    ReconnectReply,
    ReleaseContext,
    Reply,
    Request,
    SetAttribute,
    StateCountReply,
    Status,
    Transmit,
    TransmitReply,
    Version,
    VersionReply,
)

#: The largest state array that is accepted, in records.
MAX_SLOTS: Final = 1024
#: `Exchange.first` of a reply that begins with any number but zero.
NOT_ZERO: Final = -1

_MASK: Final = 0xFFFF_FFFF


class Exchange(NamedTuple):
    """One kind of request and its reply.

    Attributes:
        encode: the whole request.
        size: bytes of the reply, without raw bytes that may follow it.
        decode: the reply out of exactly those bytes. Raises `WireError` when it is impossible.
        first: the first word of the reply, as far as it is known: a number, or `NOT_ZERO`.
        echoed: whether the reply must begin with ``first``.
    """

    encode: Callable[[Layout, Any], bytes]
    size: int
    decode: Callable[[Layout, bytes, Any], Reply]
    first: Callable[[Any], int]
    echoed: bool = True


def _card(request: BeginTransaction) -> int:
    return request.card & _MASK


def _context(request: ReleaseContext) -> int:
    return request.context


def _scope(request: EstablishContext) -> int:
    return request.scope


def _not_zero(_request: Request) -> int:
    return NOT_ZERO


def _encode_version(layout: Layout, request: Version) -> bytes:
    return layout.version_request.pack(12, Command.VERSION, request.major, request.minor, request.rv)


def _decode_version(layout: Layout, raw: bytes, _request: Version) -> VersionReply:
    return VersionReply(*layout.version.unpack(raw))


def _encode_establish(layout: Layout, request: EstablishContext) -> bytes:
    return layout.triple_request.pack(12, Command.ESTABLISH_CONTEXT, request.scope, 0, 0)


def _decode_establish(layout: Layout, raw: bytes, _request: EstablishContext) -> ContextReply:
    _scope, context, rv = layout.triple.unpack(raw)
    return ContextReply(rv, context)


def _encode_connect(layout: Layout, request: Connect) -> bytes:
    name = encode_name(request.reader, layout.name_size)
    return layout.connect_request.pack(
        layout.connect.size,
        Command.CONNECT,
        request.context,
        name,
        request.share,
        request.protocols,
        0,
        0,
        0,
    )


def _decode_connect(layout: Layout, raw: bytes, _request: Connect) -> ConnectReply:
    _context, _name, _share, _protocols, card, protocol, rv = layout.connect.unpack(raw)
    return ConnectReply(rv, card, protocol)


def _encode_reconnect(layout: Layout, request: Reconnect) -> bytes:
    return layout.reconnect_request.pack(
        24,
        Command.RECONNECT,
        request.card,
        request.share,
        request.protocols,
        request.initialization,
        0,
        0,
    )


def _decode_reconnect(layout: Layout, raw: bytes, _request: Reconnect) -> ReconnectReply:
    *_, protocol, rv = layout.reconnect.unpack(raw)
    return ReconnectReply(rv, protocol)


def _encode_card(command: Command) -> Callable[[Layout, BeginTransaction | Status], bytes]:
    return lambda layout, request: layout.signed_pair_request.pack(8, command, request.card, 0)


def _encode_disposition(command: Command) -> Callable[[Layout, EndTransaction | Disconnect], bytes]:
    return lambda layout, request: layout.signed_triple_request.pack(12, command, request.card, request.disposition, 0)


def _encode_context(command: Command) -> Callable[[Layout, ReleaseContext | Cancel], bytes]:
    return lambda layout, request: layout.pair_request.pack(8, command, request.context, 0)


def _decode_pair(layout: Layout, raw: bytes, _request: Request) -> Acknowledged:
    return Acknowledged(layout.pair.unpack(raw)[1])


def _decode_triple(layout: Layout, raw: bytes, _request: Request) -> Acknowledged:
    return Acknowledged(layout.triple.unpack(raw)[2])


def _encode_transmit(layout: Layout, request: Transmit) -> bytes:
    apdu = request.apdu
    if len(apdu) > MAX_APDU_SIZE:
        raise ValueError(f"an APDU of {len(apdu)} bytes is longer than {MAX_APDU_SIZE}")
    return (
        layout.transmit_request.pack(
            32,
            Command.TRANSMIT,
            request.card,
            request.protocol,
            request.send_pci_length,
            len(apdu),
            request.receive_protocol,
            request.receive_pci_length,
            # pcscd up to 1.9.7 closes the connection when this is larger than its own buffer.
            min(request.receive_length, MAX_APDU_SIZE),
            0,
        )
        + apdu
    )


def _decode_transmit(layout: Layout, raw: bytes, request: Transmit) -> TransmitReply:
    *_, receive_protocol, _pci_length, length, rv = layout.transmit.unpack(raw)
    if not rv and length > min(request.receive_length, MAX_APDU_SIZE):
        raise WireError(f"response of {length} bytes")
    return TransmitReply(rv, b"", length, receive_protocol)


def _encode_control(layout: Layout, request: Control) -> bytes:
    data = request.data
    if len(data) > MAX_APDU_SIZE:
        raise ValueError(f"control data of {len(data)} bytes is longer than {MAX_APDU_SIZE}")
    return (
        layout.control_request.pack(
            24,
            Command.CONTROL,
            request.card,
            request.code,
            len(data),
            min(request.receive_length, MAX_APDU_SIZE),
            0,
            0,
        )
        + data
    )


def _decode_control(layout: Layout, raw: bytes, request: Control) -> ControlReply:
    *_, length, rv = layout.control.unpack(raw)
    if not rv and length > min(request.receive_length, MAX_APDU_SIZE):
        raise WireError(f"control response of {length} bytes")
    return ControlReply(rv, b"", length)


def _encode_get_attribute(layout: Layout, request: GetAttribute) -> bytes:
    length = min(request.length, MAX_ATTRIBUTE_SIZE)
    return layout.attribute_request.pack(280, Command.GET_ATTRIB, request.card, request.attribute, b"", length, 0)


def _encode_set_attribute(layout: Layout, request: SetAttribute) -> bytes:
    value = request.value
    if len(value) > MAX_ATTRIBUTE_SIZE:
        raise ValueError(f"an attribute of {len(value)} bytes is longer than {MAX_ATTRIBUTE_SIZE}")
    return layout.attribute_request.pack(280, Command.SET_ATTRIB, request.card, request.attribute, value, len(value), 0)


def _decode_attribute(layout: Layout, raw: bytes, _request: Request) -> AttributeReply:
    _card, _attribute, value, length, rv = layout.attribute.unpack(raw)
    if rv:
        return AttributeReply(rv, b"")
    if length > MAX_ATTRIBUTE_SIZE:
        raise WireError(f"attribute of {length} bytes")
    return AttributeReply(rv, value[:length])


def _encode_state_size(layout: Layout, _request: GetReadersStateSize) -> bytes:
    return layout.header.pack(0, Command.GET_READERS_STATE_SIZE)


def _decode_count(layout: Layout, raw: bytes, _request: Request) -> StateCountReply:
    count = layout.count.unpack(raw)[0]
    if not 1 <= count <= MAX_SLOTS:
        raise WireError(f"state array of {count} records")
    return StateCountReply(count)


def _encode_reader_events(layout: Layout, _request: GetReaderEvents) -> bytes:
    return layout.header.pack(0, Command.GET_READER_EVENTS)


def _decode_reader_events(layout: Layout, raw: bytes, _request: Request) -> ReaderEventsReply:
    return ReaderEventsReply(*layout.pair.unpack(raw))


@lru_cache(maxsize=4)
def exchanges(layout: Layout) -> Mapping[type[Request], Exchange]:
    """The table of all requests whose reply depends on the request alone, for one name size."""
    return {
        Version: Exchange(_encode_version, 12, _decode_version, lambda _request: MAJOR, echoed=False),
        EstablishContext: Exchange(_encode_establish, 12, _decode_establish, _scope),
        ReleaseContext: Exchange(_encode_context(Command.RELEASE_CONTEXT), 8, _decode_pair, _context),
        Connect: Exchange(_encode_connect, layout.connect.size, _decode_connect, _context),
        Reconnect: Exchange(_encode_reconnect, 24, _decode_reconnect, _card),
        Disconnect: Exchange(_encode_disposition(Command.DISCONNECT), 12, _decode_triple, _card),
        BeginTransaction: Exchange(_encode_card(Command.BEGIN_TRANSACTION), 8, _decode_pair, _card),
        EndTransaction: Exchange(_encode_disposition(Command.END_TRANSACTION), 12, _decode_triple, _card),
        Transmit: Exchange(_encode_transmit, 32, _decode_transmit, _card),
        Control: Exchange(_encode_control, 24, _decode_control, _card),
        Status: Exchange(_encode_card(Command.STATUS), 8, _decode_pair, _card),
        Cancel: Exchange(_encode_context(Command.CANCEL), 8, _decode_pair, _context),
        GetAttribute: Exchange(_encode_get_attribute, 280, _decode_attribute, _card),
        SetAttribute: Exchange(_encode_set_attribute, 280, _decode_attribute, _card),
        GetReaderEvents: Exchange(_encode_reader_events, 8, _decode_reader_events, _not_zero, echoed=False),
        GetReadersStateSize: Exchange(_encode_state_size, 4, _decode_count, _not_zero, echoed=False),
    }
