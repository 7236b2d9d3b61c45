"""What was promised about speed, and whether a run kept it."""

from __future__ import annotations

from dataclasses import dataclass

from bench.metrics import Distance
from bench.results import Results


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound for the ratio of one of our figures to that of ``ssh -N -L``; the link's are in `bench.lan`, `bench.wan`.

    Attributes:
        title: in words.
        at_most: the bound.
        ways: those of ours that it is for.
    """

    title: str
    distance: Distance
    metric: str
    figure: str
    at_most: float
    ways: tuple[str, ...]


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


#: The other side has sshd only.
ALONE = ("attach", "share")
_ONE, _LIST = "one APDU", "`pkcs11-tool -L`"
GOALS = (
    Goal(f"0 ms, {_ONE}, p50: at most 1.25", Distance.NEAR, "apdu", "p50", 1.25, ALONE),
    Goal(f"0 ms, {_ONE}, p99: at most 0.5", Distance.NEAR, "apdu", "p99", 0.5, ALONE),
    Goal(f"0 ms, {_LIST}: at most 0.1", Distance.NEAR, "list", "p50", 0.1, ALONE),
    Goal(f"50 ms, {_LIST}: at most 0.5", Distance.FAR, "list", "p50", 0.5, ALONE),
)


def verdicts(results: Results) -> list[Verdict]:
    """Each goal for each of its ways that was measured."""
    return [
        Verdict(goal, way, ratio)
        for goal in GOALS
        for way in goal.ways
        if (ratio := results.ratio(goal.distance, goal.metric, way, goal.figure)) is not None
    ]
