"""What was promised about speed, and whether a run kept it."""

from __future__ import annotations

from dataclasses import dataclass

from bench.metrics import Distance
from bench.results import Results


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound for the ratio of one of our figures to that of ``ssh -N -L``.

    Attributes:
        title: in words.
        at_most: the bound.
    """

    title: str
    distance: Distance
    metric: str
    figure: str
    at_most: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one way did."""

    goal: Goal
    way: str
    ratio: float

    @property
    def met(self) -> bool:
        """Whether the goal was reached."""
        return self.ratio <= self.goal.at_most


GOALS = (
    Goal("next door, one APDU, p50: at most 1.25 times", Distance.NEAR, "apdu", "p50", 1.25),
    Goal("next door, one APDU, p99: at most half", Distance.NEAR, "apdu", "p99", 0.5),
    Goal("next door, `pkcs11-tool -L`: at most a tenth", Distance.NEAR, "list", "p50", 0.1),
    Goal("50 ms, `pkcs11-tool -L`: at most half", Distance.FAR, "list", "p50", 0.5),
)
OURS = ("attach", "share")


def verdicts(results: Results) -> list[Verdict]:
    """Each goal for each of our ways that was measured."""
    return [
        Verdict(goal, way, ratio)
        for goal in GOALS
        for way in OURS
        if (ratio := results.ratio(goal.distance, goal.metric, way, goal.figure)) is not None
    ]
