"""The client's side of the pcsc-lite protocol: requests into bytes, replies and events out of bytes.

Source: ``winscard_clnt.c``, ``winscard_svc.c`` and ``eventhandler.c`` of pcsc-lite 1.6.5 to 2.5.

Replies carry no header: what arrives is told apart by what was asked. Requests may be pipelined; replies come out in
the order of the requests, `Stopped` among them; only an `Event` comes in between.

**Events.** A wait registers the connection for one message ``{0, rv}``: the event, or the answer to the `StopWaiting`
that takes the registration back. Exactly one comes for each registration, whichever is first. pcscd sends an event
from another thread, at any moment. While replies are outstanding it is recognised where one message ends and the
next begins, if the oldest outstanding reply cannot begin with zero. Those are the replies to

- `Version`, which begins with 4. On a connection that is for events only, send `WaitReaderStateChange` and then
  `Version` as a barrier: when its reply is there, the wait is in force;
- every request with a handle or scope that is not zero, because the reply begins with it;
- `GetReadersStateSize` and `GetReaderEvents`, whose numbers are never zero.

It is **not** recognised, and all that follows is out of step, when the oldest outstanding reply is a state array
(whose first slot may be empty) or gives back a handle or scope of zero; nor in the middle of a reply, where pcscd can
put one as well (between the two parts of a transmit's reply, and in 2.5 between two records of an array). So give
events a connection of their own, of level 4:6 where the server has it, and fetch states on another. The states that
answer a wait on 4:4 and 4:5 are safe from pcscd up to 2.4, which sends them and registers under one lock.

Up to 4:3 two more things are taken care of. Old servers leave the first word of an event uninitialised, so that
anything but the expected word is an event. And up to 1.8.18 they answer `StopWaiting` even after the event: the stop
carries a mark as its timeout, which the server gives back, and such a late answer is dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Set
from enum import Enum, auto
from typing import Final

from cardferry.pcsc.constants import MAX_APDU_SIZE, MAX_READERNAME
from cardferry.pcsc.errors import ReturnCode
from cardferry.wire.errors import WireError
from cardferry.wire.inbox import Inbox
from cardferry.wire.pcsclite.exchanges import Exchange, exchanges
from cardferry.wire.pcsclite.layout import (
    FIXED_SLOTS,
    MAJOR,
    NATIVE,
    NEWEST_MINOR,
    OLDEST_MINOR,
    ByteOrder,
    Command,
    Dialect,
    compiled,
    layout_of,
)
from cardferry.wire.pcsclite.messages import (
    ControlReply,
    Event,
    GetReadersState,
    GetReadersStateSize,
    Reply,
    Request,
    StateCountReply,
    StatesReply,
    Stopped,
    StopWaiting,
    Transmit,
    TransmitReply,
    Version,
    VersionReply,
    WaitReaderStateChange,
)

_WORD_SIZE: Final = 4
_MASK: Final = 0xFFFF_FFFF
#: Bytes of the reply to a transmit in front of the response.
_TRANSMIT_REPLY: Final = compiled(NATIVE, MAX_READERNAME).transmit.size
_SIGNAL_SIZE: Final = 8
#: The newest level whose wait and stop have bodies, and whose events begin with anything.
_OLD_EVENTS: Final = 3
#: The levels whose wait is answered with the states.
_WAIT_ANSWERED: Final = (4, 5)
#: ``timeOut`` of a stop up to 4:3. No handle, scope, version or reader name begins like this.
_STOP_MARK: Final = 0xFFFF_FFFF


def next_version(reply: VersionReply, tried: Set[int]) -> Version | None:
    """What to ask after a server has answered `Version`. The first one is ``Version()``, which is 4:6.

    None ends the negotiation: ``reply.level`` is then the level in force, or None when the server cannot be talked to.
    pcscd up to 2.4.0 knows its own version only, and names it when it refuses: that one is tried, once.

    Args:
        reply: the latest answer.
        tried: the minor numbers asked for so far.
    """
    if not reply.rv or reply.major != MAJOR or len(tried) > 1:
        return None
    if not OLDEST_MINOR <= reply.minor < NEWEST_MINOR or reply.minor in tried:
        return None
    return Version(MAJOR, reply.minor)


class _Awaiting(Enum):
    """What the next ``need`` bytes are for."""

    #: Nothing is outstanding.
    NOTHING = auto()
    #: The word that tells an event from a reply.
    WORD = auto()
    #: An event, or the answer to a stop.
    SIGNAL = auto()
    #: The oldest outstanding reply.
    REPLY = auto()


class _Outstanding:
    """A reply that has not come yet. Without an exchange it is a state array, or the end of a wait.

    Attributes:
        request: what it answers.
        exchange: how to read it.
        records: size of a state array in records; 0 when the server tells it.
        first: its first word as far as it is known, see `Exchange.first`; None when that can be zero.
        ended: return value of an event that has answered this stop before its turn.
    """

    __slots__ = ("ended", "exchange", "first", "records", "request")

    def __init__(self, request: Request, exchange: Exchange | None = None, records: int = 0) -> None:
        self.request = request
        self.exchange = exchange
        self.records = records
        self.ended: int | None = None
        self.first = (exchange.first(request) or None) if exchange else None


class ClientCodec:
    """One connection to a pcscd, seen from the client. Which events can be told from replies: see the module.

    Args:
        minor: the protocol level 4:minor to begin with.
        byte_order: the server's, this computer's own by default.
        name_size: bytes of reader names, 128, or 100 for pcsc-lite 1.6.5 to 1.8.3.
        slots: records in the server's state replies of fixed size, 16 in upstream's builds.

    Attributes:
        minor: the protocol level in force; set it to `VersionReply.level` after the negotiation.
        registered: an event may come: a wait was sent, and neither its event has come nor a stop been sent.
        error: what was wrong with the server's bytes, once something was; the connection must then be closed.
    """

    __slots__ = (
        "_awaiting",
        "_byte_order",
        "_count",
        "_exchanges",
        "_inbox",
        "_late_stops",
        "_layout",
        "_outstanding",
        "_raw",
        "_registrations",
        "_slots",
        "error",
        "minor",
        "registered",
    )

    def __init__(
        self,
        minor: int = NEWEST_MINOR,
        byte_order: ByteOrder = NATIVE,
        name_size: int = MAX_READERNAME,
        slots: int = FIXED_SLOTS,
    ) -> None:
        self._layout = layout_of(Dialect(byte_order, minor, name_size, slots))
        self._exchanges = exchanges(self._layout)
        self._byte_order = byte_order
        self._slots = slots
        self._inbox = Inbox(1)
        self._awaiting = _Awaiting.NOTHING
        self._outstanding: deque[_Outstanding] = deque()
        self._raw: TransmitReply | ControlReply | None = None
        #: Registrations whose one message has not come: the open one, and those that a stop takes back.
        self._registrations = 0
        #: Stops up to 4:3 whose place an event took, and which may be answered yet.
        self._late_stops = 0
        #: Records of the next array of 4:6; None until the server was asked, 0 until it has answered.
        self._count: int | None = None
        self.minor = minor
        self.registered = False
        self.error: WireError | None = None

    @property
    def dialect(self) -> Dialect:
        """What the server's bytes look like."""
        return Dialect(self._byte_order, self.minor, self._layout.name_size, self._slots)

    @property
    def pending(self) -> int:
        """Replies that have not come yet, the end of a wait that was stopped among them."""
        return len(self._outstanding)

    @property
    def buffered(self) -> int:
        """Bytes held of a message that is not whole yet: less than the size of the largest one."""
        return len(self._inbox)

    # Requests

    def send(self, request: Request) -> bytes:
        """The whole request as bytes: write them at once. Its reply is expected from now on.

        A wait gets a reply only on 4:4 and 4:5, a `StatesReply`; a stop is answered by `Stopped`.

        Raises:
            ValueError: the request cannot be sent: an APDU, control data or attribute that is too long; a wait while
                one is in force; a stop while none is (its answer would never come); `GetReadersStateArray` before
                `GetReadersStateSize`.
            WireError: the server has broken the protocol before.
        """
        if self.error is not None:
            raise WireError(str(self.error))
        exchange = self._exchanges.get(type(request))
        if exchange is not None:
            message = exchange.encode(self._layout, request)
            self._outstanding.append(_Outstanding(request, exchange))
            if isinstance(request, GetReadersStateSize):
                self._count = self._count or 0
        elif isinstance(request, WaitReaderStateChange):
            message = self._wait(request)
        elif isinstance(request, StopWaiting):
            message = self._stop(request)
        else:
            message = self._states(request)
        if self._awaiting in (_Awaiting.NOTHING, _Awaiting.WORD):
            self._expect_next()
        return message

    def _wait(self, request: WaitReaderStateChange) -> bytes:
        if self.registered:
            raise ValueError("a wait is in force already")
        self.registered = True
        self._registrations += 1
        if self.minor in _WAIT_ANSWERED:
            self._outstanding.append(_Outstanding(request, records=self._slots))
        return self._with_timeout(Command.WAIT_READER_STATE_CHANGE, request.timeout)

    def _stop(self, request: StopWaiting) -> bytes:
        if not self.registered:
            raise ValueError("no wait is in force")
        self.registered = False
        self._outstanding.append(_Outstanding(request))
        return self._with_timeout(Command.STOP_WAITING_READER_STATE_CHANGE, _STOP_MARK)

    def _with_timeout(self, command: Command, timeout: int) -> bytes:
        if self.minor <= _OLD_EVENTS:
            return self._layout.pair_request.pack(self._layout.pair.size, command, timeout, 0)
        return self._layout.header.pack(0, command)

    def _states(self, request: Request) -> bytes:
        if isinstance(request, GetReadersState):
            self._outstanding.append(_Outstanding(request, records=self._slots))
            return self._layout.header.pack(0, Command.GET_READERS_STATE)
        if self._count is None:
            raise ValueError("the array's size has not been asked for")
        self._outstanding.append(_Outstanding(request))
        return self._layout.header.pack(0, Command.GET_READERS_STATE_ARRAY)

    # Replies and events

    def receive(self, data: bytes | bytearray | memoryview) -> list[Reply | Event]:
        """Take bytes in, give the replies and events that are whole.

        Raises:
            WireError: the bytes cannot come from a pcscd: a size beyond all bounds, a reply to something else, or
                bytes when nothing is outstanding. What was whole before them is in ``received`` of the error.
        """
        if self.error is not None:
            raise WireError(str(self.error))
        inbox = self._inbox
        data = inbox.take(data)
        transmitted = self._only_transmitted(data)
        if transmitted is not None:
            return [transmitted]
        received: list[Reply | Event] = []
        offset = 0
        try:
            while len(data) - offset >= inbox.need:
                offset = self._step(data, offset, received)
        except WireError as error:
            error.received = tuple(received)
            self.error = error
            raise
        inbox.keep(data, offset)
        return received

    def _only_transmitted(self, data: bytes) -> TransmitReply | None:
        """The reply, when these bytes are a whole good one to `Transmit` and nothing else, as most pieces are."""
        if self._awaiting is not _Awaiting.REPLY or self._raw is not None or len(data) <= _TRANSMIT_REPLY:
            return None
        oldest = self._outstanding[0]
        request = oldest.request
        if len(self._outstanding) > 1 or not isinstance(request, Transmit):
            return None
        card, _, _, _, protocol, _, length, rv = self._layout.transmit.unpack_from(data)
        if rv or length != len(data) - _TRANSMIT_REPLY or length > min(request.receive_length, MAX_APDU_SIZE):
            return None
        if card & _MASK != (oldest.first or 0):
            return None
        self._outstanding.popleft()
        self._expect(_Awaiting.NOTHING, 1)
        return TransmitReply(rv, data[_TRANSMIT_REPLY:], length, protocol)

    def _step(self, data: bytes, offset: int, received: list[Reply | Event]) -> int:
        """Consume the ``need`` bytes from ``offset``, or only look at them. Return where the next ones begin."""
        awaiting = self._awaiting
        if awaiting is _Awaiting.REPLY:
            following = offset + self._inbox.need
            if self._reply(data[offset:following], received):
                self._outstanding.popleft()
                self._advance(received)
            return following
        if awaiting is _Awaiting.SIGNAL:
            self._signal(data, offset, received)
            self._advance(received)
            return offset + _SIGNAL_SIZE
        if awaiting is _Awaiting.WORD:
            if self._is_signal(data, offset):
                self._expect(_Awaiting.SIGNAL, _SIGNAL_SIZE)
            else:
                self._expect_reply()
            return offset
        if not self._registrations and not self._late_stops:
            raise WireError("bytes that answer nothing")
        # Whatever is asked while this message comes in, it is not the reply to it.
        self._expect(_Awaiting.SIGNAL, _SIGNAL_SIZE)
        return offset

    def _advance(self, received: list[Reply | Event]) -> None:
        """Go on after a message. Stops that an event has answered before their turn have it now."""
        outstanding = self._outstanding
        while outstanding and outstanding[0].ended is not None:
            received.append(Stopped(outstanding[0].ended))
            outstanding.popleft()
        self._expect_next()

    def _expect(self, awaiting: _Awaiting, need: int) -> None:
        self._awaiting = awaiting
        self._inbox.need = need

    def _expect_next(self) -> None:
        """At the end of a message: what can come now?"""
        if not self._outstanding:
            self._expect(_Awaiting.NOTHING, 1)
        elif isinstance(self._outstanding[0].request, StopWaiting):
            self._expect(_Awaiting.SIGNAL, _SIGNAL_SIZE)
        elif self._registrations or self._late_stops:
            self._expect(_Awaiting.WORD, _WORD_SIZE)
        else:
            self._expect_reply()

    def _expect_reply(self) -> None:
        oldest = self._outstanding[0]
        if oldest.exchange is not None:
            self._expect(_Awaiting.REPLY, oldest.exchange.size)
        else:
            records = oldest.records or self._count or 0
            self._expect(_Awaiting.REPLY, records * self._layout.record.size)

    def _is_signal(self, data: bytes, offset: int) -> bool:
        """Whether an event (or the late answer to a stop) comes before the oldest outstanding reply."""
        word: int = self._layout.word.unpack_from(data, offset)[0]
        if self._late_stops and word == _STOP_MARK:
            return True
        first = self._outstanding[0].first
        if not self._registrations or first is None or word == first:
            return False
        return word == 0 or (self.minor <= _OLD_EVENTS and first > 0)

    def _signal(self, data: bytes, offset: int, received: list[Reply | Event]) -> None:
        word, rv = self._layout.pair.unpack_from(data, offset)
        if self.minor <= _OLD_EVENTS:
            if word == _STOP_MARK and self._late_stops and rv == ReturnCode.F_INTERNAL_ERROR:
                self._late_stops -= 1
                return
        elif word:
            raise WireError(f"event with {word:#x} in front")
        if not self._registrations:
            raise WireError("event that was not waited for")
        self._registrations -= 1
        for reply in self._outstanding:
            if isinstance(reply.request, StopWaiting) and reply.ended is None:
                reply.ended = rv
                self._late_stops += self.minor <= _OLD_EVENTS and word != _STOP_MARK
                return
        self.registered = False
        received.append(Event(rv))

    def _reply(self, piece: bytes, received: list[Reply | Event]) -> bool:
        """Read the oldest outstanding reply, or the raw bytes that follow it. Return whether it is whole now."""
        raw = self._raw
        if raw is not None:
            raw.response = piece
            self._raw = None
            received.append(raw)
            return True
        oldest = self._outstanding[0]
        exchange = oldest.exchange
        reply: Reply
        if exchange is None:
            reply = StatesReply(self._layout.decode_array(piece))
        else:
            if exchange.echoed:
                word = self._layout.word.unpack_from(piece)[0]
                if word != (oldest.first or 0):
                    raise WireError(f"reply to {type(oldest.request).__name__} begins with {word:#x}")
            reply = exchange.decode(self._layout, piece, oldest.request)
            if isinstance(reply, (TransmitReply, ControlReply)):
                if reply.length and not reply.rv:
                    self._raw = reply
                    self._inbox.need = reply.length
                    return False
            elif isinstance(reply, StateCountReply):
                self._count = reply.count
        received.append(reply)
        return True
