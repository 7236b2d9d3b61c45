"""One guest, on the host: its contexts and handles, what it has been told, and what it may ask for.

Messages come in by `HostSession.message`; calls go into the lane of their context; answers leave with everything
that the guest must know before them, in one piece per pass of the event loop. Dealing with a message costs the same,
however much the guest has open.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any, ClassVar, Final

from cardferry.link import host_budget as budget
from cardferry.link import messages as m
from cardferry.link.channel import Channel
from cardferry.link.facts import About, Known
from cardferry.link.host_card import HostCard
from cardferry.link.host_direct import DirectPipes
from cardferry.link.host_lane import Lane
from cardferry.link.host_memory import Telling
from cardferry.link.host_pace import CALL, Pace
from cardferry.link.host_queue import Job
from cardferry.link.host_queue_length import QueueQuestions
from cardferry.link.host_readers import ReadersSender
from cardferry.link.host_run_ahead import RunAhead
from cardferry.link.host_shared import SessionHost
from cardferry.link.host_status import HostSessionStatus
from cardferry.pcsc.caller import Caller, Principal, Program
from cardferry.pcsc.constants import MAX_APDU_SIZE, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.interface import Context
from cardferry.wire.errors import WireError
from cardferry.wire.link.greeting import Bye
from cardferry.wire.link.session import Session, SessionOverflowError

log = logging.getLogger(__name__)

#: s; a guest whose round trip is shorter may ask for what it wants to know.
NEAR: Final = 0.005
#: So many handles of one guest on one reader are counted before each piece of news about it; of a guest that has more,
#: all count as somebody else's, and its begins wait.
_MOST_COUNTED: Final = 64
_MOST_PATIENCE: Final = 86400.0  # s; a longer one is none at all
#: Calls after which another number of handles may be open; and those that may leave a handle broken.
_COMING_OR_GOING: Final = (m.Connect, m.Disconnect)
_UNSEEN: Final = (m.Connect, m.Begin, m.Transmit)
#: Calls after which the card may stand elsewhere, or the guest may not know where.
_MOVING: Final = (m.Connect, m.Begin, m.Transmit, m.Reconnect, m.End, m.Disconnect)


class HostSession:
    """Serves one guest; see `cardferry.link.channel.ChannelOwner` and `cardferry.link.host_lane.LaneOwner`.

    Args:
        host: whose cards are served, and what all sessions share.
        session: the machine for this guest.
        number: a number that no other session of this host has.
        principal: who the guest is, as it was proved.
        guest: what it calls itself, for people.
    """

    def __init__(self, host: SessionHost, session: Session, number: int, principal: Principal, guest: str) -> None:
        self.guest = guest
        self.principal = principal
        self.channel = Channel(session, self)
        self.direct = DirectPipes(self.channel, host.start, self._post)
        self._host = host
        self._manager = host.manager.seen_by(principal)
        self.number = number
        self._loop = asyncio.get_running_loop()
        self._lanes: dict[int, Lane] = {}
        self._cards: dict[int, tuple[HostCard, Lane]] = {}
        #: Calls that somebody waits for, by number.
        self._calls: dict[int, tuple[Job, Lane]] = {}
        self._last_context = self._last_handle = self._last_call = 0
        self._jobs = self._job_bytes = 0
        #: Contexts of which there is anything left.
        self._contexts = 0
        self.pace = Pace()
        #: Bytes by which our account may have grown since it was brought up to date.
        self._growth = 0
        #: The guest's handles by reader, also while they are being closed.
        self._on_reader: dict[str, set[HostCard]] = {}
        self._readers = ReadersSender(self._own_handles, number, self._unsettled_handles)
        self._questions = QueueQuestions(self._manager, lambda news: self.guarded(partial(self._post_news, news)))
        #: When the guest is told what can wait; and when it was told anything last.
        self._readers_timer: asyncio.TimerHandle | None = None
        self._readers_due = 0.0
        self._news_waits = False
        self._hits = self._waste = 0
        #: What the guest is told of what cards have said before, once it has asked; and what it has believed.
        self._telling: Telling | None = None

    # ChannelOwner

    def connected(self) -> None:
        """The guest is there, for the first time or again."""
        limits = self._host.limits
        if not self._readers.begun:
            log.info("%s: connected as %s", self.guest, self.principal)
            remembers = self._host.memories is not None
            most = limits.contexts, limits.handles, limits.calls, limits.call_bytes
            self._post(m.Welcome(*most, remembers, self.direct.introducer is not None, queues=True))
            self._tell_readers()
            self._host.check_facts()
            for reader, about, key, known in self._host.facts(self.principal):
                self._post(m.Fact(m.packed_name(reader), about, key, known.code, known.value))
        else:
            log.info("%s: connected again", self.guest)
            self._tell_readers()

    def disconnected(self, error: Exception | None) -> None:
        """The guest is out of reach."""
        log.info("%s: out of reach%s", self.guest, f": {error}" if error else "")

    def returned(self, error: Exception | None) -> None:
        """Never: it is the guest that goes back to another pipe."""

    def spare_lost(self) -> None:
        """The pipe is gone through which the guest has come; it may go on for a while over its own."""
        self.direct.spare_lost()

    def ended(self, bye: Bye) -> None:
        """The session is over: everything that the guest had is given back, as much in each pass as may be."""
        log.info("%s: gone%s", self.guest, f": {bye.text}" if bye.text else "")
        self._host.forget(self.channel.session.identity)
        if self._readers_timer is not None:
            self._readers_timer.cancel()
        if self._telling is not None:
            self._telling.end()
        if not self._contexts:
            self._host.budget.close(self)
        lanes = iter(tuple(self._lanes.values()))
        self._lanes.clear()
        self._cards.clear()
        self._calls.clear()
        while self.pace.may(CALL):
            lane = next(lanes, None)
            if lane is None:
                return
            self.guarded(lane.close)
        self._host.start(self._give_back(lanes))

    async def _give_back(self, lanes: Iterator[Lane]) -> None:
        for lane in lanes:
            await self.pace.step(CALL)
            self.guarded(lane.close)

    def message(self, payload: bytes) -> None:
        """The guest says something.

        Raises:
            WireError: it must not.
        """
        message = m.decode_from_guest(payload)
        handler = self._HANDLERS.get(type(message))
        if handler is not None:
            handler(self, message)
        else:
            self._call(message)  # type: ignore[arg-type]

    # contexts

    def _open(self, message: m.Open) -> None:
        if message.context <= self._last_context:
            raise WireError(f"context {message.context} was opened before")
        if len(self._lanes) >= self._host.limits.contexts:
            raise WireError(f"more than {self._host.limits.contexts} contexts")
        self._last_context = message.context
        self._contexts += 1
        self._grow(budget.CONTEXT)
        program = Program(message.program, message.pid, message.uid)
        caller = Caller(self.principal, program, self.number, self.guest)
        patience = message.patience
        if patience is not None and patience > _MOST_PATIENCE:
            patience = None
        lane = Lane(self, caller, patience, self._host.start)
        lane.accelerate = message.accelerate and self._host.accelerate
        self._lanes[message.context] = lane

    def _close(self, message: m.Close) -> None:
        lane = self._lanes.pop(message.context, None)
        if lane is None:
            raise WireError(f"there is no context {message.context}")
        try:
            for card in tuple(lane.cards):
                self._forget_card(card)
                card.unsettled = True
                lane.closed.append(card)
        finally:
            lane.close()

    def _cancel(self, message: m.Cancel) -> None:
        known = self._calls.pop(message.call, None)
        if known is not None:
            job, lane = known
            lane.cancel(job)

    # calls

    def _call(self, message: m.Call) -> None:
        size = len(message.apdu) if isinstance(message, m.Transmit) else m.size_of(message)
        limits = self._host.limits
        if self._jobs >= limits.calls or self._job_bytes + size > limits.call_bytes:
            raise WireError(f"more than {limits.calls} calls, or {limits.call_bytes} bytes of them, at the same time")
        if message.call:
            self._number_call(message.call)
        known = self._cards.get(message.handle)
        if isinstance(message, m.Connect):
            known = self._new_card(message)
        elif known is None:
            if isinstance(message, m.Disconnect) and not message.call and message.handle <= self._last_handle:
                return  # of a connect that was given up, and has failed
            raise WireError(f"there is no handle {message.handle}")
        elif isinstance(message, m.Disconnect):
            self._forget_card(known[0])
        card, lane = known
        self._jobs += 1
        self._job_bytes += size
        self._grow(budget.CALL + size)
        job = Job(card, message, size)
        if self._telling is not None:
            self._telling.order(job, lane)
        if message.call:
            self._calls[message.call] = job, lane
        lane.put(job)

    def _number_call(self, number: int) -> None:
        if number <= self._last_call:
            raise WireError(f"call {number} was made before")
        self._last_call = number

    def _ask_queue(self, message: m.AskQueue) -> None:
        self._number_call(message.call)
        # Later, so that what the guest has said before has got its place in the queue.
        self._loop.call_soon(self.guarded, partial(self._questions.ask, message))

    def _new_card(self, message: m.Connect) -> tuple[HostCard, Lane]:
        lane = self._lanes.get(message.context)
        if lane is None:
            raise WireError(f"there is no context {message.context}")
        if message.handle <= self._last_handle:
            raise WireError(f"handle {message.handle} was used before")
        if len(self._cards) >= self._host.limits.handles:
            raise WireError(f"more than {self._host.limits.handles} handles")
        self._last_handle = message.handle
        self._grow(budget.HANDLE)
        ahead = RunAhead() if lane.accelerate else None
        reader = m.name_of(message.reader)
        card = HostCard(message.handle, reader, lane.context, ShareMode(message.share), ahead)
        card.time = self._loop.time
        card.asks_reader = lane.accelerate and self._far and not self._host.knows(self.principal, reader)
        lane.cards.add(card)
        self._cards[message.handle] = card, lane
        self._on_reader.setdefault(card.reader, set()).add(card)
        return card, lane

    def _not_on_reader(self, card: HostCard) -> None:
        cards = self._on_reader.get(card.reader)
        if cards is not None:
            cards.discard(card)
            if not cards:
                del self._on_reader[card.reader]

    def _own_handles(self, reader: str) -> int:
        cards = self._on_reader.get(reader, ())
        return sum(card.counted for card in cards) if len(cards) <= _MOST_COUNTED else 0

    def _unsettled_handles(self, reader: str) -> int:
        cards = self._on_reader.get(reader, ())
        return sum(card.unsettled for card in cards) if len(cards) <= _MOST_COUNTED else 0

    @property
    def _far(self) -> bool:
        return (self.channel.session.round_trip or 0.0) > NEAR

    def _forget_card(self, card: HostCard) -> None:
        known = self._cards.pop(card.handle, None)
        card.dismissed = True
        if known is not None:
            known[1].cards.discard(card)
            if card.ahead is not None:
                card.ahead.stop()
                self._hits += card.ahead.hits
                self._waste += card.ahead.waste

    def _remember(self, message: m.Remember) -> None:
        memories = self._host.memories
        if memories is None or self._telling is not None:
            raise WireError("memory was not offered, or is asked for again")
        self._telling = Telling(
            memories, self.principal, self._manager, self._post_news, lambda: self.channel.full or self.channel.ended
        )
        self._telling.begin()

    def _post_news(self, message: m.FromHost) -> None:
        if not self.channel.ended:
            self._post(message)

    def _used(self, message: m.Used) -> None:
        known = self._cards.get(message.handle)
        if known is None:
            raise WireError(f"there is no handle {message.handle}")
        card = known[0]
        if card.ahead is not None and card.origin == message.origin:
            card.ahead.used(message.count)

    _HANDLERS: ClassVar[dict[type, Callable[..., None]]] = {
        m.Open: _open,
        m.Close: _close,
        m.Cancel: _cancel,
        m.Used: _used,
        m.Remember: _remember,
        m.Introduce: lambda session, message: session.direct.asked(message),
        m.AskQueue: _ask_queue,
    }

    # LaneOwner

    async def open_context(self, caller: Caller, patience: float | None) -> Context:
        """Open a context of the manager."""
        return await self._manager.open(caller, patience)

    @property
    def full(self) -> bool:
        """Whether answers must wait for `drain`."""
        return self.channel.session.full

    async def let_pass(self, job: Job, until: float | None) -> None:
        """Wait for what the guest has believed before, through other contexts."""
        if self._telling is not None:
            await self._telling.let_pass(job, until)

    @property
    def gone(self) -> bool:
        """Whether the session is over."""
        return self.channel.ended

    async def drain(self) -> None:
        """Wait until an answer can be sent."""
        await self.channel.drain()

    def fault(self) -> None:
        """An error of ours, which was logged: it ends the session."""
        self.channel.fault()

    def guarded(self, call: Callable[[], None]) -> None:
        """Call; an error of ours ends the session, and nothing else."""
        try:
            call()
        except Exception:  # the boundary that `cardferry.link.channel` describes
            log.exception("%s: a bug behind its session", self.guest)
            self.fault()

    def left(self, cards: Collection[HostCard]) -> None:
        """A context is closed, and nothing of it is left, nor of these handles."""
        for card in cards:
            self._not_on_reader(card)
        if cards:
            self._readers.own_changed()
            self.readers_changed()
        self._contexts -= 1
        if not self._contexts and self.channel.ended:
            self._host.budget.close(self)

    def _call_ended(self, job: Job, *, refuted: bool = False) -> None:
        self._jobs -= 1
        self._job_bytes -= job.size
        self._calls.pop(job.message.call, None)
        card, message = job.card, job.message
        if not message.call and isinstance(message, m.Transmit) and self._telling is not None:
            self._telling.carried_out(card.reader, refuted=refuted)
        if not isinstance(message, _COMING_OR_GOING):
            return
        if message.call and card.card is None:
            self._forget_card(card)
        if card.handle not in self._cards:
            self._not_on_reader(card)
        self._readers.own_changed()
        self.readers_changed()

    def done(self, job: Job, result: Any) -> None:
        """A call has been carried out."""
        self._call_ended(job)
        card = job.card
        if card.learnt:
            for about, key, known in card.learnt:
                self._learn(card.reader, about, key, known)
            card.learnt.clear()
        message = job.message
        call = message.call
        if not call or self.channel.ended:
            return
        data: bytes = result if isinstance(result, bytes) else b""
        if len(data) > MAX_APDU_SIZE:
            answer = m.Answer(call, ReturnCode.E_INSUFFICIENT_BUFFER)
        elif isinstance(message, m.Transmit):
            answer = m.Answer(call, 0, data, 0, card.foresee(message, data, self.channel.session.round_trip))
        else:
            answer = m.Answer(call, 0, data, int(result) if isinstance(result, Protocol) else 0)
            if isinstance(message, m.Control) and not message.data:
                self._learn(card.reader, About.CONTROL, message.code, Known(0, data))
            elif isinstance(message, m.Attribute):
                self._learn(card.reader, About.ATTRIBUTE, message.attribute, Known(0, data))
        if self._telling is not None and isinstance(message, _MOVING):
            answer = self._telling.with_state(card.reader, answer)
        self._tell_urgent_news()
        # A response leaves at once: somebody waits for it, and the card may be waiting for what comes of it.
        self._post(answer, now=isinstance(message, m.Transmit))

    def failed(self, job: Job, error: PcscError) -> None:
        """A call has failed, or was refused."""
        self._call_ended(job, refuted=True)
        if self.channel.ended:
            return
        message, card = job.message, job.card
        log.debug("%s: %s: %s", self.guest, type(message).__name__, error)
        if error.code is ReturnCode.E_UNSUPPORTED_FEATURE:
            match message:
                case m.Control() if not message.data:
                    self._learn(card.reader, About.CONTROL, message.code, Known(error.code, b""))
                case m.Attribute():
                    self._learn(card.reader, About.ATTRIBUTE, message.attribute, Known(error.code, b""))
                case _:
                    pass
        if message.call:
            self._tell_urgent_news()
            self._post(m.Answer(message.call, error.code))
        elif isinstance(message, _UNSEEN) and card.broken is not None and card.handle in self._cards:
            self._tell_urgent_news()
            self._post(m.Failed(card.handle, card.broken.code))

    def ran_ahead(self, ahead: m.Ahead) -> None:
        """A command that was foreseen has been carried out, or not."""
        if not self.channel.ended:
            self._tell_urgent_news()
            self._post(ahead)

    # what the guest is told

    def _learn(self, reader: str, about: About, key: int, known: Known) -> None:
        self._host.learn(self.principal, reader, about, key, known)

    def tell_fact(self, reader: str, about: About, key: int, known: Known) -> None:
        """The host has learnt something about a reader."""
        if self._readers.begun and not self.channel.ended:
            self._tell_urgent_news()
            self._post(m.Fact(m.packed_name(reader), about, key, known.code, known.value))

    def readers_changed(self) -> None:
        """The manager has a new snapshot."""
        if not self._readers.begun or self.channel.ended or self.channel.end is None:
            return
        if self.channel.full:
            if not self._news_waits:
                self._news_waits = True
                self._host.start(self._tell_when_drained())
        elif self._readers.urgent(self._manager.snapshot):
            self._tell_readers()
        else:
            self._tell_later()

    def _tell_later(self) -> None:
        snapshot, pause = self._manager.snapshot, self._host.use_pause
        due = self._readers.due(snapshot, self._host.manager.snapshot, self._loop.time(), pause)
        if self._readers_timer is not None:
            if self._readers_due <= due:
                return
            self._readers_timer.cancel()
        self._readers_due = due
        self._readers_timer = self._loop.call_at(due, self.guarded, self._tell_readers)

    async def _tell_when_drained(self) -> None:
        await self.channel.drain()
        self._news_waits = False
        self.guarded(self._tell_readers)

    def _tell_urgent_news(self) -> None:
        if self._readers.urgent(self._manager.snapshot):
            self._tell_readers()

    def _tell_readers(self) -> None:
        if self._readers_timer is not None:
            self._readers_timer.cancel()
            self._readers_timer = None
        if self.channel.ended:
            return
        news = self._readers.news(self._manager.snapshot, self._loop.time())
        if news is not None:
            self._post(news)

    def _post(self, message: m.FromHost, *, now: bool = False) -> None:
        """Say it at the end of this pass of the event loop, or now."""
        payload = m.encode(message)
        self._grow(len(payload) + budget.MESSAGE)
        try:
            if now:
                self.channel.send(payload, urgent=True)
            else:
                self.channel.post(payload)
        except SessionOverflowError as error:
            self._loop.call_soon(self.channel.breach, error)

    # memory

    def _grow(self, size: int) -> None:
        """So many bytes may be kept for the guest from now on."""
        self._growth += size
        if self._growth >= budget.STEP:
            self._growth = 0
            self._host.budget.update(self)

    @property
    def memory(self) -> int:
        """Bytes that are kept for the guest, about."""
        messages, message_bytes = self.channel.session.kept
        return (
            (message_bytes + messages * budget.MESSAGE)
            + (self._job_bytes + self._jobs * budget.CALL)
            + (len(self._cards) * budget.HANDLE + self._contexts * budget.CONTEXT)
            + self.channel.unread
        )

    def exceeded(self, most: int) -> None:
        """All guests together keep more than ``most`` bytes, and this one most of it."""
        text = f"the host keeps {most >> 20} MiB for all guests together, and had to keep most for this one"
        self._loop.call_soon(self.channel.breach, SessionOverflowError(text))

    # status

    @property
    def status(self) -> HostSessionStatus:
        """How it goes."""
        channel, session = self.channel, self.channel.session
        accelerators = [card.ahead for card, _ in self._cards.values() if card.ahead is not None]
        return HostSessionStatus(
            principal=str(self.principal),
            guest=self.guest,
            software=session.peer.software if session.peer else "",
            connected=channel.end is not None,
            round_trip=session.round_trip,
            contexts=len(self._lanes),
            handles=len(self._cards),
            waiting=self._jobs,
            messages_sent=channel.messages_sent,
            messages_received=channel.messages_received,
            bytes_sent=channel.bytes_sent,
            bytes_received=channel.bytes_received,
            resumes=session.resumes,
            ahead_hits=self._hits + sum(ahead.hits for ahead in accelerators),
            ahead_waste=self._waste + sum(ahead.waste for ahead in accelerators),
            believed=self._telling.believed if self._telling is not None else 0,
            refuted=self._telling.refuted if self._telling is not None else 0,
            direct=self.direct.used,
        )
