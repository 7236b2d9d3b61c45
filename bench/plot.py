"""The picture of a run: one panel for each distance, one group of bars for each thing that was timed."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.figures import duration
from bench.metrics import CALLS, DISTANCES, PROGRAMS, Distance
from bench.results import Results
from bench.ways import WAYS

#: Told apart also without seeing red and green; what is ours is warm.
_COLOURS = {
    "direct": "#bbbbbb",
    "beside": "#ddaa33",
    "ssh": "#4477aa",
    "terminal": "#66ccee",
    "nothing": "#44bb99",
    "attach": "#cc3311",
    "share": "#ee7733",
    "attach2": "#aa3377",
    "share2": "#cc88bb",
}
_HEIGHT = 0.8


def plot(results: Results, path: Path) -> None:
    """Draw to an SVG file; the same results give the same bytes."""
    distances = [distance for distance in Distance if any(key[0] is distance for key in results.figures)]
    with mpl.rc_context({"svg.hashsalt": "bench", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"}):
        figure = Figure(figsize=(5.2 * len(distances), 7.4), layout="constrained")
        axes = figure.subplots(1, len(distances), squeeze=False)[0]
        for panel, distance in zip(axes, distances, strict=True):
            _panel(panel, results, distance)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=(len(labels) + 1) // 2, frameon=False)
        figure.savefig(path, metadata={"Date": None})


def _panel(axes: Axes, results: Results, distance: Distance) -> None:
    metrics = [
        metric
        for metric in (*CALLS, *PROGRAMS)
        if any(results.get(distance, metric.key, way.key) is not None for way in WAYS)
    ]
    ways = [way for way in WAYS if any(results.get(distance, metric.key, way.key) for metric in metrics)]
    thickness = _HEIGHT / len(ways)
    for number, way in enumerate(ways):
        for group, metric in enumerate(metrics):
            figures = results.get(distance, metric.key, way.key)
            if figures is None:
                continue
            at = group - _HEIGHT / 2 + thickness * (number + 0.5)
            label = way.title if group == 0 else None
            axes.barh(at, figures.p50, thickness * 0.9, color=_COLOURS[way.key], label=label)
            axes.plot([figures.p50, figures.p99], [at, at], color="#444444", linewidth=0.8)
            axes.annotate(
                duration(figures.p50), (figures.p99, at), (3, 0), textcoords="offset points", va="center", fontsize=7
            )
    axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.set_yticks(range(len(metrics)), [metric.title.replace("`", "") for metric in metrics])
    axes.invert_yaxis()
    axes.set_xlabel("seconds, logarithmic; line: up to the 99th percentile")
    axes.set_title(DISTANCES[distance])
    axes.spines[["top", "right"]].set_visible(False)
