"""The server's side of the pcsc-lite protocol: requests out of bytes, replies into bytes.

Source: ``winscard_svc.c`` (``ContextThread``) and ``winscard_clnt.c`` of pcsc-lite 1.6.5 to 2.5.

A request is a header ``{size, command}``, a body of ``size`` bytes and, for transmit and control, raw bytes that the
header does not count. Replies have no header. libpcsclite writes header, body and raw bytes separately, so most
pieces that arrive are one of them. Every encoding method returns one message in one piece: write it at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cardferry.pcsc.constants import MAX_APDU_SIZE, MAX_ATTRIBUTE_SIZE, MAX_READERNAME
from cardferry.pcsc.errors import ReturnCode
from cardferry.pcsc.reader_state import ReaderState
from cardferry.wire.errors import WireError
from cardferry.wire.inbox import Inbox
from cardferry.wire.pcsclite.bodies import BODIES, Body, RawBody
from cardferry.wire.pcsclite.layout import (
    FIXED_SLOTS,
    MAJOR,
    NATIVE,
    NEWEST_MINOR,
    OLD_NAME_SIZE,
    OLDEST_MINOR,
    ByteOrder,
    Command,
    Dialect,
    compiled,
    encode_name,
)
from cardferry.wire.pcsclite.messages import (
    BeginTransaction,
    Cancel,
    Connect,
    Control,
    Disconnect,
    EndTransaction,
    EstablishContext,
    GetAttribute,
    Reconnect,
    ReleaseContext,
    Request,
    SetAttribute,
    Status,
    StopWaiting,
    Transmit,
    Version,
)

_HEADER_SIZE: Final = 8
#: No request's struct is larger than this; a larger number is one in the other byte order, or garbage.
_SIZE_LIMIT: Final = 0x1_0000
_CONNECT: Final = Command.CONNECT.value
_CONNECT_OLD_SIZE: Final = compiled(NATIVE, OLD_NAME_SIZE).connect.size
#: A transmit without its command, and how it begins.
_TRANSMIT_SIZE: Final = _HEADER_SIZE + compiled(NATIVE, OLD_NAME_SIZE).transmit.size
_TRANSMIT_HEADER: Final = (_TRANSMIT_SIZE - _HEADER_SIZE, Command.TRANSMIT.value)
#: The fixed-size state replies of 4:4 and 4:5 also answer the wait.
_WAIT_ANSWERED: Final = (4, 5)


def _byte_order(header: bytes) -> ByteOrder:
    """The byte order of a client, seen from the first header it sends.

    No size and no command is 65536 or more, so that one half of the deciding number is zero. The size decides;
    when it is zero (a bodyless command, no version first) the command does.

    Raises:
        WireError: it is neither.
    """
    for number in (header[:4], header[4:]):
        little, big = int.from_bytes(number, "little"), int.from_bytes(number, "big")
        if little or big:
            if little < _SIZE_LIMIT:
                return "little"
            if big < _SIZE_LIMIT:
                return "big"
            break
    raise WireError(f"not a pcsc-lite request: {header.hex(' ', 4)}")


class ServerCodec:
    """One application's connection, seen from the server.

    Feed what arrives to `receive`, act on the requests in order, and write what the method named after the reply
    returns. The codec knows the client's byte order, protocol level and name size by itself.

    Args:
        slots: records in the fixed-size state replies, 16 for upstream's clients. (Fedora has built libraries with 48:
            these need 48 here.)
        name_size: bytes of reader names for a client of level 4:2, which is ambiguous: 128, or 100 for pcsc-lite 1.6.5
            to 1.8.3. When such a client connects to a reader its own size is known and used from then on.
        array_slots: records in the state array of 4:6, which must never shrink while a client lives. At least 16
            and at least ``slots``, whatever is asked for.

    Attributes:
        minor: the protocol level 4:minor in force; 6 until a version is agreed upon, as in pcscd 2.5.
        error: what was wrong with the client's bytes, once something was; the connection must then be closed.
    """

    __slots__ = (
        "_array_slots",
        "_body",
        "_byte_order",
        "_inbox",
        "_layout",
        "_name_size_at_42",
        "_proposed",
        "_raw",
        "_slots",
        "error",
        "minor",
    )

    def __init__(
        self, slots: int = FIXED_SLOTS, name_size: int = MAX_READERNAME, array_slots: int = FIXED_SLOTS
    ) -> None:
        Dialect(name_size=name_size, slots=slots)  # checks the arguments
        self._slots = slots
        self._array_slots = max(FIXED_SLOTS, slots, array_slots)
        self._name_size_at_42 = name_size
        self._byte_order: ByteOrder | None = None
        self._layout = compiled(NATIVE, MAX_READERNAME)
        self._inbox = Inbox(_HEADER_SIZE)
        self._body: Body | RawBody | None = None
        self._raw: Transmit | Control | None = None
        self._proposed = False
        self.minor = NEWEST_MINOR
        self.error: WireError | None = None

    @property
    def dialect(self) -> Dialect:
        """What is known about the client's bytes so far."""
        return Dialect(self._byte_order or NATIVE, self.minor, self._layout.name_size, self._slots)

    @property
    def buffered(self) -> int:
        """Bytes held of a request that is not whole yet: less than `MAX_APDU_SIZE`."""
        return len(self._inbox)

    def receive(self, data: bytes | bytearray | memoryview) -> list[Request]:
        """Take bytes in, give the requests that are whole.

        Bytes that break the protocol set `error`; the requests before them are still returned.

        Raises:
            WireError: the connection had broken the protocol before this call.
        """
        if self.error is not None:
            raise WireError(str(self.error))
        inbox = self._inbox
        data = inbox.take(data)
        transmit = self._only_transmit(data)
        if transmit is not None:
            return [transmit]
        requests: list[Request] = []
        offset = 0
        try:
            while len(data) - offset >= inbox.need:
                offset = self._step(data, offset, requests)
        except WireError as error:
            self.error = error
        else:
            inbox.keep(data, offset)
        return requests

    def _only_transmit(self, data: bytes) -> Transmit | None:
        """The request, when these bytes are a whole `Transmit` and nothing else, as most pieces are."""
        size = len(data)
        if size <= _TRANSMIT_SIZE or self._body is not None or self._raw is not None or self._byte_order is None:
            return None
        layout = self._layout
        if layout.header.unpack_from(data) != _TRANSMIT_HEADER:
            return None
        body = layout.transmit.unpack_from(data, _HEADER_SIZE)
        if body[3] != size - _TRANSMIT_SIZE or size - _TRANSMIT_SIZE > MAX_APDU_SIZE:
            return None
        return Transmit(body[0], body[1], data[_TRANSMIT_SIZE:], body[6], body[4], body[2], body[5])

    def _step(self, data: bytes, offset: int, requests: list[Request]) -> int:
        """Consume a header, a body or raw bytes: ``need`` bytes from ``offset``. Return where the next one begins."""
        inbox = self._inbox
        following = offset + inbox.need
        request: Request
        if self._raw is not None:
            request = self._raw
            if isinstance(request, Transmit):
                request.apdu = data[offset:following]
            else:
                request.data = data[offset:following]
            self._raw = None
        else:
            body = self._body
            if body is None:
                body = self._header(data, offset)
                if body.size:
                    self._body = body
                    inbox.need = body.size
                    return following
            self._body = None
            if isinstance(body, RawBody):
                request, length = body.decode(self._layout, data, offset)
                if length > MAX_APDU_SIZE:
                    raise WireError(f"{type(request).__name__} of {length} bytes")
                if length:
                    self._raw = request
                    inbox.need = length
                    return following
            else:
                request = body.decode(self._layout, data, offset)
        requests.append(request)
        inbox.need = _HEADER_SIZE
        return following

    def _header(self, data: bytes, offset: int) -> Body | RawBody:
        if self._byte_order is None:
            self._byte_order = _byte_order(data[offset : offset + _HEADER_SIZE])
            self._use_names_of(MAX_READERNAME)
        size, command = self._layout.header.unpack_from(data, offset)
        body = BODIES.get((command, size))
        if body is None:
            raise WireError(f"command {command:#x} with a body of {size} bytes")
        if command == _CONNECT:
            self._use_names_of(OLD_NAME_SIZE if size == _CONNECT_OLD_SIZE else MAX_READERNAME)
        return body

    def _use_names_of(self, size: int) -> None:
        self._layout = compiled(self._byte_order or NATIVE, size)

    # The handshake

    def version(self, request: Version, refuse: int | None = None) -> bytes:
        """Answer `Version`, and take the client's level from 4:2 to 4:6 as the one in force.

        The client's own numbers come back to it: a newer library that is answered with less falls into a bug of its
        own. A client newer than 4:6 is offered 4:6 once, by ``E_SERVICE_STOPPED``. Any other refusal is
        ``E_NO_SERVICE``, because newer libraries repeat their request for ever when ``E_SERVICE_STOPPED`` is repeated.

        Args:
            request: the client's version.
            refuse: turn the client away with this return value, which its SCardEstablishContext returns.

        Raises:
            ValueError: ``refuse`` is ``E_SERVICE_STOPPED``, or is no error.
        """
        major, minor = request.major, request.minor
        if refuse is not None:
            if refuse in (ReturnCode.S_SUCCESS, ReturnCode.E_SERVICE_STOPPED):
                raise ValueError(f"a client cannot be refused with {refuse:#x}")
            return self._layout.version.pack(major, minor, refuse)
        if major == MAJOR and OLDEST_MINOR <= minor <= NEWEST_MINOR:
            self.minor = minor
            self._use_names_of(self._name_size_at_42 if minor == OLDEST_MINOR else MAX_READERNAME)
            return self._layout.version.pack(major, minor, 0)
        rv = ReturnCode.E_NO_SERVICE
        if major == MAJOR and minor > NEWEST_MINOR and not self._proposed:
            self._proposed = True
            rv = ReturnCode.E_SERVICE_STOPPED
        return self._layout.version.pack(MAJOR, NEWEST_MINOR, rv)

    # Contexts and cards

    def established(self, request: EstablishContext, context: int, rv: int = 0) -> bytes:
        """Answer `EstablishContext` with a handle from 1 to `MAX_HANDLE`, unique among all connections."""
        return self._layout.triple.pack(request.scope, context, rv)

    def connected(self, request: Connect, card: int, protocol: int, rv: int = 0) -> bytes:
        """Answer `Connect` with a handle from 1 to `MAX_HANDLE`, unique among all connections, and a protocol."""
        layout = self._layout
        name = encode_name(request.reader, layout.name_size)
        return layout.connect.pack(request.context, name, request.share, request.protocols, card, protocol, rv)

    def reconnected(self, request: Reconnect, protocol: int, rv: int = 0) -> bytes:
        """Answer `Reconnect` with the protocol now active."""
        return self._layout.reconnect.pack(
            request.card, request.share, request.protocols, request.initialization, protocol, rv
        )

    def acknowledged(
        self,
        request: ReleaseContext | Disconnect | BeginTransaction | EndTransaction | Status | Cancel,
        rv: int = 0,
    ) -> bytes:
        """Answer a request that only succeeds or fails."""
        layout = self._layout
        if isinstance(request, (BeginTransaction, Status)):
            return layout.signed_pair.pack(request.card, rv)
        if isinstance(request, (EndTransaction, Disconnect)):
            return layout.signed_triple.pack(request.card, request.disposition, rv)
        return layout.pair.pack(request.context, rv)

    def transmitted(self, request: Transmit, response: bytes, rv: int = 0, protocol: int | None = None) -> bytes:
        """Answer `Transmit`.

        A response that is longer than the client's room becomes ``E_INSUFFICIENT_BUFFER`` with its true length. The
        response itself follows only when all is well: anything else puts the client out of step.

        Args:
            request: the request.
            response: the response, empty on errors.
            rv: return value.
            protocol: ``ioRecvPciProtocol``; the protocol of the command when None.
        """
        length = len(response)
        if length > request.receive_length and not rv:
            rv = ReturnCode.E_INSUFFICIENT_BUFFER
        reply = self._layout.transmit.pack(
            request.card,
            request.protocol,
            request.send_pci_length,
            len(request.apdu),
            request.protocol if protocol is None else protocol,
            request.receive_pci_length,
            length,
            rv,
        )
        return reply if rv else reply + response

    def controlled(self, request: Control, response: bytes, rv: int = 0) -> bytes:
        """Answer `Control`; see `transmitted` for what becomes of a response that is too long."""
        length = len(response)
        if length > request.receive_length and not rv:
            rv = ReturnCode.E_INSUFFICIENT_BUFFER
        reply = self._layout.control.pack(
            request.card, request.code, len(request.data), request.receive_length, length, rv
        )
        return reply if rv else reply + response

    def attribute(self, request: GetAttribute | SetAttribute, value: bytes = b"", rv: int = 0) -> bytes:
        """Answer `GetAttribute` or `SetAttribute`: always 280 bytes, the value in them only when all is well.

        A value that is longer than the room for it becomes ``E_INSUFFICIENT_BUFFER`` with its true length.
        """
        room = request.length if isinstance(request, GetAttribute) else MAX_ATTRIBUTE_SIZE
        if len(value) > room and not rv:
            rv = ReturnCode.E_INSUFFICIENT_BUFFER
        return self._layout.attribute.pack(request.card, request.attribute, b"" if rv else value, len(value), rv)

    # Reader states and events

    def states(self, readers: Sequence[ReaderState]) -> bytes:
        """Answer `GetReadersState`: as many records as a client expects, readers beyond that are left out."""
        return self._layout.encode_array(readers, self._slots)

    def state_count(self, at_least: int = 0) -> bytes:
        """Answer `GetReadersStateSize` with the number of records that the next array has.

        It never becomes smaller, because clients cannot bear less than before: a library keeps the number for all
        contexts of its process. So ``at_least`` must be the same on all connections, and must never shrink either.
        """
        self._array_slots = max(self._array_slots, at_least)
        return self._layout.count.pack(self._array_slots)

    def state_array(self, readers: Sequence[ReaderState]) -> bytes:
        """Answer `GetReadersStateArray`: as many records as `state_count` said last."""
        return self._layout.encode_array(readers, self._array_slots)

    def reader_events(self, count: int) -> bytes:
        """Answer `GetReaderEvents` with a number from 1 to 32767."""
        return self._layout.pair.pack(count, 0)

    def waiting(self, readers: Sequence[ReaderState]) -> bytes:
        """Answer `WaitReaderStateChange`: the states on 4:4 and 4:5, nothing on other levels."""
        return self.states(readers) if self.minor in _WAIT_ANSWERED else b""

    def stopped(self, request: StopWaiting, rv: int = 0) -> bytes:
        """Answer `StopWaiting`. Only when the client was still registered: after an event it expects nothing."""
        return self._layout.pair.pack(request.timeout, rv)

    def event(self, rv: int = 0) -> bytes:
        """End the client's registration: something changed, or ``E_CANCELLED``. Once for each registration."""
        return self._layout.pair.pack(0, rv)
