"""One session of a guest with its host: calls that wait for answers, and handles that must hear of what happens.

When the session is over, everything in it is dead: waiting calls end with `GONE`, and so does every later call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final, TypeVar
from typing import Protocol as Interface

from cardferry.link import messages as m
from cardferry.link.channel import Channel
from cardferry.link.facts import About, Known, ReaderFacts
from cardferry.link.guest_foreseen import Foreseen
from cardferry.link.guest_memory import GuestMemory
from cardferry.link.guest_readers import ReadersReceiver
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.reader_state import Queue, presumed
from cardferry.pcsc.reply import Reply, answered, failed
from cardferry.wire.errors import WireError
from cardferry.wire.link.greeting import Bye
from cardferry.wire.link.session import Session, SessionOverflowError

log = logging.getLogger(__name__)

T = TypeVar("T")

#: What a program gets when the link was away for longer than ``grace``: its reader is not available any more.
GONE: Final = ReturnCode.E_READER_UNAVAILABLE
#: How often handles on a reader were marked: as the host counts (`ReaderState.marks`), and by ourselves.
Marks = tuple[int, int]


@dataclass(slots=True)
class Counters:
    """What was done since the beginning.

    Attributes:
        round_trips: calls that waited for the host.
        pipelined: calls that were sent without waiting.
        local: calls that were answered without asking.
        hits, waste: responses that came ahead, and were used or not.
        believed, confirmed, refuted: commands that were answered from memory; those of them of which the host says that
            the card has answered the same, or not.
        held: bytes of memory now.
    """

    round_trips: int = 0
    pipelined: int = 0
    local: int = 0
    hits: int = 0
    waste: int = 0
    believed: int = 0
    confirmed: int = 0
    refuted: int = 0
    held: int = 0

    def account(self, foreseen: Foreseen) -> None:
        """Add up what running ahead has brought for a handle."""
        self.hits += foreseen.hits
        self.waste += foreseen.waste
        foreseen.hits = foreseen.waste = 0


class SessionOwner(Interface):
    """What outlives sessions.

    Attributes:
        counters: see `Counters`.
        readers: what is known of the readers.
        remember: whether to believe what cards have said before.
    """

    counters: Counters
    readers: ReadersReceiver
    remember: bool

    def connected(self, session: GuestSession) -> None:
        """The host is there."""
        ...

    def disconnected(self, session: GuestSession, error: Exception | None) -> None:
        """The pipe is gone."""
        ...

    def returned(self, session: GuestSession, error: Exception | None) -> None:
        """The pipe is gone, and the session has gone back to the spare one."""
        ...

    def ended(self, session: GuestSession) -> None:
        """The session is over."""
        ...

    def readers_changed(self) -> None:
        """The snapshot is a new one."""
        ...


class SessionCard(Interface):
    """A handle of the session.

    Attributes:
        foreseen: responses that have come before the program asked for them.
    """

    foreseen: Foreseen

    def failed(self, code: int) -> None:
        """A call has failed that nobody waited for: the next one must hear of it."""
        ...

    def session_over(self) -> None:
        """The session is over."""
        ...


def _for_one(call: Callable[[], None], card: SessionCard | None = None) -> None:
    """Tell one program something: a bug there is logged, and is nobody else's."""
    try:
        call()
    except Exception:
        log.exception("a bug behind what a program is told")
        if card is not None:
            card.failed(ReturnCode.F_INTERNAL_ERROR)


class Call(Reply[T]):
    """A call that the host has not answered yet.

    Args:
        session: in which it is made.
        size: bytes of the command.

    Attributes:
        number: that the session has given it.
    """

    __slots__ = ("number", "session", "size")

    def __init__(self, session: GuestSession, size: int = 0) -> None:
        Reply.__init__(self)
        self.session = session
        self.number = 0
        self.size = size

    def cancel(self, msg: object = None) -> bool:
        """The program has given up: so may the host."""
        _for_one(partial(self.session.given_up, self))
        return super().cancel(msg)

    def answered(self, answer: m.Answer) -> None:
        """The host has carried it out."""
        raise NotImplementedError


class _PlainCall(Call[m.Answer]):
    """A call whose reply is the host's answer as it is."""

    __slots__ = ()

    def answered(self, answer: m.Answer) -> None:
        self.resolve(answer)


class _QueueCall(Call[Queue]):
    """How long is a queue?"""

    __slots__ = ()

    def answered(self, answer: m.Answer) -> None:
        del answer
        self.fail(PcscError(ReturnCode.E_READER_UNAVAILABLE, "the host does not say"))


