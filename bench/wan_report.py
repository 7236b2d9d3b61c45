"""What `bench.wan` has measured, as tables and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.figures import duration

#: The distance of the table, and of all goals, in s.
TABLE: Final = 0.050
LOCAL, LINK, SSH = "local", "link", "ssh"
#: Programs of the plot.
PLOTTED: Final = ("opensc-tool -a", "pkcs11-tool -L")
#: Bounds of the issue: wall time over what the round trips cost, and plain ssh's time over ours.
WALL, TIMES = 1.15, {"opensc-tool -a": 10.0, "pkcs11-tool -L": 4.0}


@dataclass(slots=True)
class Measured:
    """One flow over one way.

    Attributes:
        seconds: the median.
        trips: round trips that the relay has counted.
        waited: calls that waited for the host, as the link has counted them.
        hits: APDUs whose answer was there before they were asked.
    """

    seconds: float
    trips: int = 0
    waited: int = 0
    hits: int = 0


@dataclass(slots=True)
class Row:
    """One flow.

    Attributes:
        requests, apdus: what the program asks of a local pcscd.
        ways: by way and round trip in s.
    """

    name: str
    most_trips: int | None
    requests: int = 0
    apdus: int = 0
    ways: dict[tuple[str, float], Measured] = field(default_factory=dict)

    def must_travel(self, link: Measured) -> int:
        """APDUs that could neither be foreseen nor sent along."""
        return self.apdus - link.hits


def _cells(row: Row) -> list[str]:
    local, link, ssh = row.ways[LOCAL, 0.0], row.ways[LINK, TABLE], row.ways[SSH, TABLE]
    must = row.must_travel(link)
    most = row.most_trips if row.most_trips is not None else must + 2
    expected = must * TABLE + local.seconds
    return [
        row.name,
        str(row.requests),
        str(row.apdus),
        str(link.hits),
        f"{link.waited}{'' if link.waited <= most else ' (!)'}",
        f"at most {most}",
        str(link.trips),
        str(ssh.trips),
        duration(local.seconds),
        f"{duration(link.seconds)} ({link.seconds / expected:.2f})",
        duration(ssh.seconds),
        _ratio(row.name, link, ssh),
    ]


def _ratio(name: str, link: Measured, ssh: Measured) -> str:
    ratio = ssh.seconds / link.seconds
    bound = TIMES.get(name)
    verdict = "" if bound is None else f", goal {bound:.0f}{'' if ratio >= bound else ': missed'}"
    return f"{ratio:.1f} times{verdict}"


def table(rows: Sequence[Row]) -> str:
    """The table of all flows at `TABLE`."""
    heads = [
        "program", "requests", "APDUs", "came ahead", "calls that waited", "goal", "turns, link", "turns, ssh -N -L",
        "local", "link (over expected)", "ssh -N -L", "shorter",
    ]  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows if (LINK, TABLE) in row.ways]
    return "\n".join(lines)


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw how the time of some programs grows with the distance."""
    import matplotlib as mpl  # noqa: PLC0415 - takes a second to load
    from matplotlib.figure import Figure  # noqa: PLC0415

    chosen = [row for row in rows if row.name in PLOTTED]
    with mpl.rc_context({"svg.hashsalt": "bench", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"}):
        figure = Figure(figsize=(4.6 * len(chosen), 3.6), layout="constrained")
        axes = figure.subplots(1, len(chosen), squeeze=False)[0]
        for panel, row in zip(axes, chosen, strict=True):
            for key, label, colour in ((SSH, "ssh -N -L", "#4477aa"), (LINK, "cardferry link", "#cc3311")):
                points = sorted((way[1] * 1000, one.seconds) for way, one in row.ways.items() if way[0] == key)
                panel.plot(*zip(*points, strict=True), marker="o", color=colour, label=label)
                for distance, seconds in points:
                    at = (distance, seconds)
                    panel.annotate(duration(seconds), at, (0, 5), textcoords="offset points", ha="center", fontsize=7)
            panel.axhline(row.ways[LOCAL, 0.0].seconds, color="#bbbbbb", linestyle="--", label="on the host itself")
            panel.set_xscale("log")
            panel.set_yscale("log")
            panel.margins(0.12)
            panel.set_title(row.name)
            panel.set_xlabel("round trip, ms")
            panel.spines[["top", "right"]].set_visible(False)
        axes[0].set_ylabel("seconds")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(path, metadata={"Date": None})
