"""How long to wait before the next attempt at something, and how often to say that it fails."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

#: s between two lines that say that the same thing still fails.
RARELY: Final = 600.0
#: Likewise, where nobody expects it to go well soon.
HOURLY: Final = 3600.0


class Backoff:
    """Pauses between attempts: each twice as long as the one before, up to a limit.

    Args:
        first: the first pause, in s.
        longest: the longest, in s.
        spread: a pause is longer or shorter by up to this part of itself, so that many computers that lose one host do
            not all come back in the same moment.
        chance: a number from 0 to 1, a new one each time.

    Attributes:
        attempts: how many pauses there were since the last success.
    """

    def __init__(
        self, first: float, longest: float, spread: float = 0.0, chance: Callable[[], float] = random.random
    ) -> None:
        self.attempts = 0
        self._first = self._next = first
        self._longest = longest
        self._spread = spread
        self._chance = chance

    def pause(self, longest: float | None = None) -> float:
        """The next pause, in s.

        Args:
            longest: another limit, for this once.
        """
        limit = self._longest if longest is None else longest
        pause = min(self._next, limit)
        self._next = min(pause * 2, limit)
        self.attempts += 1
        return pause * (1 + self._spread * (2 * self._chance() - 1))

    def reset(self) -> None:
        """It went well: begin anew."""
        self.attempts = 0
        self._next = self._first


class Seldom:
    """Whether to tell people of a failure: at first, and then rarely, however often it comes and in whatever words.

    Args:
        first: so many different ones are told at once, each the first time that it comes.
        every: s until it is told again.
    """

    def __init__(self, first: int = 1, every: float = RARELY) -> None:
        self._first = first
        self._every = every
        self._told: set[str] = set()
        self._told_at = 0.0

    def due(self, words: str, now: float) -> bool:
        """Whether to tell it; ``now`` is in s, on any clock that goes on."""
        fresh = words not in self._told and len(self._told) < self._first
        if not fresh and now < self._told_at + self._every:
            return False
        if fresh:
            self._told.add(words)
        self._told_at = now
        return True

    def reset(self) -> None:
        """It went well: begin anew."""
        self._told.clear()
