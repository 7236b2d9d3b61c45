"""The other users of a reader: what is known of them, and the turns we owe them.

pcscd does not queue: who finds its lock taken comes back later, and who comes back soonest gets it. A gateway that
serves many guests one after the other would shut out the programs on the host itself. Two kinds of them want the card:

- Programs that are connected show in the reader's table. They come back after 200 ms (libpcsclite's
  ``SCardBeginTransaction``). For them, after 1 s of continuous use the lock is left alone for 250 ms.
- Programs that are about to connect show nowhere: pcscd answers their ``SCardConnect`` when it sees the lock free, and
  looks every 100 ms (``winscard.c``). For them, after 8 s of continuous use it is left alone for 105 ms. And before the
  lock is kept for good, for an exclusive handle: who waits for it by then would wait for ever.

They also reset the card, which pcscd tells with the answer to our next call. Programs above can act on that if it is
the answer to a BEGIN, and to no other call. So that answer is waited for whenever a reset is possible: unless `sure`.

No method waits or reads a clock; times are the caller's, in s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Courtesy:
    """What we owe to one kind of program.

    Attributes:
        burst: continuous use of the card that they must put up with, in s.
        gap: a pause after which all of them have had a look, in s.
    """

    burst: float
    gap: float


CONNECTED: Final = Courtesy(burst=1.0, gap=0.25)
CONNECTING: Final = Courtesy(burst=8.0, gap=0.105)
#: How long a sign of others counts, whatever the table says, in s: they may come and go.
MEMORY: Final = 1.0
#: A table older than this should be looked at again while the card is in use, in s. pcscd reports that programs came
#: or went with its driver's next event, which can take minutes; the table itself is always up to date.
FRESH: Final = 1.0
#: How long a word of pcscd about our handle counts, in s: who comes, resets a card and leaves takes longer.
RECENT: Final = 0.05
#: How long others are expected to reset the card again who were in our way, or have reset it, in s.
WARY: Final = 60.0

#: Timers may be early by so much, in s; a pause that they end is a whole one all the same.
_EARLY: Final = 0.001
_NEVER: Final = float("-inf")


class Neighbours:
    """Keeps the account for one reader."""

    __slots__ = ("_bursts", "_heard_at", "_left", "_looked_at", "_others", "_released_at", "_seen_at")

    def __init__(self) -> None:
        self._others = False
        self._looked_at = _NEVER
        self._seen_at = _NEVER
        self._released_at = _NEVER
        self._heard_at = _NEVER
        #: Others were connected, and pcscd has said nothing about our handle since they have left.
        self._left = False
        #: Since when the card is in use without a gap.
        self._bursts = {CONNECTED: _NEVER, CONNECTING: _NEVER}

    def table(self, sharing: int, ours: int, now: float) -> None:
        """pcscd's table says how many handles there are, ``ours`` of them being ours."""
        others = sharing > ours
        self._left = bool(ours) and not others and (self._left or self._others)
        self._others = others
        self._looked_at = now

    def seen(self, now: float) -> None:
        """Others showed: their lock was in our way, or they have reset the card."""
        self._others = True
        self._seen_at = now

    def alone(self, now: float) -> bool:
        """Whether, as far as we know, nobody else is connected to the reader."""
        return not self._others and now - self._seen_at >= MEMORY

    def heard(self, now: float) -> None:
        """pcscd has answered a call with our handle: no reset is untold."""
        self._heard_at = now
        self._left = False

    def about(self, now: float) -> bool:
        """Whether there are others, or were a moment ago."""
        return self._left or not self.alone(now) or now - self._seen_at < WARY

    def sure(self, now: float) -> bool:
        """Whether nobody can have reset the card of which pcscd has not told us."""
        return now - self._heard_at < RECENT and not self.about(now)

    def stale(self, now: float) -> bool:
        """Whether the table should be looked at again."""
        return now - self._looked_at >= FRESH

    def gap(self, now: float) -> float:
        """How long to leave the lock alone before it is asked for again, in s; 0 when it may be asked for now."""
        kinds = (CONNECTING,) if self.alone(now) else (CONNECTED, CONNECTING)
        return max(self._owed(courtesy, now) for courtesy in kinds)

    def last_look(self, now: float) -> float:
        """How long to leave the lock alone before it is kept for good, in s."""
        left = self._released_at + CONNECTING.gap - now
        return left if left > _EARLY else 0.0

    def _owed(self, courtesy: Courtesy, now: float) -> float:
        left = self._released_at + courtesy.gap - now
        return left if left > _EARLY and now - self._bursts[courtesy] >= courtesy.burst else 0.0

    def claimed(self, now: float) -> None:
        """The lock is ours, or asked for."""
        for courtesy in self._bursts:
            if now - self._released_at >= courtesy.gap - _EARLY:
                self._bursts[courtesy] = now

    def released(self, now: float) -> None:
        """The lock was given back."""
        self._released_at = now
