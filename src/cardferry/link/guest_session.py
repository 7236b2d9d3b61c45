"""One session of a guest with its host: calls that wait for answers, and handles that must hear of what happens.

When the session is over, everything in it is dead: waiting calls end with `GONE`, and so does every later call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

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


class _Pending(NamedTuple):
    answered: asyncio.Future[m.Answer]
    card: GuestCard | None


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
        self._calls: dict[int, _Pending] = {}
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
        for pending in self._calls.values():
            if not pending.answered.done():
                pending.answered.set_exception(PcscError(GONE, bye.text or "the link is closed"))
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

    def tell(self, message: m.FromGuest) -> None:
        """Say something that nothing answers; it may wait a moment for company. Ask `ready` before."""
        if not self.dead:
            self._send(message, urgent=False)

    async def ask(self, make: m.MakeCall, size: int = 0, card: GuestCard | None = None) -> m.Answer:
        """Make a call and wait for its answer, however often the pipe breaks meanwhile. Ask `ready` before.

        Args:
            make: makes the message.
            size: bytes of the command.
            card: whom to tell what the host foresees. At once, because it may come in the same piece as the answer.

        Raises:
            PcscError: the call has failed; `GONE` when the session ended before the answer came.
        """
        welcome = self.welcome
        if len(self._calls) + self.unseen >= welcome.calls or self._call_bytes + size > welcome.call_bytes:
            raise PcscError(ReturnCode.E_NO_MEMORY, "too many calls at the same time")
        self._last_call += 1
        call = self._last_call
        answered: asyncio.Future[m.Answer] = asyncio.get_running_loop().create_future()
        self._calls[call] = _Pending(answered, card)
        self._call_bytes += size
        counters = self._guest.counters
        counters.round_trips += 1
        self._send(make(call), urgent=True)
        try:
            answer = await answered
        except asyncio.CancelledError:
            if not self.dead:
                self._send(m.Cancel(call), urgent=True)
            raise
        finally:
            self._calls.pop(call, None)
            self._call_bytes -= size
        if answer.code:
            raise PcscError(answer.code, "the host says")
        return answer

    def _send(self, message: m.FromGuest, *, urgent: bool) -> None:
        try:
            self.channel.send(m.encode(message), urgent=urgent)
        except SessionOverflowError as error:
            self.channel.breach(error)

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
        pending = self._calls.get(message.call)
        if pending is not None:
            if not pending.answered.done():
                pending.answered.set_result(message)
                if pending.card is not None and message.foreseen is not None:
                    pending.card.promised(message.call, message.foreseen)
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
