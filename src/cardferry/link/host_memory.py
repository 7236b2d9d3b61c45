"""The host's end of the memory: what is remembered of all cards, who is told, and the order of what guests believe.

`Memories` belongs to a resource manager, which feeds it (`Memories.watch`), and to the `LinkServer` that serves the
manager. `Telling` is what one guest is told; `Ghosts` keeps what programs have believed, and the host has not carried
out, ahead of everything that the same guest sends afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

from cardferry.link import messages as m
from cardferry.link.host_queue import Job
from cardferry.link.memory import CardMemory, Recollection
from cardferry.pcsc.caller import Principal
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.interface import ResourceManager
from cardferry.pcsc.reply import Reply, within

#: Bytes of answers in one message, about.
_PORTION: Final = 16 * 1024
#: Believed commands that were carried out until the guest hears of it; s after which it hears of fewer.
_SOME: Final = 16
_SOON: Final = 0.05
#: s until a guest that has believed something wrong hears again what is remembered.
_ANEW: Final = 1.0
#: Calls that use the card.
_USING: Final = (m.Begin, m.Transmit, m.Control, m.Reconnect)


class Memories:
    """The memories of all cards of one resource manager."""

    def __init__(self) -> None:
        self._cards: dict[str, CardMemory] = {}
        self._listeners: set[Telling] = set()

    def watch(self, reader: str) -> CardMemory:
        """A reader has come: what feeds its memory."""
        memory = self._cards[reader] = CardMemory(reader, self)
        return memory

    def find(self, reader: str) -> CardMemory | None:
        """What is remembered of the card in that reader."""
        return self._cards.get(reader)

    @property
    def size(self) -> int:
        """Bytes that are remembered."""
        return sum(memory.size for memory in self._cards.values())

    def tell_anew(self) -> None:
        """Who may know what has changed: guests forget everything, and hear again what they may know."""
        for listener in self._listeners:
            for reader in self._cards:
                listener.start_anew(reader)

    def join(self, listener: Telling) -> None:
        """Tell somebody from now on."""
        self._listeners.add(listener)

    def leave(self, listener: Telling) -> None:
        """And not any more."""
        self._listeners.discard(listener)

    def __iter__(self) -> Iterator[tuple[str, CardMemory]]:
        return iter(self._cards.items())

    # Listener

    def learnt(self, reader: str, what: Recollection) -> None:
        """This can be believed."""
        for listener in self._listeners:
            listener.learnt(reader, what)

    def forgotten(self, reader: str, numbers: list[int] | None) -> None:
        """These cannot be believed any more; None: nothing can."""
        for listener in self._listeners:
            listener.forgotten(reader, numbers)


class Telling:
    """What one guest is told of the memory, and what it believes.

    Args:
        memories: what is remembered.
        principal: who the guest is.
        manager: what the guest sees, see `ResourceManager.seen_by`.
        post: says something to it.
        full: whether it does not keep up.

    Attributes:
        believed: commands that it has believed, as far as they are carried out or have failed.
        refuted: those of them that the card has answered otherwise, or not at all.
    """

    def __init__(
        self,
        memories: Memories,
        principal: Principal,
        manager: ResourceManager,
        post: Callable[[m.FromHost], None],
        full: Callable[[], bool],
    ) -> None:
        self.believed = self.refuted = 0
        self._memories = memories
        self._principal = principal
        self._manager = manager
        self._post = post
        self._full = full
        self._loop = asyncio.get_running_loop()
        self._ghosts: dict[str, Ghosts] = {}
        self._told = 0
        self._timer: asyncio.TimerHandle | None = None
        #: Readers of which the guest has to forget everything, and hears again what it may know.
        self._anew: set[str] = set()
        self._again: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Tell everything that is remembered now, and what is learnt from now on."""
        self._memories.join(self)
        for reader, memory in self._memories:
            self._tell_all(reader, memory)

    def _tell_all(self, reader: str, memory: CardMemory) -> None:
        portion: list[m.Recollected] = []
        size = 0
        for what in memory.recollections():
            if self._may_know(reader, what):
                portion.append(_recollected(what))
                size += what.size
            if size >= _PORTION:
                self._post(m.Learnt(m.packed_name(reader), portion))
                portion, size = [], 0
        if portion:
            self._post(m.Learnt(m.packed_name(reader), portion))

    def end(self) -> None:
        """The session is over."""
        self._memories.leave(self)
        for timer in (self._timer, self._again):
            if timer is not None:
                timer.cancel()

    def _may_know(self, reader: str, what: Recollection) -> bool:
        return (
            what.bound in (None, self._principal)
            and self._offered(reader)
            and self._manager.may_read(reader, what.applications, what.command)
        )

    def _offered(self, reader: str) -> bool:
        return self._manager.snapshot.find(reader) is not None

    # Listener

    def learnt(self, reader: str, what: Recollection) -> None:
        """This can be believed. A guest that does not keep up does without it."""
        if not self._full() and self._may_know(reader, what):
            self._post(m.Learnt(m.packed_name(reader), [_recollected(what)]))

    def forgotten(self, reader: str, numbers: list[int] | None) -> None:
        """These cannot be believed any more."""
        if self._offered(reader):
            self._post(m.Forgotten(m.packed_name(reader), numbers))

    def start_anew(self, reader: str) -> None:
        """Have the guest forget everything about a card, and tell it soon again what it may know."""
        self._post(m.Forgotten(m.packed_name(reader), None))
        if not self._anew:
            self._again = self._loop.call_later(_ANEW, self._tell_anew)
        self._anew.add(reader)

    def _tell_anew(self) -> None:
        for reader in self._anew:
            memory = self._memories.find(reader)
            if memory is not None and not self._full():
                self._tell_all(reader, memory)
        self._anew.clear()

    def with_state(self, reader: str, answer: m.Answer) -> m.Answer:
        """The same answer, with where the card stands now.

        Not while somebody else has PINs verified: before this principal's next command these are locked
        (`cardferry.policy.guard`), and nobody knows yet in which way.
        """
        memory = self._memories.find(reader)
        if memory is None or not memory.state or memory.unlocked_by_another(self._principal):
            return answer
        where = memory.state, memory.level, memory.either
        return m.Answer(answer.call, answer.code, answer.data, answer.protocol, answer.foreseen, *where)

    # what the guest believes

    def order(self, job: Job, context: object) -> None:
        """A call comes through a context: behind what other contexts have believed before."""
        message, reader = job.message, job.card.reader
        if not isinstance(message, _USING):
            return
        ghosts = self._ghosts.get(reader)
        if ghosts is not None:
            job.behind = ghosts.before(context)
        if isinstance(message, m.Transmit) and not message.call:
            job.card.believes = True
            if ghosts is None:
                ghosts = self._ghosts[reader] = Ghosts()
            ghosts.come(context)

    async def let_pass(self, job: Job, until: float | None) -> None:
        """Wait until its turn has come; ``E_SHARING_VIOLATION`` when that is not so by then (the loop's clock)."""
        ghosts = self._ghosts[job.card.reader]
        if ghosts.over(job.behind):
            return
        try:
            await within(ghosts.wait(job.behind), until)
        except TimeoutError:
            raise PcscError(ReturnCode.E_SHARING_VIOLATION, "behind commands that were believed") from None

    def carried_out(self, reader: str, *, refuted: bool) -> None:
        """A command that it has believed is done with."""
        if reader in self._ghosts:
            self._ghosts[reader].done()
        self.believed += 1
        self.refuted += refuted
        if refuted:
            self.start_anew(reader)  # perhaps it may not read that any more, and the card was not asked
        if self.believed - self._told >= _SOME:
            self._confirm()
        elif self._timer is None:
            self._timer = self._loop.call_later(_SOON, self._confirm)

    def _confirm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._told = self.believed
        self._post(m.Confirmed(self.believed, self.refuted))


