"""The queue alone, for its tests."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

from cardferry.manager.turns import Turns
from tests.manager.desk import Call


class Queue:
    """A queue with callers that are strings."""

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        max_idle: float = 30.0,
        max_hold: float = 10_000.0,
        ticket_life: float = 1.0,
        stay: float = 1.0,
    ) -> None:
        self.evicted: list[Hashable] = []
        self.turns = Turns(max_idle, max_hold, ticket_life, stay, self._evict)
        self._tasks = tasks

    def _evict(self, owner: Hashable, why: str) -> None:
        self.evicted.append(owner)
        self.turns.leave(owner)

    def enter(self, caller: str, patience: float | None = None) -> Call[None]:
        return Call(self.turns.enter(caller, patience), self._tasks)

    def whose(self) -> tuple[Hashable | None, Hashable | None]:
        """Whose the card is, and for whose kind it is kept."""
        return self.turns.owner, self.turns.kept_by

    @property
    def waiting(self) -> list[Hashable]:
        return [waiting.caller for waiting in self.turns.waiting]


async def use(queue: Queue, times: int, command: float = 0.0, pause: float = 1.5) -> float:
    """Commands of the owner, again and again, until it is evicted; returns how long it had the card."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    for _ in range(times):
        queue.turns.end_overdue()
        if queue.evicted:
            break
        queue.turns.busy(True)
        await asyncio.sleep(command)
        queue.turns.busy(False)
        await asyncio.sleep(pause)
    return loop.time() - start
