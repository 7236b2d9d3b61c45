"""What `bench.wan` has measured, as tables and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.figures import duration

#: The distance of the table, and of all goals, in s.
TABLE: Final = 0.050
#: `COLD`: over a link without memory, as for a program that nobody has run before; `LINK`: again; `NEW`: the first time
#: on a guest that has just come, when another one has run it.
LOCAL, COLD, LINK, NEW, SSH = "local", "cold", "link", "new", "ssh"
#: Programs of the plot.
PLOTTED: Final = ("opensc-tool -a", "pkcs11-tool -L", "pkcs11-tool --sign")
#: Goals: plain ssh's time over ours, the second time.
TIMES: Final = {"opensc-tool -a": 10.0, "pkcs11-tool -L": 40.0, "pkcs11-tool --sign": 25.0}


@dataclass(slots=True)
class Measured:
    """One flow over one way.

    Attributes:
        seconds: the median.
        trips: round trips that the relay has counted.
        waited: calls that waited for the host, as the link has counted them.
        hits: APDUs whose answer was there before they were asked.
        refuted: commands that were believed wrongly.
    """

    seconds: float
    trips: int = 0
    waited: int = 0
    hits: int = 0
    refuted: int = 0


@dataclass(slots=True)
class Row:
    """One flow.

    Attributes:
        most_waits: calls that may wait for the host, the second time.
        requests, apdus: what the program asks of a local pcscd.
        ways: by way and round trip in s.
    """

    name: str
    most_waits: int
    requests: int = 0
    apdus: int = 0
    ways: dict[tuple[str, float], Measured] = field(default_factory=dict)


def _cells(row: Row) -> list[str]:
    local, ssh = row.ways[LOCAL, 0.0], row.ways[SSH, TABLE]
    cold, warm, new = (row.ways.get((key, TABLE)) for key in (COLD, LINK, NEW))
    assert warm is not None
    waits = " / ".join("" if one is None else str(one.waited) for one in (cold, warm, new))
    return [
        row.name,
        str(row.requests),
        str(row.apdus),
        waits + ("" if warm.waited <= row.most_waits else " (!)"),
        f"at most {row.most_waits}",
        str(ssh.trips),
        duration(local.seconds),
        *("" if one is None else duration(one.seconds) for one in (cold, warm, new)),
        duration(ssh.seconds),
        _ratio(row.name, warm, ssh),
    ]


def _ratio(name: str, link: Measured, ssh: Measured) -> str:
    ratio = ssh.seconds / link.seconds
    bound = TIMES.get(name)
    verdict = "" if bound is None else f", goal {bound:.0f}{'' if ratio >= bound else ': missed'}"
    return f"{ratio:.1f} times{verdict}"


def table(rows: Sequence[Row]) -> str:
    """The table of all flows at `TABLE`."""
    heads = [
        "program", "requests", "APDUs", "calls that waited", "goal, again", "turns, ssh -N -L",
        "local", "link, first time", "link, again", "link, new guest", "ssh -N -L", "shorter",
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
            for key, label, colour in (
                (SSH, "ssh -N -L", "#4477aa"),
                (COLD, "cardferry link, first time", "#ee9977"),
                (LINK, "cardferry link, again", "#cc3311"),
            ):
                points = sorted((way[1] * 1000, one.seconds) for way, one in row.ways.items() if way[0] == key)
                if not points:
                    continue
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
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
        figure.savefig(path, metadata={"Date": None})
