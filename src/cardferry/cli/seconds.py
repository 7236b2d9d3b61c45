"""The types of options that are a time. A module of its own, because some commands must start fast."""

from __future__ import annotations

import math
import re
from typing import Any, Final

import click

#: s, about a year: no timer can go wrong up to there.
MOST: Final = 31_536_000.0
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class SecondsType(click.FloatRange):
    """Seconds, up to `MOST`. Not `nan` and `inf`, which are floats, too, and in the way of every timer.

    Args:
        zero: whether none at all is a time.
    """

    def __init__(self, *, zero: bool = True) -> None:
        super().__init__(min=0, max=MOST, min_open=not zero)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse it."""
        seconds: float = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return seconds


class DurationType(click.ParamType[float]):
    """A time such as ``8h``, in s.

    Args:
        days: the longest that there is.
    """

    name = "TIME"

    def __init__(self, days: int = 31) -> None:
        self._days = days

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse it."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d{1,8})([smhd])", value)
        if found is None or not 0 < (seconds := int(found[1]) * _UNITS[found[2]]) <= self._days * _UNITS["d"]:
            self.fail(f"{value!r} is no time such as 30m, 8h or 2d, {self._days}d at most", param, ctx)
        return float(seconds)
