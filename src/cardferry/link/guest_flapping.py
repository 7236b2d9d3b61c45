"""Notices a link that flaps: it breaks again and again although the network is not to blame, and programs only wait."""

from __future__ import annotations

from collections import deque
from typing import Final

from cardferry.pcsc.errors import CardferryError

#: s in which breaks are counted that the session has survived, and how many of them are not worth a warning.
_WHILE: Final = 3600.0
FEW: Final = 3


class Flapping:
    """The latest breaks that had no cause in the network, and that the session has survived."""

    __slots__ = ("_said", "_times")

    def __init__(self) -> None:
        self._times: deque[float] = deque()
        self._said = float("-inf")

    def recent(self, now: float) -> int:
        """How many there were within the last hour, by a clock in s."""
        while self._times and self._times[0] <= now - _WHILE:
            self._times.popleft()
        return len(self._times)

    def resumed(self, error: Exception | None, now: float) -> bool:
        """The link is up again after a break; return whether it is time to say something, at most once an hour.

        Args:
            error: why the pipe was lost. What the network does to it is an `OSError`, or an error of the transport; an
                end in order, or by a bug, is neither.
            now: the time, in s.
        """
        if isinstance(error, OSError | CardferryError):
            return False
        self._times.append(now)
        if self.recent(now) <= FEW or now < self._said + _WHILE:
            return False
        self._said = now
        return True
