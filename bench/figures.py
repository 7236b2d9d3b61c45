"""From durations to figures: percentiles, ratios, and how to write them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figures:
    """What is said about the durations of one measurement, in s.

    Attributes:
        count: how many there are.
        p50: half of them are at most this.
        p99: 99 of 100 are at most this; with fewer than 100 it is the longest.
    """

    count: int
    p50: float
    p99: float
    shortest: float
    longest: float

    @classmethod
    def of(cls, durations: Sequence[float]) -> Figures:
        """The figures of at least one duration."""
        ordered = sorted(durations)
        return cls(len(ordered), percentile(ordered, 50), percentile(ordered, 99), ordered[0], ordered[-1])


def percentile(ordered: Sequence[float], percent: int) -> float:
    """The nearest-rank percentile of ascending values: the smallest value that ``percent`` % of them do not exceed."""
    rank = -(-percent * len(ordered) // 100)
    return ordered[max(rank, 1) - 1]


def duration(seconds: float) -> str:
    """A duration with its unit, about three digits."""
    if seconds < 0.000_999_5:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.9995:
        milliseconds = seconds * 1e3
        return f"{milliseconds:.{2 if milliseconds < 9.995 else 1 if milliseconds < 99.95 else 0}f} ms"
    return f"{seconds:.{2 if seconds < 9.995 else 1}f} s"


def ratio(value: float) -> str:
    """A ratio with about two digits: ``0.08x``, ``1.3x``, ``14x``."""
    digits = 3 if value < 0.0995 else 2 if value < 9.95 else 0
    return f"{value:.{digits}f}x"
