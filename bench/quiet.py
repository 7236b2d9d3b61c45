"""Waiting for a moment in which the machine has nothing else to do."""

from __future__ import annotations

import time
from pathlib import Path

_STAT = Path("/proc/stat")
#: s over which the processors are watched, and the part of that time that they may be busy.
_WATCHED = 0.15
_QUIET = 0.1


class Patience:
    """Waits before each round, until all the patience is used up.

    Args:
        seconds: to wait in all.

    Attributes:
        rounds: how often a quiet moment was asked for.
        quiet: how often there was one.
    """

    def __init__(self, seconds: float) -> None:
        self._left = seconds
        self.rounds = 0
        self.quiet = 0

    def wait(self) -> None:
        """Return in a quiet moment, or when there is no patience left."""
        self.rounds += 1
        start = time.monotonic()
        while True:
            before = _busy()
            time.sleep(_WATCHED)
            if share(before, _busy()) <= _QUIET:
                self.quiet += 1
                break
            if time.monotonic() - start > self._left:
                break
        self._left = max(0.0, self._left - (time.monotonic() - start))


def _busy() -> tuple[int, int]:
    """Time that the processors were busy so far, and all time, in the kernel's ticks (proc_stat(5))."""
    return parsed(_STAT.read_text())


def parsed(stat: str) -> tuple[int, int]:
    """The two sums from the first line of ``/proc/stat``."""
    user, nice, system, idle, waiting, *others = map(int, stat.split("\n", 1)[0].split()[1:9])
    busy = user + nice + system + sum(others)
    return busy, busy + idle + waiting


def share(before: tuple[int, int], after: tuple[int, int]) -> float:
    """Which part of the time between two looks the processors were busy."""
    passed = after[1] - before[1]
    return (after[0] - before[0]) / passed if passed else 0.0
