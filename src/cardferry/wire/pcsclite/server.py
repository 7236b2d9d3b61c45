"""The server's side of the pcsc-lite protocol: requests out of bytes, replies into bytes.

Source: ``winscard_svc.c`` (``ContextThread``) and ``winscard_clnt.c`` of pcsc-lite 1.6.5 to 2.5.

A request is a header ``{size, command}``, a body of ``size`` bytes and, for transmit and control, raw bytes that the
header does not count. Replies have no header. libpcsclite writes header, body and raw bytes separately, so most
pieces that arrive are one of them. Every encoding method returns one message in one piece: write it at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from cardferry.pcsc.constants import MAX_APDU_SIZE, MAX_ATTRIBUTE_SIZE, MAX_READERNAME
from cardferry.pcsc.errors import ReturnCode
from cardferry.pcsc.reader_state import ReaderState
from cardferry.wire.errors import WireError
from cardferry.wire.inbox import Inbox
from cardferry.wire.pcsclite import messages as m
from cardferry.wire.pcsclite.exchanges import Exchange, exchanges
from cardferry.wire.pcsclite.layout import (
    FIXED_SLOTS,
    MAJOR,
    NATIVE,
    NEWEST_MINOR,
    OLD_NAME_SIZE,
    OLDEST_MINOR,
    WAIT_ANSWERED,
    ByteOrder,
    Command,
    Dialect,
    compiled,
)

_HEADER_SIZE: Final = 8
#: No request's struct is larger than this; a larger number is one in the other byte order, or garbage.
_SIZE_LIMIT: Final = 0x1_0000
_CONNECT: Final = Command.CONNECT.value
_CONNECT_OLD_SIZE: Final = exchanges(NATIVE, OLD_NAME_SIZE).by_request[m.Connect].size
_TRANSMIT: Final = Command.TRANSMIT.value
#: Bytes of a transmit's struct, and where its raw bytes begin.
_TRANSMIT_SIZE: Final = exchanges(NATIVE, MAX_READERNAME).by_request[m.Transmit].size
_APDU: Final = _HEADER_SIZE + _TRANSMIT_SIZE


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
        "_by_header",
        "_by_request",
        "_byte_order",
        "_exchange",
        "_inbox",
        "_layout",
        "_name_size_at_42",
        "_proposed",
        "_raw",
        "_slots",
        "_transmit",
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
        self._use_names_of(MAX_READERNAME)
        self._inbox = Inbox(_HEADER_SIZE)
        #: Whose struct, or whose raw bytes, come next. None: a header.
        self._exchange: Exchange | None = None
        self._raw: m.Transmit | m.Control | None = None
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

    @property
    def missing(self) -> int:
        """Bytes until the next step, as far as that can be seen."""
        return self._inbox.need - len(self._inbox)

    def receive(self, data: bytes | bytearray | memoryview) -> list[m.Request]:
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
        requests: list[m.Request] = []
        offset = 0
        try:
            while len(data) - offset >= inbox.need:
                offset = self._step(data, offset, requests)
        except WireError as error:
            self.error = error
        else:
            inbox.keep(data, offset)
        return requests

    def _only_transmit(self, data: bytes) -> m.Transmit | None:
        """The request, when these bytes are a whole `Transmit` and nothing else, as most pieces are."""
        size = len(data)
        if size <= _APDU or self._exchange is not None or self._raw is not None or self._byte_order is None:
            return None
        announced, command, card, protocol, pci, length, receive_protocol, receive_pci, room = (
            self._transmit.whole.unpack_from(data)
        )
        # With another ``length`` the command is not whole yet, or the next request is here already.
        if command != _TRANSMIT or announced != _TRANSMIT_SIZE or length != size - _APDU or length > MAX_APDU_SIZE:
            return None
        return m.Transmit(card, protocol, data[_APDU:], room, receive_protocol, pci, receive_pci)

    def _step(self, data: bytes, offset: int, requests: list[m.Request]) -> int:
        """Consume a header, a struct (or both) or raw bytes from ``offset``. Return where the next one begins."""
        inbox = self._inbox
        following = offset + inbox.need
        request: Any
        if self._raw is not None:
            request, self._raw = self._raw, None
            if isinstance(request, m.Transmit):
                request.apdu = data[offset:following]
            else:
                request.data = data[offset:following]
        else:
            exchange = self._exchange
            if exchange is None:
                exchange = self._header(data, offset)
                offset = following
                following += exchange.size
                if len(data) < following:
                    self._exchange = exchange
                    inbox.need = exchange.size
                    return offset
            self._exchange = None
            request, length = exchange.decode(data, offset)
            if length:
                # The length is checked before so many bytes are waited for. pcscd hangs up here as well.
                if length > MAX_APDU_SIZE:
                    raise WireError(f"{type(request).__name__} of {length} bytes")
                self._raw = request
                inbox.need = length
                return following
        requests.append(request)
        inbox.need = _HEADER_SIZE
        return following

    def _header(self, data: bytes, offset: int) -> Exchange:
        if self._byte_order is None:
            self._byte_order = _byte_order(data[offset : offset + _HEADER_SIZE])
            self._use_names_of(MAX_READERNAME)
        size, command = self._layout.header.unpack_from(data, offset)
        if command == _CONNECT:
            # Only the size of this one tells how long the client's reader names are.
            names = OLD_NAME_SIZE if size == _CONNECT_OLD_SIZE else MAX_READERNAME
            if names != self._layout.name_size:
                self._use_names_of(names)
        exchange = self._by_header.get((command, size))
        if exchange is None:
            raise WireError(f"command {command:#x} with a struct of {size} bytes")
        return exchange

    def _use_names_of(self, size: int) -> None:
        byte_order = self._byte_order or NATIVE
        self._layout = compiled(byte_order, size)
        self._by_request, self._by_header = exchanges(byte_order, size)
        self._transmit = self._by_request[m.Transmit]

    def _answer(self, request: m.Request, *values: int | bytes) -> bytes:
        return self._by_request[type(request)].encode_reply(request, *values)

    # The handshake

    def version(self, request: m.Version, refuse: int | None = None) -> bytes:
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
            return self._answer(request, major, minor, refuse)
        if major == MAJOR and OLDEST_MINOR <= minor <= NEWEST_MINOR:
            self.minor = minor
            self._use_names_of(self._name_size_at_42 if minor == OLDEST_MINOR else MAX_READERNAME)
            return self._answer(request, major, minor, 0)
        rv = ReturnCode.E_NO_SERVICE
        if major == MAJOR and minor > NEWEST_MINOR and not self._proposed:
            self._proposed = True
            rv = ReturnCode.E_SERVICE_STOPPED
        return self._answer(request, MAJOR, NEWEST_MINOR, rv)

    # Contexts and cards

    def established(self, request: m.EstablishContext, context: int, rv: int = 0) -> bytes:
        """Answer `EstablishContext` with a handle from 1 to `MAX_HANDLE`, unique among all connections."""
        return self._answer(request, context, rv)

    def connected(self, request: m.Connect, card: int, protocol: int, rv: int = 0) -> bytes:
        """Answer `Connect` with a handle from 1 to `MAX_HANDLE`, unique among all connections, and a protocol."""
        return self._answer(request, card, protocol, rv)

    def reconnected(self, request: m.Reconnect, protocol: int, rv: int = 0) -> bytes:
        """Answer `Reconnect` with the protocol now active."""
        return self._answer(request, protocol, rv)

    def acknowledged(
        self,
        request: m.ReleaseContext | m.Disconnect | m.BeginTransaction | m.EndTransaction | m.Status | m.Cancel,
        rv: int = 0,
    ) -> bytes:
        """Answer a request that only succeeds or fails."""
        return self._by_request[type(request)].encode_reply(request, rv)

    def transmitted(self, request: m.Transmit, response: bytes, rv: int = 0, protocol: int | None = None) -> bytes:
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
        # By hand, not by `_answer`: no other message comes as often.
        reply = self._transmit.reply.pack(
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

    def controlled(self, request: m.Control, response: bytes, rv: int = 0) -> bytes:
        """Answer `Control`; see `transmitted` for what becomes of a response that is too long."""
        length = len(response)
        if length > request.receive_length and not rv:
            rv = ReturnCode.E_INSUFFICIENT_BUFFER
        reply = self._answer(request, length, rv)
        return reply if rv else reply + response

    def attribute(self, request: m.GetAttribute | m.SetAttribute, value: bytes = b"", rv: int = 0) -> bytes:
        """Answer `GetAttribute` or `SetAttribute`: always 280 bytes, the value in them only when all is well.

        A value that is longer than the room for it becomes ``E_INSUFFICIENT_BUFFER`` with its true length.
        """
        room = request.length if isinstance(request, m.GetAttribute) else MAX_ATTRIBUTE_SIZE
        if len(value) > room and not rv:
            rv = ReturnCode.E_INSUFFICIENT_BUFFER
        return self._answer(request, b"" if rv else value, len(value), rv)

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
        return self._answer(m.GetReadersStateSize(), self._array_slots)

    def state_array(self, readers: Sequence[ReaderState]) -> bytes:
        """Answer `GetReadersStateArray`: as many records as `state_count` said last."""
        return self._layout.encode_array(readers, self._array_slots)

    def reader_events(self, count: int) -> bytes:
        """Answer `GetReaderEvents` with a number from 1 to 32767."""
        return self._answer(m.GetReaderEvents(), count, 0)

    def waiting(self, readers: Sequence[ReaderState]) -> bytes:
        """Answer `WaitReaderStateChange`: the states on 4:4 and 4:5, nothing on other levels."""
        return self.states(readers) if self.minor in WAIT_ANSWERED else b""

    def stopped(self, request: m.StopWaiting, rv: int = 0) -> bytes:
        """Answer `StopWaiting`. Only when the client was still registered: after an event it expects nothing."""
        return self._layout.signal.pack(request.timeout, rv)

    def event(self, rv: int = 0) -> bytes:
        """End the client's registration: something changed, or ``E_CANCELLED``. Once for each registration."""
        return self._layout.signal.pack(0, rv)
