"""A run's results, as values and as the JSON file that holds them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.figures import Figures
from bench.metrics import Distance
from bench.ways import BASELINE


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that was measured in one run.

    Attributes:
        machine: what it ran on, in words.
        versions: of the programs that took part.
        quick: whether the run was a short one, good for nothing but to see that it works.
        rounds: how many rounds there were next door.
        quiet: how many of them began when the machine had nothing else to do.
        figures: by distance, metric's key and way's key.
    """

    machine: str
    versions: Mapping[str, str]
    quick: bool
    rounds: int
    quiet: int
    figures: Mapping[tuple[Distance, str, str], Figures]

    def get(self, distance: Distance, metric: str, way: str) -> Figures | None:
        """The figures of one cell; None when it was not measured."""
        return self.figures.get((distance, metric, way))

    def ratio(self, distance: Distance, metric: str, way: str, figure: str = "p50") -> float | None:
        """A way's ``figure`` over that of ``ssh -N -L``; None when one of the two is missing."""
        ours, base = self.get(distance, metric, way), self.get(distance, metric, BASELINE)
        if ours is None or base is None:
            return None
        return float(getattr(ours, figure) / getattr(base, figure))

    def save(self, path: Path) -> None:
        """Write them as JSON; durations in s."""
        path.write_text(json.dumps(self._plain(), indent=1) + "\n")

    def _plain(self) -> dict[str, Any]:
        return {
            "machine": self.machine,
            "versions": dict(self.versions),
            "quick": self.quick,
            "rounds": self.rounds,
            "quiet": self.quiet,
            "measurements": list(self._rows()),
        }

    def _rows(self) -> Iterator[dict[str, Any]]:
        for (distance, metric, way), figures in self.figures.items():
            yield {"distance": distance, "metric": metric, "way": way, **asdict(figures)}


def load(path: Path) -> Results:
    """Read what `Results.save` wrote."""
    plain = json.loads(path.read_text())
    figures = {}
    for row in plain["measurements"]:
        key = (Distance(row.pop("distance")), row.pop("metric"), row.pop("way"))
        figures[key] = Figures(**row)
    about = {name: plain[name] for name in ("machine", "versions", "quick", "rounds", "quiet")}
    return Results(**about, figures=figures)
