"""Results as tables: plain ones for the terminal, Markdown for the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.figures import duration, ratio
from bench.goals import verdicts
from bench.metrics import CALLS, DISTANCES, PROGRAMS, Distance, Metric
from bench.results import Results
from bench.ways import BASELINE, WAYS, Way


@dataclass(frozen=True, slots=True)
class Table:
    """A caption, a row of headings and rows of cells."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """As Markdown; the first column is text, the others numbers."""
        lines = [f"| {' | '.join(self.headings)} |", f"|---{'|--:' * (len(self.headings) - 1)}|"]
        lines += [f"| {' | '.join(row)} |" for row in self.rows]
        return f"{self.caption}\n\n" + "\n".join(lines) + "\n"

    def plain(self) -> str:
        """For a terminal."""
        table = [self.headings, *self.rows]
        first, *others = (max(map(len, column)) for column in zip(*table, strict=True))
        lines = []
        for label, *cells in table:
            padded = [cell.rjust(width) for cell, width in zip(cells, others, strict=True)]
            lines.append("  ".join([label.ljust(first), *padded]).rstrip())
        return f"{self.caption}\n\n" + "\n".join(lines) + "\n"


def tables(results: Results) -> list[Table]:
    """Everything that a run has to say."""
    found = [_distance(results, distance) for distance in Distance if _ways(results, distance)]
    goals = _goals(results)
    return [*found, goals] if goals.rows else found


def _ways(results: Results, distance: Distance) -> list[Way]:
    return [way for way in WAYS if any(key[0] is distance and key[2] == way.key for key in results.figures)]


def _distance(results: Results, distance: Distance) -> Table:
    ways = _ways(results, distance)
    rows = []
    for metric in (*CALLS, *PROGRAMS):
        for figure in ("p50", metric.tail) if metric.tail else ("p50",):
            cells = [_cell(results, distance, metric, way, figure) for way in ways]
            if any(cells):
                rows.append([f"{metric.title}, {figure}" if metric.tail else metric.title, *cells])
    caption = f"{DISTANCES[distance]}: durations, and in brackets how many times those of `ssh -N -L`"
    return Table(caption, ["", *(way.title for way in ways)], rows)


def _cell(results: Results, distance: Distance, metric: Metric, way: Way, figure: str) -> str:
    figures = results.get(distance, metric.key, way.key)
    if figures is None:
        return ""
    text = duration(getattr(figures, figure))
    relative = results.ratio(distance, metric.key, way.key, figure)
    if way.key == BASELINE or relative is None:
        return text
    return f"{text} ({ratio(relative)})"


def _goals(results: Results) -> Table:
    titles = {way.key: way.title for way in WAYS}
    rows = [
        [verdict.goal.title, titles[verdict.way], ratio(verdict.ratio), "met" if verdict.met else "not met"]
        for verdict in verdicts(results)
    ]
    return Table("Goals, as multiples of `ssh -N -L` in the same run", ["goal", "way", "measured", ""], rows)
