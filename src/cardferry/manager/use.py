"""Who has a card and who waits for it, as people are told: what has lasted for a moment, and seldom.

The queue itself is not slowed down by it: it says once that something moves (`Turns.moved`), and is then looked at
when `LASTING` has passed. A timer runs only while somebody waits, or has the card and has not had it for long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Hashable
from typing import Final

from cardferry.manager.counts import Counts
from cardferry.manager.handle import HandleState
from cardferry.manager.turns import Turns
from cardferry.pcsc.reader_state import Queue, Use, User
from cardferry.pcsc.reply import Reply, answered

#: s for which somebody must have had the card, or waited for it, before anybody is told.
LASTING: Final = 0.25
#: s between two pieces of news of one reader.
PAUSE: Final = 0.5
#: s for which the owner of the turn must have waited for a program at the real pcscd until that one counts as the
#: holder. Less than `LASTING`, so that it is so when the turn has lasted.
_CLAIMING: Final = 0.2
#: s by which a timer may be early: loops count in ms, or round.
_TICK: Final = 0.002
_OUTSIDER: Final = "a program of the host itself, at its pcscd"


class SlotUse:
    """See the module.

    Args:
        turns: the queue.
        publish: called whenever `told` has become another one.
        counts: where turns are counted that have ended.

    Attributes:
        told: what people are told, see `ReaderState.use`.
    """

    def __init__(self, turns: Turns, publish: Callable[[], None], counts: Counts) -> None:
        self.told: Use | None = None
        self._claiming: float | None = None
        self._turns = turns
        self._publish = publish
        self._loop = asyncio.get_running_loop()
        self._next = 0.0
        turns.moved = self._moved
        self._counts = counts
        turns.ended = self._ended

    def claiming(self, whether: bool) -> None:
        """Whether the owner of the turn waits for programs that are in no queue of ours."""
        self._claiming = self._loop.time() if whether else None
        if self._turns.moved is not None:
            self._turns.moved()

    @property
    def present(self) -> Use | None:
        """Who has the card and who waits at this moment, None for nobody."""
        turns = self._turns
        owner = turns.owner if turns.owner is not None else turns.kept_by
        holder = None
        waiting = [_user(one.caller, one.since) for one in turns.waiting if isinstance(one.caller, HandleState)]
        if isinstance(owner, HandleState):
            if self._claiming is not None and self._loop.time() >= self._claiming + _CLAIMING:
                holder = User(_OUTSIDER, "", self._claiming, program=_OUTSIDER, ours=False)
                waiting.insert(0, _user(owner, turns.wanted_since))
            else:
                holder = _user(owner, turns.owned_since)
        return Use(holder, tuple(waiting)) if holder is not None or waiting else None

    def _ended(self, owner: Hashable, waited: float, held: float) -> None:
        if isinstance(owner, HandleState):  # and not the slot itself, which has cleaned up
            self._counts.turn_ended(owner.caller, waited, held)

    def _moved(self) -> None:
        """Somebody has got the card, asked for it, or given it up."""
        self._turns.moved = None
        self._look_at(self._loop.time() + LASTING)

    def _look_at(self, when: float) -> None:
        self._loop.call_at(max(when, self._next), self._look)

    def _look(self) -> None:
        now = self._loop.time()
        use = self.present
        users = () if use is None else (*use.waiting, *(() if use.holder is None else (use.holder,)))
        since = min((user.since for user in users), default=now)
        lasting = now + _TICK >= since + LASTING
        told = use if lasting else None
        if told != self.told:
            self.told = told
            self._next = now + PAUSE
            self._publish()
        if use is not None and not lasting:
            self._look_at(since + LASTING)
        elif use is not None and use.waiting:
            self._look_at(now + PAUSE)  # who has gone without a word is seen then
        else:
            self._turns.moved = self._moved


def queue_length(turns: Turns, handles: Collection[HandleState]) -> Reply[Queue]:
    """How long the queue is now, for programs that choose a reader; see `Queue`."""
    users = {turns.owner, *(one.caller for one in turns.waiting)} - {None}
    return answered(Queue(len(users.union(one for one in handles if not one.used)), len(handles)))


def _user(handle: HandleState, since: float) -> User:
    caller = handle.caller
    program = f"{caller.program.name} on {caller.guest}" if caller.guest else caller.program.name
    return User(str(caller), str(caller.principal), since, int(since * 1000), caller.session, program)
