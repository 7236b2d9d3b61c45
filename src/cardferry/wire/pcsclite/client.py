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
from typing import Any, Final

from cardferry.pcsc.constants import MAX_READERNAME
from cardferry.pcsc.errors import ReturnCode
from cardferry.wire.errors import WireError
from cardferry.wire.inbox import Inbox
from cardferry.wire.pcsclite import messages as m
from cardferry.wire.pcsclite.exchanges import Exchange, exchanges
from cardferry.wire.pcsclite.layout import (
    FIXED_SLOTS,
    MAJOR,
    NATIVE,
    NEWEST_MINOR,
    OLDEST_MINOR,
    WAIT_ANSWERED,
    ByteOrder,
    Dialect,
    layout_of,
)

_HEADER_SIZE: Final = 8
_WORD_SIZE: Final = 4
_MASK: Final = 0xFFFF_FFFF
#: Bytes of the reply to a transmit in front of the response.
_TRANSMIT_REPLY: Final = exchanges(NATIVE, MAX_READERNAME).by_request[m.Transmit].reply.size
_SIGNAL_SIZE: Final = 8
#: The newest level whose wait and stop have bodies, and whose events begin with anything.
_OLD_EVENTS: Final = 3
#: ``timeOut`` of a stop up to 4:3. No handle, scope, version or reader name begins like this.
_STOP_MARK: Final = 0xFFFF_FFFF


def next_version(reply: m.VersionReply, tried: Set[int]) -> m.Version | None:
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
    return m.Version(MAJOR, reply.minor)


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


#: Looking a member up in its enum takes longer than comparing it, and this is done for every message.
_NOTHING, _WORD, _SIGNAL, _REPLY = _Awaiting