class GuestSession:
    """See the module, and `cardferry.link.channel.ChannelOwner`.

    Args:
        guest: what outlives sessions.
        session: the machine.

    Attributes:
        facts: what the readers always say.
        memory: what cards have said before, None while the host does not tell.
        counters, readers: as the guest has them.
        unseen: calls sent without waiting of which it is not known whether the host has carried them out.
        dead: whether the session is over.
    """

    def __init__(self, guest: SessionOwner, session: Session) -> None:
        self.channel = Channel(session, self)
        self.counters = guest.counters
        self.readers = guest.readers
        self.facts = ReaderFacts()
        self.memory: GuestMemory | None = None
        #: Open at the host, or about to be. A handle has no card while the host has not answered its connect.
        self._contexts: set[int] = set()
        self._cards: dict[int, SessionCard | None] = {}
        self.unseen = 0
        self.dead = False
        self.bye: Bye | None = None
        self._guest = guest
        self._welcome: m.Welcome | None = None
        self._introduction: asyncio.Future[m.Introduction] | None = None
        #: By reader: handles that may have the card, or have asked for it, or are resetting it; and our own marks.
        self._in_the_way: dict[str, set[SessionCard]] = {}
        self._marks: dict[str, int] = {}
        self._calls: dict[int, Call[Any]] = {}
        self._call_bytes = 0
        self._last_call = self._last_context = self._last_handle = 0

    # ChannelOwner

    def connected(self) -> None:
        """The host is there."""
        self._guest.connected(self)

    def disconnected(self, error: Exception | None) -> None:
        """The host is out of reach: calls wait."""
        self._guest.disconnected(self, error)

    def returned(self, error: Exception | None) -> None:
        """The pipe is gone, and the session has gone back to the spare one."""
        self._guest.returned(self, error)

    def spare_lost(self) -> None:
        """Another one is on its way: whoever waits for the pipe's end has heard."""

    def ended(self, bye: Bye) -> None:
        """The session is over: so are its calls and handles."""
        self.dead = True
        self.bye = bye
        calls = tuple(self._calls.values())
        self._calls.clear()
        self._call_bytes = 0
        for card in self._cards.values():
            if card is not None:
                _for_one(card.session_over)
        self._cards.clear()
        self._contexts.clear()
        self._guest.ended(self)
        if self._introduction is not None and not self._introduction.done():
            self._introduction.set_exception(PcscError(GONE, "the link is closed"))
        for call in calls:
            call.fail(PcscError(GONE, bye.text or "the link is closed"))

    def message(self, payload: bytes) -> None:
        """The host says something.

        Raises:
            WireError: it must not.
        """
        message = m.decode_from_host(payload)
        handler = self._HANDLERS.get(type(message))
        if handler is None:
            raise WireError(f"a host does not say {type(message).__name__}")
        handler(self, message)

    # handles in each other's way

    def marks(self, reader: str) -> Marks | None:
        """What a handle that is in order now can be compared with later; None when nobody counts."""
        state = self.readers.find(reader)
        return None if state is None or state.marks is None else (state.marks, self._marks.get(reader, 0))

    def mark(self, reader: str) -> None:
        """The card will be reset, and the host's word of it is not waited for: all handles must ask the host."""
        self._marks[reader] = self._marks.get(reader, 0) + 1

    def in_the_way(self, card: SessionCard, reader: str, whether: bool) -> None:
        """Whether that handle may have the card, or has asked for it, or is resetting it."""
        if whether:
            self._in_the_way.setdefault(reader, set()).add(card)
        elif (cards := self._in_the_way.get(reader)) is not None:
            cards.discard(card)
            if not cards:
                del self._in_the_way[reader]

    def contended(self, card: SessionCard, reader: str) -> bool:
        """Whether somebody else may be in the way of that handle: any handle of others, or one of ours that is busy."""
        ours = self._in_the_way.get(reader, ())
        return self.readers.others(reader) > 0 or len(ours) > (card in ours)

    def busy(self, reader: str, but: AbstractSet[SessionCard]) -> bool:
        """Whether a handle of ours may have the card, has asked for it, or is resetting it; except those."""
        return not self._in_the_way.get(reader, set()) <= but

    # calls

    @property
    def welcome(self) -> m.Welcome:
        """What the host allows."""
        if self._welcome is None:
            raise PcscError(GONE, "the host is not there yet")
        return self._welcome

    @property
    def welcomed(self) -> bool:
        """Whether the host has said what it allows."""
        return self._welcome is not None

    async def introduce(self, certificate: bytes) -> m.Introduction:
        """Ask for a connection of our own; raises `PcscError` when the session ends before the host has answered."""
        introduction: asyncio.Future[m.Introduction] = asyncio.get_running_loop().create_future()
        self._introduction = introduction
        self._send(m.Introduce(certificate), urgent=True)
        return await introduction

    def open_context(self) -> int:
        """The number of a new context. Raises ``E_NO_MEMORY`` when the host allows no more."""
        if len(self._contexts) >= self.welcome.contexts:
            raise PcscError(ReturnCode.E_NO_MEMORY, f"the host allows {self.welcome.contexts} contexts")
        self._last_context += 1
        self._contexts.add(self._last_context)
        return self._last_context

    def close_context(self, number: int) -> None:
        """A context is closed, with all its handles."""
        if number in self._contexts:
            self._contexts.remove(number)
            self.tell(m.Close(number))

    def open_handle(self) -> int:
        """The number of a new handle. Raises ``E_NO_MEMORY`` when the host allows no more."""
        if len(self._cards) >= self.welcome.handles:
            raise PcscError(ReturnCode.E_NO_MEMORY, f"the host allows {self.welcome.handles} handles")
        self._last_handle += 1
        self._cards[self._last_handle] = None
        return self._last_handle

    def set_card(self, handle: int, card: SessionCard) -> None:
        """The handle has a card, which is told what the host says of it."""
        self._cards[handle] = card

    def close_handle(self, handle: int) -> None:
        """The handle is no more, or could not be connected; its number is not used again."""
        self._cards.pop(handle, None)

    @property
    def full(self) -> bool:
        """Whether to wait until `drain` before anything is said."""
        return self.dead or self.channel.session.full

    async def drain(self) -> None:
        """Wait until there is room for another message. Raises `GONE` when the session is over."""
        await self.channel.drain()
        if self.dead:
            raise PcscError(GONE, "the link was away for too long")

    def tell(self, message: m.FromGuest, *, soon: bool = False) -> None:
        """Say something that nothing answers; ask `drain` before.

        Args:
            message: what.
            soon: do not hold it back, because others may be waiting for what it gives back.
        """
        if self.dead:
            return
        try:
            if soon:
                self.channel.post(m.encode(message))
            else:
                self.channel.send(m.encode(message), urgent=False)
        except SessionOverflowError as error:
            self.channel.breach(error)

    def ask(self, make: m.MakeCall, size: int = 0) -> Reply[m.Answer]:
        """Make a call; its answer comes however often the pipe breaks meanwhile. Ask `drain` before.

        Args:
            make: makes the message.
            size: bytes of the command.

        Returns:
            the answer, or why the call has failed: what the host says, or `GONE` when the session ended before. A reply
            that is cancelled takes the call back, if the host has not begun with it.
        """
        return self.make(_PlainCall(self, size), make)

    def make(self, call: Call[T], make: m.MakeCall) -> Reply[T]:
        """Likewise, for a call that makes something else of its answer."""
        size = call.size
        if not self._allows(size):
            return failed(PcscError(ReturnCode.E_NO_MEMORY, "too many calls at the same time"))
        self._last_call = call.number = number = self._last_call + 1
        self._calls[number] = call
        self._call_bytes += size
        self.counters.round_trips += 1
        self._send(make(number), urgent=True)
        return call

    def queue(self, reader: str) -> Reply[Queue]:
        """How long the queue of that reader is, as its host knows; else as the snapshot has it."""
        if self._welcome is None or not self._welcome.queues:
            state = self.readers.find(reader)
            return failed(PcscError(ReturnCode.E_READER_UNAVAILABLE)) if state is None else answered(presumed(state))
        if self.full:
            return failed(PcscError(ReturnCode.E_READER_UNAVAILABLE, "there is no room for another message"))
        return self.make(_QueueCall(self), lambda call: m.AskQueue(call, m.packed_name(reader)))

    def given_up(self, call: Call[Any]) -> None:
        """Nobody waits for that call any more."""
        if self._calls.pop(call.number, None) is not None:
            self._call_bytes -= call.size
            self._send(m.Cancel(call.number), urgent=True)

    def _allows(self, size: int) -> bool:
        """Whether the host allows another call, with a command of so many bytes."""
        welcome = self.welcome
        unseen = self.unseen if self.memory is None else self.unseen + self.memory.believed - self.memory.confirmed
        return len(self._calls) + unseen < welcome.calls and self._call_bytes + size <= welcome.call_bytes

    def _send(self, message: m.FromGuest, *, urgent: bool) -> None:
        try:
            self.channel.send(m.encode(message), urgent=urgent)
        except SessionOverflowError as error:
            # Later: no call may end before it has begun.
            asyncio.get_running_loop().call_soon(self.channel.breach, error)

    # what the host says

    def _welcomed(self, message: m.Welcome) -> None:
        if self._welcome is not None:
            raise WireError("the host says welcome again")
        self._welcome = message
        if message.memory and self._guest.remember:
            self.memory = GuestMemory()
            self.tell(m.Remember())

    def _readers(self, message: m.Readers) -> None:
        if self.readers.receive(message, asyncio.get_running_loop().time()):
            self.facts.forget()
        if self.memory is not None:
            self._card_may_have_moved(self.memory, message)
        self._guest.readers_changed()

    def _fact(self, message: m.Fact) -> None:
        name = m.name_of(message.reader)
        if self.readers.find(name) is None:
            return  # no more facts than there are readers
        self.facts.learn(name, About(message.about), message.key, Known(message.code, message.value))

    def _answer(self, message: m.Answer) -> None:
        call = self._calls.pop(message.call, None)
        if call is None:
            if message.call > self._last_call:
                raise WireError(f"an answer came to call {message.call}, which was never made")
            return
        self._call_bytes -= call.size
        if message.code:
            call.fail(PcscError(message.code, "the host says"))
        else:
            try:  # as in `_for_one`, which would cost as much as the rest
                call.answered(message)
            except Exception as error:
                log.exception("a bug behind what a program is told")
                call.fail(PcscError(ReturnCode.F_INTERNAL_ERROR, repr(error)))

    def _introduced(self, message: m.Introduction) -> None:
        if self._introduction is None:
            raise WireError("the host introduces whom nobody has asked for")
        if not self._introduction.done():
            self._introduction.set_result(message)

    def _queue_length(self, message: m.QueueLength) -> None:
        call = self._calls.get(message.call)
        if not isinstance(call, _QueueCall):
            if call is not None or message.call > self._last_call:
                raise WireError(f"call {message.call} did not ask for a queue")
            return
        del self._calls[message.call]
        if message.busy is None:
            call.fail(PcscError(ReturnCode.E_READER_UNAVAILABLE, "the host does not know"))
        else:
            call.resolve(Queue(message.busy, message.handles))

    def _ahead(self, message: m.Ahead) -> None:
        card = self._cards.get(message.handle)
        if card is not None:
            _for_one(partial(card.foreseen.came, message), card)

    def _failed(self, message: m.Failed) -> None:
        card = self._cards.get(message.handle)
        if card is not None:
            _for_one(partial(card.failed, message.code))

    # what cards have said before

    def _card_may_have_moved(self, memory: GuestMemory, news: m.Readers) -> None:
        """Others may have used a card, or somebody has reset it: where it stands is not known any more."""
        for entry in news.changed:
            name = m.name_of(entry.name)
            memory.news(name, entry.marks, shared=bool(entry.others) and name not in self._in_the_way)
        if news.names is not None:
            memory.only({m.name_of(name) for name in news.names})

    def _told(self, memory: Callable[[GuestMemory], None]) -> None:
        if self.memory is None:
            raise WireError("the host tells what was not asked for")
        memory(self.memory)
        self.counters.held = self.memory.size

    def _learnt(self, message: m.Learnt) -> None:
        self._told(lambda memory: memory.learnt(m.name_of(message.reader), message.what))

    def _forgotten(self, message: m.Forgotten) -> None:
        self._told(lambda memory: memory.forgotten(m.name_of(message.reader), message.numbers))

    def _confirmed(self, message: m.Confirmed) -> None:
        self._told(lambda memory: memory.done(message, self.counters))

    _HANDLERS: ClassVar[dict[type, Callable[..., None]]] = {
        m.Learnt: _learnt,
        m.Forgotten: _forgotten,
        m.Confirmed: _confirmed,
        m.Introduction: _introduced,
        m.Welcome: _welcomed,
        m.Readers: _readers,
        m.Fact: _fact,
        m.Answer: _answer,
        m.Ahead: _ahead,
        m.Failed: _failed,
        m.QueueLength: _queue_length,
    }
