"""The bodies of the pcsc-lite protocol's requests, as a server reads them.

Source: ``winscard_msg.h`` and ``winscard_svc.c`` of pcsc-lite. The server's codec (`server`) looks command and size
up in `BODIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from cardferry.pcsc.constants import MAX_ATTRIBUTE_SIZE, MAX_READERNAME
from cardferry.wire.errors import WireError
from cardferry.wire.pcsclite.layout import NATIVE, OLD_NAME_SIZE, Command, Layout, compiled, decode_name
from cardferry.wire.pcsclite.messages import (
    BeginTransaction,
    Cancel,
    Connect,
    Control,
    Disconnect,
    EndTransaction,
    EstablishContext,
    GetAttribute,
    GetReaderEvents,
    GetReadersState,
    GetReadersStateArray,
    GetReadersStateSize,
    Reconnect,
    ReleaseContext,
    Request,
    SetAttribute,
    Status,
    StopWaiting,
    Transmit,
    Version,
    WaitReaderStateChange,
)


def _attribute_length(length: int) -> int:
    if length > MAX_ATTRIBUTE_SIZE:
        raise WireError(f"attribute of {length} bytes")
    return length


def _version(layout: Layout, data: bytes, offset: int) -> Version:
    return Version(*layout.version.unpack_from(data, offset))


def _establish(layout: Layout, data: bytes, offset: int) -> EstablishContext:
    return EstablishContext(layout.triple.unpack_from(data, offset)[0])


def _release(layout: Layout, data: bytes, offset: int) -> ReleaseContext:
    return ReleaseContext(layout.pair.unpack_from(data, offset)[0])


def _connect(layout: Layout, data: bytes, offset: int) -> Connect:
    context, name, share, protocols, _card, _active, _rv = layout.connect.unpack_from(data, offset)
    return Connect(context, decode_name(name), share, protocols)


def _reconnect(layout: Layout, data: bytes, offset: int) -> Reconnect:
    return Reconnect(*layout.reconnect.unpack_from(data, offset)[:4])


def _disconnect(layout: Layout, data: bytes, offset: int) -> Disconnect:
    card, disposition, _rv = layout.signed_triple.unpack_from(data, offset)
    return Disconnect(card, disposition)


def _begin(layout: Layout, data: bytes, offset: int) -> BeginTransaction:
    return BeginTransaction(layout.signed_pair.unpack_from(data, offset)[0])


def _end(layout: Layout, data: bytes, offset: int) -> EndTransaction:
    card, disposition, _rv = layout.signed_triple.unpack_from(data, offset)
    return EndTransaction(card, disposition)


def _status(layout: Layout, data: bytes, offset: int) -> Status:
    return Status(layout.signed_pair.unpack_from(data, offset)[0])


def _cancel(layout: Layout, data: bytes, offset: int) -> Cancel:
    return Cancel(layout.pair.unpack_from(data, offset)[0])


def _get_attribute(layout: Layout, data: bytes, offset: int) -> GetAttribute:
    card, attribute, _value, length, _rv = layout.attribute.unpack_from(data, offset)
    return GetAttribute(card, attribute, _attribute_length(length))


def _set_attribute(layout: Layout, data: bytes, offset: int) -> SetAttribute:
    card, attribute, value, length, _rv = layout.attribute.unpack_from(data, offset)
    return SetAttribute(card, attribute, value[: _attribute_length(length)])


def _timeout(layout: Layout, data: bytes, offset: int) -> int:
    timeout: int = layout.pair.unpack_from(data, offset)[0]
    return timeout


def _transmit(layout: Layout, data: bytes, offset: int) -> tuple[Transmit, int]:
    card, protocol, pci, length, receive_protocol, receive_pci, receive_length, _rv = layout.transmit.unpack_from(
        data, offset
    )
    return Transmit(card, protocol, b"", receive_length, receive_protocol, pci, receive_pci), length


def _control(layout: Layout, data: bytes, offset: int) -> tuple[Control, int]:
    card, code, length, receive_length, _returned, _rv = layout.control.unpack_from(data, offset)
    return Control(card, code, b"", receive_length), length


class Body(NamedTuple):
    """A request's body: its size, and what makes the request of it."""

    size: int
    decode: Callable[[Layout, bytes, int], Request]


class RawBody(NamedTuple):
    """A body that raw bytes follow: what makes the request, still without them, and their number."""

    size: int
    decode: Callable[[Layout, bytes, int], tuple[Transmit | Control, int]]


def _bodies() -> dict[tuple[int, int], Body | RawBody]:
    """By command and announced size: every request there is. What is not in here breaks the protocol."""
    layout = compiled(NATIVE, MAX_READERNAME)
    rows: list[tuple[Command, Body | RawBody]] = [
        (Command.VERSION, Body(layout.version.size, _version)),
        (Command.ESTABLISH_CONTEXT, Body(layout.triple.size, _establish)),
        (Command.RELEASE_CONTEXT, Body(layout.pair.size, _release)),
        (Command.RECONNECT, Body(layout.reconnect.size, _reconnect)),
        (Command.DISCONNECT, Body(layout.signed_triple.size, _disconnect)),
        (Command.BEGIN_TRANSACTION, Body(layout.signed_pair.size, _begin)),
        (Command.END_TRANSACTION, Body(layout.signed_triple.size, _end)),
        (Command.TRANSMIT, RawBody(layout.transmit.size, _transmit)),
        (Command.CONTROL, RawBody(layout.control.size, _control)),
        (Command.STATUS, Body(layout.signed_pair.size, _status)),
        (Command.CANCEL, Body(layout.pair.size, _cancel)),
        (Command.GET_ATTRIB, Body(layout.attribute.size, _get_attribute)),
        (Command.SET_ATTRIB, Body(layout.attribute.size, _set_attribute)),
        (Command.GET_READERS_STATE, Body(0, lambda *_: GetReadersState())),
        (Command.GET_READER_EVENTS, Body(0, lambda *_: GetReaderEvents())),
        (Command.GET_READERS_STATE_SIZE, Body(0, lambda *_: GetReadersStateSize())),
        (Command.GET_READERS_STATE_ARRAY, Body(0, lambda *_: GetReadersStateArray())),
        # Up to 4:3 these two have a body.
        (Command.WAIT_READER_STATE_CHANGE, Body(0, lambda *_: WaitReaderStateChange())),
        (
            Command.WAIT_READER_STATE_CHANGE,
            Body(layout.pair.size, lambda *where: WaitReaderStateChange(_timeout(*where))),
        ),
        (Command.STOP_WAITING_READER_STATE_CHANGE, Body(0, lambda *_: StopWaiting())),
        (
            Command.STOP_WAITING_READER_STATE_CHANGE,
            Body(layout.pair.size, lambda *where: StopWaiting(_timeout(*where))),
        ),
    ]
    table = {(command.value, body.size): body for command, body in rows}
    # The size of this one tells how long the client's reader names are.
    for name_size in (OLD_NAME_SIZE, MAX_READERNAME):
        size = layout.connect.size - layout.name_size + name_size
        table[Command.CONNECT.value, size] = Body(size, _connect)
    return table


#: Every request there is, by command and announced size; sizes are the same in both byte orders.
BODIES: Final[Mapping[tuple[int, int], Body | RawBody]] = _bodies()
