"""The type of options that are a time in s. A module of its own, because some commands must start fast."""

from __future__ import annotations

import math
from typing import Any, Final

import click

#: s, about a year: no timer can go wrong up to there.
MOST: Final = 31_536_000.0


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
