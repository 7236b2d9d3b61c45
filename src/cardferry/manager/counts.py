"""What has happened in the queue of a reader and at its card, in numbers that only grow, by principal.

They are kept whether anybody looks or not: a command costs two looks at the clock and two additions more. A reader that
is unplugged and comes again goes on counting.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cardferry.labelled import Labelled
from cardferry.pcsc.caller import Caller, Principal

#: How much a new turn changes the means: as much as a round trip changes TCP's (RFC 6298, section 2).
_WEIGHT: Final = 1 / 8


@dataclass(slots=True)
class Count:
    """What one principal has done with a reader.

    Attributes:
        commands: APDUs that were sent to the card, and ``card_seconds`` until its answers were there.
        turns: how often it has had the card, and ``turn_seconds`` how long.
        waits: turns for which it had to wait, and ``wait_seconds`` how long.
        hand_overs: turns that came after one of another program.
        evictions: transactions that were taken from it because others waited.
    """

    commands: int = 0
    card_seconds: float = 0.0
    turns: int = 0
    turn_seconds: float = 0.0
    waits: int = 0
    wait_seconds: float = 0.0
    hand_overs: int = 0
    evictions: int = 0


class Counts:
    """The numbers of one reader.

    Args:
        clock: s.

    Attributes:
        by_principal: as principals are written in rules; those beyond the bound have one `Count` together.
        clock: as given.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.by_principal = Labelled(Count)
        self._mean = self._mean_square = 0.0
        self._last_principal: Principal | None = None
        self._last_count = Count()
        self._last_owner: Caller | None = None

    def of(self, principal: Principal) -> Count:
        """What is counted of a principal."""
        if principal is not self._last_principal:  # mostly it is; its name costs more than all the rest
            self._last_count = self.by_principal.of(str(principal))
            self._last_principal = principal
        return self._last_count

    def answered(self, principal: Principal, since: float) -> None:
        """The card has answered a command that was sent at that time."""
        count = self.of(principal)
        count.commands += 1
        count.card_seconds += self.clock() - since

    def turn_ended(self, caller: Caller, waited: float, held: float) -> None:
        """Somebody has given the card up, after so many s of waiting and of having it."""
        count = self.of(caller.principal)
        count.turns += 1
        count.turn_seconds += held
        if waited > 0:
            count.waits += 1
            count.wait_seconds += waited
        last = self._last_owner
        if caller is not last:
            self._last_owner = caller
            if last is not None and caller != last:
                count.hand_overs += 1
        self._mean += (held - self._mean) * _WEIGHT
        self._mean_square += (held * held - self._mean_square) * _WEIGHT

    @property
    def mean_turn(self) -> float | None:
        """s that a turn lasts which somebody finds who comes at any moment; None before one has lasted.

        The last turns count above all, and each by its length: a card that is mostly asked for its state, which takes
        no time, and now and then held for 10 s, is waited for for 10 s.
        """
        return self._mean_square / self._mean if self._mean else None
