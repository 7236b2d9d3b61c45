"""The other users of a reader: what is known of them, and the turns we owe them.

pcscd does not queue: who finds its lock taken comes back 200 ms later (libpcsclite), and who comes back soonest gets
it. A gateway that serves many guests one after the other would shut out the programs on the host itself. So when
there are such programs, after `BURST` s of continuous use the lock is left alone for `GAP` s, longer than their retry.

No method waits or reads a clock; times are the caller's, in s.
"""

from __future__ import annotations

from typing import Final

#: Continuous use of the card that others must put up with, in s.
BURST: Final = 1.0
#: Pause after which everybody who wanted the card has asked for it, in s. libpcsclite asks every 200 ms.
GAP: Final = 0.25
#: How long a sign of others counts, whatever the table says, in s: they may come and go.
MEMORY: Final = 1.0
#: A table older than this should be looked at again while the card is in use, in s. pcscd reports that programs came
#: or went with its driver's next event, which can take minutes; the table itself is always up to date.
FRESH: Final = 1.0


class Neighbours:
    """Keeps the account for one reader."""

    __slots__ = ("_burst_since", "_crowded", "_looked_at", "_released_at", "_seen_at")

    def __init__(self) -> None:
        self._crowded = False
        self._looked_at = float("-inf")
        self._seen_at = float("-inf")
        self._burst_since = float("-inf")
        self._released_at = float("-inf")

    def table(self, sharing: int, ours: int, now: float) -> None:
        """pcscd's table says how many handles there are, ``ours`` of them being ours."""
        self._crowded = sharing > ours
        self._looked_at = now

    def seen(self, now: float) -> None:
        """Others showed: their lock was in our way, or they have reset the card."""
        self._crowded = True
        self._seen_at = now

    def alone(self, now: float) -> bool:
        """Whether, as far as we know, nobody else uses the reader."""
        return not self._crowded and now - self._seen_at >= MEMORY

    def stale(self, now: float) -> bool:
        """Whether the table should be looked at again."""
        return now - self._looked_at >= FRESH

    def gap(self, now: float) -> float:
        """How long to leave the lock alone before it is asked for again, in s; 0 when it may be asked for now."""
        since_release = now - self._released_at
        if since_release >= GAP or self.alone(now) or now - self._burst_since < BURST:
            return 0.0
        return GAP - since_release

    def claimed(self, now: float) -> None:
        """The lock is being asked for."""
        if now - self._released_at >= GAP:
            self._burst_since = now

    def released(self, now: float) -> None:
        """The lock was given back."""
        self._released_at = now