def _recollected(what: Recollection) -> m.Recollected:
    return m.Recollected(what.number, what.where, what.key, what.answer, what.next)


class Ghosts:
    """What one guest has believed about one reader, in the order in which it was sent, through whatever context.

    Programs that only read may have ended before the card has done what they have asked. What the guest sends to the
    card after that waits here, or it would meet commands of programs that are not there any more.
    """

    __slots__ = ("_come", "_done", "_last", "_waiting")

    def __init__(self) -> None:
        self._come = self._done = 0
        #: Through which context the last one came.
        self._last: object = None
        self._waiting: list[tuple[int, Reply[None]]] = []

    def come(self, context: object) -> None:
        """A command that was believed comes through a context."""
        self._come += 1
        self._last = context

    def before(self, context: object) -> int:
        """What to `wait` for before anything that comes through this context now is done; 0 for nothing."""
        return self._come if self._done < self._come and self._last is not context else 0

    def done(self) -> None:
        """One is done with."""
        self._done += 1
        if self._waiting:
            ready = [reply for number, reply in self._waiting if number <= self._done]
            self._waiting = [(number, reply) for number, reply in self._waiting if number > self._done]
            for reply in ready:
                if not reply.done():
                    reply.resolve(None)

    def over(self, number: int) -> bool:
        """Whether that many are done with."""
        return self._done >= number

    def wait(self, number: int) -> Reply[None]:
        """Wait until it is so."""
        reply: Reply[None] = Reply()
        self._waiting.append((number, reply))
        return reply
