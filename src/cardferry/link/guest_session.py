"""One session of a guest with its host: calls that wait for answers, and handles that must hear of what happens.

When the session is over, everything in it is dead: waiting calls end with `GONE`, and so does every later call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Final

from cardferry.link import messages as m
from cardferry.link.channel import Channel
from cardferry.link.facts import About, Facts, Known
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.wire.errors import WireError
from cardferry.wire.link.greeting import Bye
from cardferry.wire.link.session import Session, SessionOverflowError

if TYPE_CHECKING:
    from cardferry.link.guest import Guest
    from cardferry.link.guest_card import GuestCard

log = logging.getLogger(__name__)

#: What a program gets when the link was away for longer than ``grace``: its reader is not available any more.
GONE: Final = ReturnCode.E_READER_UNAVAILABLE


#: How often handles on a reader were marked: as the host counts (`ReaderState.marks`), and by ourselves.
Marks = tuple[int, int]


class _Waiting:
    """A call whose answer a task waits for."""

    __slots__ = ("answered", "card", "size")

    def __init__(self, size: int, card: GuestCard | None) -> None:
        self.size = size
        self.answered: asyncio.Future[m.Answer] = asyncio.get_running_loop().create_future()
        self.card = card

    def end(self, answer: m.Answer) -> None:
        """The answer has come."""
        if not self.answered.done():
            self.answered.set_result(answer)
            if self.card is not None and answer.foreseen is not None:
                self.card.promised(answer.call, answer.foreseen)

    def fail(self, error: PcscError) -> None:
        """None will come."""
        if not self.answered.done():
            self.answered.set_exception(error)


#: Takes the answer to a call, which may be an error, or why there is none.
Take = Callable[[m.Answer | None, PcscError | None], None]


class _Taking:
    """A call whose answer is taken without a task."""

    __slots__ = ("_take", "size")

    def __init__(self, size: int, take: Take) -> None:
        self.size = size
        self._take = take

    def end(self, answer: m.Answer) -> None:
        self._take(answer, None)

    def fail(self, error: PcscError) -> None:
        self._take(None, error)


class GuestSession:
    """See the module, and `cardferry.link.channel.ChannelOwner`.

    Args:
        guest: what outlives sessions.
        session: the machine.

    Attributes:
        facts: what the readers always say.
        cards: handles by number.
        contexts, handles: how many are open at the host, or about to be.
        unseen: calls sent without waiting of which it is not known whether the host has carried them out.
        dead: whether the session is over.
    """

    def __init__(self, guest: Guest, session: Session) -> None:
        self.channel = Channel(session, self)
        self.facts = Facts()
        self.cards: dict[int, GuestCard] = {}
        self.contexts = self.handles = 0
        self.unseen = 0
        self.dead = False
        self.bye: Bye | None = None
        self._guest = guest
        self._welcome: m.Welcome | None = None
        #: By reader: handles that may have the card, or have asked for it, or are resetting it; and our own marks.
        self._in_the_way: dict[str, set[GuestCard]] = {}
        self._marks: dict[str, int] = {}
        self._calls: dict[int, _Waiting | _Taking] = {}
        self._call_bytes = 0
        self._last_call = self._last_context = self._last_handle = 0

    # ChannelOwner

    def together(self) -> None:
        """The host is there."""
        self._guest.together(self)

    def apart(self, error: Exception | None) -> None:
        """The host is out of reach: calls wait."""
        self._guest.apart(self, error)

    def over(self, bye: Bye) -> None:
        """The session is over: so are its calls and handles."""
        self.dead = True
        self.bye = bye
        calls = tuple(self._calls.values())
        self._calls.clear()
        self._call_bytes = 0
        for pending in calls:
            pending.fail(PcscError(GONE, bye.text or "the link is closed"))
        for card in self.cards.values():
            card.session_over()
        self.cards.clear()
        self._guest.over(self)

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
        state = self._guest.readers.find(reader)
        return None if state is None or state.marks is None else (state.marks, self._marks.get(reader, 0))

    def mark(self, reader: str) -> None:
        """The card will be reset, and the host's word of it is not waited for: all handles must ask the host."""
        self._marks[reader] = self._marks.get(reader, 0) + 1

    def in_the_way(self, card: GuestCard, reader: str, whether: bool) -> None:
        """Whether that handle may have the card, or has asked for it, or is resetting it."""
        if whether:
            self._in_the_way.setdefault(reader, set()).add(card)
        elif (cards := self._in_the_way.get(reader)) is not None:
            cards.discard(card)
            if not cards:
                del self._in_the_way[reader]

    def contended(self, card: GuestCard, reader: str) -> bool:
        """Whether somebody else may be in the way of that handle: any handle of others, or one of ours that is busy."""
        ours = self._in_the_way.get(reader, ())
        return self._guest.readers.others(reader) > 0 or len(ours) > (card in ours)

    def busy(self, reader: str, but: set[GuestCard]) -> bool:
        """Whether a handle of ours may have the card, has asked for it, or is resetting it; except those."""
        return not self._in_the_way.get(reader, set()) <= but

    # calls

    @property
    def welcome(self) -> m.Welcome:
        """What the host allows."""
        if self._welcome is None:
            raise PcscError(GONE, "the host is not there yet")
        return self._welcome

    def new_context(self) -> int:
        """The number of a new context. Raises ``E_NO_MEMORY`` when the host allows no more."""
        if self.contexts >= self.welcome.contexts:
            raise PcscError(ReturnCode.E_NO_MEMORY, f"the host allows {self.welcome.contexts} contexts")
        self.contexts += 1
        self._last_context += 1
        return self._last_context

    def new_handle(self) -> int:
        """The number of a new handle. Raises ``E_NO_MEMORY`` when the host allows no more."""
        if self.handles >= self.welcome.handles:
            raise PcscError(ReturnCode.E_NO_MEMORY, f"the host allows {self.welcome.handles} handles")
        self.handles += 1
        self._last_handle += 1
        return self._last_handle

    @property
    def crowded(self) -> bool:
        """Whether to wait until `ready` before anything is said."""
        return self.dead or self.channel.session.full

    async def ready(self) -> None:
        """Wait until there is room for another message. Raises `GONE` when the session is over."""
        await self.channel.room()
        if self.dead:
            raise PcscError(GONE, "the link was away for too long")

    def tell(self, message: m.FromGuest, *, soon: bool = False) -> None:
        """Say something that nothing answers; ask `ready` before.

        Args:
            message: what.
            soon: not to wait a moment for company, because others may be waiting for what it gives back.
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

    async def ask(self, make: m.MakeCall, size: int = 0, card: GuestCard | None = None) -> m.Answer:
        """Make a call and wait for its answer, however often the pipe breaks meanwhile. Ask `ready` before.

        Args:
            make: makes the message.
            size: bytes of the command.
            card: whom to tell what the host foresees. At once, because it may come in the same piece as the answer.

        Raises:
            PcscError: the call has failed; `GONE` when the session ended before the answer came.
        """
        if not self._allows(size):
            raise PcscError(ReturnCode.E_NO_MEMORY, "too many calls at the same time")
        self._last_call += 1
        call = self._last_call
        pending = self._calls[call] = _Waiting(size, card)
        self._call_bytes += size
        self._guest.counters.round_trips += 1
        self._send(make(call), urgent=True)
        try:
            answer = await pending.answered
        except asyncio.CancelledError:
            if not self.dead:
                self._send(m.Cancel(call), urgent=True)
            raise
        finally:
            self._ended(call)
        if answer.code:
            raise PcscError(answer.code, "the host says")
        return answer

    def _ended(self, call: int) -> _Waiting | _Taking | None:
        """A call that has ended, unless that was known."""
        pending = self._calls.pop(call, None)
        if pending is not None:
            self._call_bytes -= pending.size
        return pending

    def _allows(self, size: int) -> bool:
        """Whether the host allows another call, with a command of so many bytes."""
        welcome = self.welcome
        return len(self._calls) + self.unseen < welcome.calls and self._call_bytes + size <= welcome.call_bytes

    def transmit_at_once(self, handle: int, apdu: bytes, protocol: int, take: Take) -> bool:
        """Send a command; ``take``, which must not raise, gets the answer later. False: it cannot leave now."""
        size = len(apdu)
        if self.dead or self.channel.session.full or not self._allows(size):
            return False
        self._last_call = call = self._last_call + 1
        self._calls[call] = _Taking(size, take)
        self._call_bytes += size
        self._guest.counters.round_trips += 1
        self._send(m.Transmit(call, handle, apdu, protocol), urgent=True)
        return True

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

    def _readers(self, message: m.Readers) -> None:
        if self._guest.readers.receive(message):
            self.facts.forget()
        self._guest.readers_changed()

    def _fact(self, message: m.Fact) -> None:
        self.facts.learn(message.reader, About(message.about), message.key, Known(message.code, message.value))

    def _answer(self, message: m.Answer) -> None:
        pending = self._ended(message.call)
        if pending is not None:
            pending.end(message)
        elif message.call > self._last_call:
            raise WireError(f"an answer came to call {message.call}, which was never made")

    def _ahead(self, message: m.Ahead) -> None:
        card = self.cards.get(message.handle)
        if card is not None:
            card.foreseen.came(message)

    def _failed(self, message: m.Failed) -> None:
        card = self.cards.get(message.handle)
        if card is not None:
            card.failed(message.code)

    _HANDLERS: ClassVar[dict[type, Callable[..., None]]] = {
        m.Welcome: _welcomed,
        m.Readers: _readers,
        m.Fact: _fact,
        m.Answer: _answer,
        m.Ahead: _ahead,
        m.Failed: _failed,
    }
