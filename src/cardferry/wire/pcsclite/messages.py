"""Requests and replies of the pcsc-lite protocol as values.

Field names are ours, the C names are in the docstrings (``winscard_msg.h``). They are plain slotted dataclasses, not
frozen ones: a frozen one costs a microsecond more to make, and these are made for every APDU.

Handles: a context is an unsigned and a card a signed 32-bit number, both from 1 to `MAX_HANDLE` when they are real.
``rv`` is a PC/SC return value, see `cardferry.pcsc.errors.ReturnCode`.
"""

from __future__ import annotations

from dataclasses import dataclass

from cardferry.pcsc.constants import MAX_APDU_SIZE, MAX_ATTRIBUTE_SIZE, Protocol
from cardferry.pcsc.reader_state import ReaderState
from cardferry.wire.pcsclite.layout import MAJOR, NEWEST_MINOR, OLDEST_MINOR

#: ``cbPciLength`` as 64-bit programs send it; nobody looks at it.
_PCI_LENGTH = 16


@dataclass(slots=True)
class Version:
    """CMD_VERSION: the client's protocol version."""

    major: int = MAJOR
    minor: int = NEWEST_MINOR
    rv: int = 0


@dataclass(slots=True)
class EstablishContext:
    """SCARD_ESTABLISH_CONTEXT."""

    scope: int


@dataclass(slots=True)
class ReleaseContext:
    """SCARD_RELEASE_CONTEXT."""

    context: int


@dataclass(slots=True)
class Connect:
    """SCARD_CONNECT: ``dwShareMode`` and the mask ``dwPreferredProtocols``."""

    context: int
    reader: str
    share: int
    protocols: int


@dataclass(slots=True)
class Reconnect:
    """SCARD_RECONNECT."""

    card: int
    share: int
    protocols: int
    initialization: int


@dataclass(slots=True)
class Disconnect:
    """SCARD_DISCONNECT."""

    card: int
    disposition: int


@dataclass(slots=True)
class BeginTransaction:
    """SCARD_BEGIN_TRANSACTION."""

    card: int


@dataclass(slots=True)
class EndTransaction:
    """SCARD_END_TRANSACTION."""

    card: int
    disposition: int


@dataclass(slots=True)
class Transmit:
    """SCARD_TRANSMIT.

    Attributes:
        card: the card's handle.
        protocol: ``ioSendPciProtocol``.
        apdu: the command, at most `MAX_APDU_SIZE` bytes.
        receive_length: ``pcbRecvLength``, the room for the response in bytes.
        receive_protocol: ``ioRecvPciProtocol``; libpcsclite sends `Protocol.ANY` when the program gave none.
        send_pci_length: ``ioSendPciLength``, 16 from 64-bit programs and 8 from others; means nothing.
        receive_pci_length: ``ioRecvPciLength``, likewise.
    """

    card: int
    protocol: int
    apdu: bytes
    receive_length: int = MAX_APDU_SIZE
    receive_protocol: int = Protocol.ANY.value
    send_pci_length: int = _PCI_LENGTH
    receive_pci_length: int = _PCI_LENGTH

    @property
    def send_length(self) -> int:
        """``cbSendLength``."""
        return len(self.apdu)


@dataclass(slots=True)
class Control:
    """SCARD_CONTROL: at most `MAX_APDU_SIZE` bytes of ``data``, ``receive_length`` bytes of room."""

    card: int
    code: int
    data: bytes
    receive_length: int = MAX_APDU_SIZE

    @property
    def send_length(self) -> int:
        """``cbSendLength``."""
        return len(self.data)


@dataclass(slots=True)
class Status:
    """SCARD_STATUS: only the return value is asked for, the rest is in the reader states."""

    card: int


@dataclass(slots=True)
class Cancel:
    """SCARD_CANCEL: end the wait of another connection's context."""

    context: int


@dataclass(slots=True)
class GetAttribute:
    """SCARD_GET_ATTRIB: ``length`` bytes of room, at most and usually `MAX_ATTRIBUTE_SIZE`."""

    card: int
    attribute: int
    length: int = MAX_ATTRIBUTE_SIZE

    @property
    def value(self) -> bytes:
        """``pbAttr``: nothing yet."""
        return b""


@dataclass(slots=True)
class SetAttribute:
    """SCARD_SET_ATTRIB: at most `MAX_ATTRIBUTE_SIZE` bytes of ``value``."""

    card: int
    attribute: int
    value: bytes

    @property
    def length(self) -> int:
        """``cbAttrLen``."""
        return len(self.value)