class _Outstanding:
    """A reply that has not come yet.

    Attributes:
        request: what it answers, as it was sent.
        exchange: how to read it, but for a state array and the end of a wait.
        first: its first word as far as it is known, see `Row.first`; None when that can be zero.
        records: size of a state array in records; 0 when the server tells it.
        ended: return value of an event that has answered this stop before its turn.
    """

    __slots__ = ("ended", "exchange", "first", "records", "request")

    def __init__(self, request: Any, exchange: Exchange, first: int | None = None, records: int = 0) -> None:
        self.request = request
        self.exchange = exchange
        self.first = first
        self.records = records
        self.ended: int | None = None


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
        self._exchanges = exchanges(byte_order, name_size).by_request
        self._byte_order = byte_order
        self._slots = slots
        self._inbox = Inbox(1)
        self._awaiting = _NOTHING
        self._outstanding: deque[_Outstanding] = deque()
        self._raw: m.TransmitReply | m.ControlReply | None = None
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

    def send(self, request: m.Request) -> bytes:
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
        exchange = self._exchanges[type(request)]
        if exchange.decode_reply is not None:
            if exchange.fit is not None:
                request = exchange.fit(request)
            message = exchange.encode(request)
            # The reply begins with the same word as the struct behind the header, or with one of its own.
            first = exchange.first or self._layout.word.unpack_from(message, _HEADER_SIZE)[0] or None
            if exchange.raw is not None:
                message += exchange.raw(request)
            self._outstanding.append(_Outstanding(request, exchange, first))
            if isinstance(request, m.GetReadersStateSize):
                self._count = self._count or 0
        elif isinstance(request, m.WaitReaderStateChange):
            message = self._wait(request, exchange)
        elif isinstance(request, m.StopWaiting):
            message = self._stop(request, exchange)
        else:
            message = self._states(request, exchange)
        if self._awaiting in (_NOTHING, _WORD):
            self._expect_next()
        return message

    def _wait(self, request: m.WaitReaderStateChange, exchange: Exchange) -> bytes:
        if self.registered:
            raise ValueError("a wait is in force already")
        self.registered = True
        self._registrations += 1
        if self.minor in WAIT_ANSWERED:
            self._outstanding.append(_Outstanding(request, exchange, records=self._slots))
        return self._on_this_level(exchange).encode(request)

    def _stop(self, request: m.StopWaiting, exchange: Exchange) -> bytes:
        if not self.registered:
            raise ValueError("no wait is in force")
        self.registered = False
        self._outstanding.append(_Outstanding(request, exchange))
        return self._on_this_level(exchange).encode(m.StopWaiting(_STOP_MARK))

    def _on_this_level(self, exchange: Exchange) -> Exchange:
        if self.minor > _OLD_EVENTS:
            return exchange
        return exchanges(self._byte_order, self._layout.name_size).by_header[exchange.command, _SIGNAL_SIZE]

    def _states(self, request: m.Request, exchange: Exchange) -> bytes:
        fixed = isinstance(request, m.GetReadersState)
        if not fixed and self._count is None:
            raise ValueError("the array's size has not been asked for")
        self._outstanding.append(_Outstanding(request, exchange, records=self._slots if fixed else 0))
        return exchange.encode(request)

    # Replies and events

    def receive(self, data: bytes | bytearray | memoryview) -> list[m.Reply | m.Event]:
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
        received: list[m.Reply | m.Event] = []
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

    def _only_transmitted(self, data: bytes) -> m.TransmitReply | None:
        """The reply, when these bytes are a whole good one to `Transmit` and nothing else, as most pieces are."""
        if self._awaiting is not _REPLY or self._raw is not None or len(data) <= _TRANSMIT_REPLY:
            return None
        oldest = self._outstanding[0]
        request = oldest.request
        if len(self._outstanding) > 1 or not isinstance(request, m.Transmit):
            return None
        # No event is expected now (that would be `_WORD`), so these bytes begin where the reply begins.
        card, _, _, _, protocol, _, length, rv = oldest.exchange.reply.unpack_from(data)
        if rv or length != len(data) - _TRANSMIT_REPLY or length > request.receive_length:
            return None
        if card & _MASK != (oldest.first or 0):
            return None
        self._outstanding.popleft()
        self._expect(_NOTHING, 1)
        return m.TransmitReply(rv, data[_TRANSMIT_REPLY:], length, protocol)

    def _step(self, data: bytes, offset: int, received: list[m.Reply | m.Event]) -> int:
        """Consume the ``need`` bytes from ``offset``, or only look at them. Return where the next ones begin."""
        awaiting = self._awaiting
        if awaiting is _REPLY:
            following = offset + self._inbox.need
            if self._reply(data[offset:following], received):
                self._outstanding.popleft()
                self._advance(received)
            return following
        if awaiting is _SIGNAL:
            self._signal(data, offset, received)
            self._advance(received)
            return offset + _SIGNAL_SIZE
        if awaiting is _WORD:
            if self._is_signal(data, offset):
                self._expect(_SIGNAL, _SIGNAL_SIZE)
            else:
                self._expect_reply()
            return offset
        if not self._registrations and not self._late_stops:
            raise WireError("bytes that answer nothing")
        # Whatever is asked while this message comes in, it is not the reply to it.
        self._expect(_SIGNAL, _SIGNAL_SIZE)
        return offset

    def _advance(self, received: list[m.Reply | m.Event]) -> None:
        """Go on after a message. Stops that an event has answered before their turn have it now."""
        outstanding = self._outstanding
        while outstanding and outstanding[0].ended is not None:
            received.append(m.Stopped(outstanding[0].ended))
            outstanding.popleft()
        self._expect_next()

    def _expect(self, awaiting: _Awaiting, need: int) -> None:
        self._awaiting = awaiting
        self._inbox.need = need

    def _expect_next(self) -> None:
        """At the end of a message: what can come now?"""
        if not self._outstanding:
            self._expect(_NOTHING, 1)
        elif isinstance(self._outstanding[0].request, m.StopWaiting):
            self._expect(_SIGNAL, _SIGNAL_SIZE)
        elif self._registrations or self._late_stops:
            self._expect(_WORD, _WORD_SIZE)
        else:
            self._expect_reply()

    def _expect_reply(self) -> None:
        oldest = self._outstanding[0]
        if oldest.exchange.decode_reply is not None:
            self._expect(_REPLY, oldest.exchange.reply.size)
        else:
            records = oldest.records or self._count or 0
            self._expect(_REPLY, records * self._layout.record.size)

    def _is_signal(self, data: bytes, offset: int) -> bool:
        """Whether an event (or the late answer to a stop) comes before the oldest outstanding reply."""
        word: int = self._layout.word.unpack_from(data, offset)[0]
        if self._late_stops and word == _STOP_MARK:
            # Up to 1.8.18 pcscd answers a stop that came after the event, with the timeout of the stop in front.
            return True
        first = self._outstanding[0].first
        if not self._registrations or first is None or word == first:
            return False
        # Up to 4:3 the word in front of an event is whatever lay on pcscd's stack.
        return word == 0 or (self.minor <= _OLD_EVENTS and first > 0)

    def _signal(self, data: bytes, offset: int, received: list[m.Reply | m.Event]) -> None:
        word, rv = self._layout.signal.unpack_from(data, offset)
        if self.minor <= _OLD_EVENTS:
            if word == _STOP_MARK and self._late_stops and rv == ReturnCode.F_INTERNAL_ERROR:
                # With another rv the mark is in front of the answer to a stop that came before the event.
                self._late_stops -= 1
                return
        elif word:
            raise WireError(f"event with {word:#x} in front")
        if not self._registrations:
            raise WireError("event that was not waited for")
        self._registrations -= 1
        for reply in self._outstanding:
            if isinstance(reply.request, m.StopWaiting) and reply.ended is None:
                # Between an event and the answer to a stop that crossed it there is no difference to be seen.
                reply.ended = rv
                self._late_stops += self.minor <= _OLD_EVENTS and word != _STOP_MARK
                return
        self.registered = False
        received.append(m.Event(rv))

    def _reply(self, piece: bytes, received: list[m.Reply | m.Event]) -> bool:
        """Read the oldest outstanding reply, or the raw bytes that follow it. Return whether it is whole now."""
        raw = self._raw
        if raw is not None:
            raw.response = piece
            self._raw = None
            received.append(raw)
            return True
        oldest = self._outstanding[0]
        exchange = oldest.exchange
        reply: m.Reply
        if exchange.decode_reply is None:
            reply = m.StatesReply(self._layout.decode_array(piece))
        else:
            if not exchange.first:
                # The handle or scope of the request comes back in front: anything else answers something else.
                word = self._layout.word.unpack_from(piece)[0]
                if word != (oldest.first or 0):
                    raise WireError(f"reply to {type(oldest.request).__name__} begins with {word:#x}")
            reply = exchange.decode_reply(piece)
            if isinstance(reply, (m.TransmitReply, m.ControlReply)):
                if reply.length and not reply.rv:
                    if reply.length > oldest.request.receive_length:
                        raise WireError(f"{type(oldest.request).__name__.lower()} response of {reply.length} bytes")
                    self._raw = reply
                    self._inbox.need = reply.length
                    return False
            elif isinstance(reply, m.StateCountReply):
                self._count = reply.count
        received.append(reply)
        return True
