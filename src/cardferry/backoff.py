"""How long to wait before the next attempt at something: each time twice as long, up to a limit."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Pauses between attempts.

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