@dataclass(slots=True)
class GetReadersState:
    """CMD_GET_READERS_STATE: the state array of fixed size, on every level."""


@dataclass(slots=True)
class WaitReaderStateChange:
    """CMD_WAIT_READER_STATE_CHANGE: register for one event. ``timeout`` in ms, sent up to 4:3, ignored by servers."""

    timeout: int = 0


@dataclass(slots=True)
class StopWaiting:
    """CMD_STOP_WAITING_READER_STATE_CHANGE: take the registration back. ``timeout`` as in the wait."""

    timeout: int = 0


@dataclass(slots=True)
class GetReaderEvents:
    """CMD_GET_READER_EVENTS (4:5 and newer): how often readers came or went."""


@dataclass(slots=True)
class GetReadersStateSize:
    """CMD_GET_READERS_STATE_SIZE (4:6): how many records the next array has."""


@dataclass(slots=True)
class GetReadersStateArray:
    """CMD_GET_READERS_STATE_ARRAY (4:6): the state array of that size."""


Request = (
    Version
    | EstablishContext
    | ReleaseContext
    | Connect
    | Reconnect
    | Disconnect
    | BeginTransaction
    | EndTransaction
    | Transmit
    | Control
    | Status
    | Cancel
    | GetAttribute
    | SetAttribute
    | GetReadersState
    | WaitReaderStateChange
    | StopWaiting
    | GetReaderEvents
    | GetReadersStateSize
    | GetReadersStateArray
)


@dataclass(slots=True)
class VersionReply:
    """Answer to `Version`: the server's own version, or the client's echoed."""

    major: int
    minor: int
    rv: int

    @property
    def level(self) -> int | None:
        """The protocol level now in force, 2 to 6; None when the server refused or named a strange version."""
        if self.rv or self.major != MAJOR or self.minor < OLDEST_MINOR:
            return None
        return min(self.minor, NEWEST_MINOR)


@dataclass(slots=True)
class ContextReply:
    """Answer to `EstablishContext`."""

    rv: int
    context: int


@dataclass(slots=True)
class ConnectReply:
    """Answer to `Connect`; ``protocol`` is ``dwActiveProtocol``."""

    rv: int
    card: int
    protocol: int


@dataclass(slots=True)
class ReconnectReply:
    """Answer to `Reconnect`."""

    rv: int
    protocol: int


@dataclass(slots=True)
class Acknowledged:
    """Answer to requests that only succeed or fail: release, disconnect, begin, end, status, cancel."""

    rv: int


@dataclass(slots=True)
class TransmitReply:
    """Answer to `Transmit`.

    Attributes:
        rv: return value; the response is empty unless it is 0.
        response: the response with its status word.
        length: its length; the true one also when the room was too small (``E_INSUFFICIENT_BUFFER``).
        receive_protocol: ``ioRecvPciProtocol`` as the driver left it.
    """

    rv: int
    response: bytes
    length: int
    receive_protocol: int


@dataclass(slots=True)
class ControlReply:
    """Answer to `Control`: fields as in `TransmitReply`."""

    rv: int
    response: bytes
    length: int


@dataclass(slots=True)
class AttributeReply:
    """Answer to `GetAttribute` and `SetAttribute`; the value is empty unless ``rv`` is 0."""

    rv: int
    value: bytes


@dataclass(slots=True)
class StatesReply:
    """A state array: answer to `GetReadersState`, `GetReadersStateArray`, and on 4:4 and 4:5 to the wait."""

    readers: tuple[ReaderState, ...]


@dataclass(slots=True)
class StateCountReply:
    """Answer to `GetReadersStateSize`: records in the array."""

    count: int


@dataclass(slots=True)
class ReaderEventsReply:
    """Answer to `GetReaderEvents`: 1 to 32767, one more for each reader that came or went."""

    count: int
    rv: int


@dataclass(slots=True)
class Event:
    """The registration ended by itself: something changed (``rv`` 0) or it was cancelled (``E_CANCELLED``)."""

    rv: int


@dataclass(slots=True)
class Stopped:
    """A registration that `StopWaiting` took back is over.

    The server's answer and an event that crossed the request on its way are the same bytes: something may have
    changed meanwhile. ``rv`` as in `Event`.
    """

    rv: int


Reply = (
    VersionReply
    | ContextReply
    | ConnectReply
    | ReconnectReply
    | Acknowledged
    | TransmitReply
    | ControlReply
    | AttributeReply
    | StatesReply
    | StateCountReply
    | ReaderEventsReply
    | Stopped
)
