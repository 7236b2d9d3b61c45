"""The calls of one lane that wait for their turn, in order. Each step costs the same, however many wait."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from cardferry.link import messages as m
from cardferry.link.host_card import HostCard


class Job:
    """A call on its way through its lane.

    Attributes:
        card: the handle that it is about.
        message: what the guest has sent.
        size: bytes of it that count against the guest's limit.
        timer: ends its waiting.
        behind: what it waits for, see `cardferry.link.host_memory.Ghosts`; 0 for nothing.
    """

    __slots__ = ("behind", "card", "message", "size", "timer")

    def __init__(self, card: HostCard, message: m.Call, size: int, behind: int = 0) -> None:
        self.card = card
        self.message = message
        self.size = size
        self.behind = behind
        self.timer: asyncio.TimerHandle | asyncio.Handle | None = None


class JobQueue:
    """See the module."""

    __slots__ = ("_cards", "_impatient", "_jobs")

    def __init__(self) -> None:
        self._jobs: OrderedDict[Job, None] = OrderedDict()
        #: How many jobs of a card wait; and those of them that do not wait for ever.
        self._cards: dict[HostCard, int] = {}
        self._impatient: dict[HostCard, dict[Job, None]] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job: Job) -> bool:
        return job in self._jobs

    def has(self, card: HostCard) -> bool:
        """Whether a call of that card waits."""
        return card in self._cards

    def impatient(self, card: HostCard) -> tuple[Job, ...]:
        """The calls of that card that have a timer."""
        return tuple(self._impatient.get(card, ()))

    def put(self, job: Job) -> None:
        """A call comes, with its timer if it has one."""
        self._jobs[job] = None
        self._cards[job.card] = self._cards.get(job.card, 0) + 1
        if job.timer is not None:
            self._impatient.setdefault(job.card, {})[job] = None

    def take(self) -> Job:
        """The first one, whose turn it is; its timer is stopped."""
        job = next(iter(self._jobs))
        self.remove(job)
        return job

    def remove(self, job: Job) -> None:
        """A call does not wait any longer; its timer is stopped."""
        del self._jobs[job]
        card = job.card
        self._cards[card] -= 1
        if not self._cards[card]:
            del self._cards[card]
        if job.timer is not None:
            job.timer.cancel()
            job.timer = None
            others = self._impatient[card]
            del others[job]
            if not others:
                del self._impatient[card]
