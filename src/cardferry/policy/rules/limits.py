"""How often: ``60/hour``. A limit counts for each rule and principal, in a window that slides."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final

_SECONDS: Final = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
_LIMIT: Final = re.compile(r"(\d{1,6})\s*/\s*([a-z]+)")
#: Uses that are remembered of each, so the largest limit.
MOST: Final = 100_000


@dataclass(frozen=True, slots=True)
class Limit:
    """So many uses in so many s."""

    uses: int
    seconds: float

    @classmethod
    def parse(cls, text: str) -> Limit:
        """Read one; raises `ValueError` in words for people."""
        found = _LIMIT.fullmatch(text.strip())
        if found is None or found[2] not in _SECONDS:
            raise ValueError(f"{text!r} is no limit such as 60/hour (per {', '.join(_SECONDS)})")
        uses = int(found[1])
        if not 0 < uses <= MOST:
            raise ValueError(f"a limit is 1 to {MOST}, not {uses}")
        return cls(uses, _SECONDS[found[2]])


@dataclass(slots=True)
class Uses:
    """What has been used, by whom."""

    _times: dict[Hashable, deque[float]] = field(default_factory=dict)

    def take(self, who: Hashable, limit: Limit, now: float) -> bool:
        """Use it once more, if the limit allows that; ``now`` in s on a clock that does not jump."""
        times = self._times.setdefault(who, deque())
        while times and times[0] <= now - limit.seconds:
            times.popleft()
        if len(times) >= limit.uses:
            return False
        times.append(now)
        return True
