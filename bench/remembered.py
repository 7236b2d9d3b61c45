"""``python -m bench.remembered``: what memory costs and saves next door: with it, and with ``--no-memory``, in turns.

--rounds N    rounds of 25 lone commands and 25 transactions of each kind for each way
--write       write the tables into docs/link-performance.md
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from tests.lab.cards import fake_card, piv_card
from tests.lab.computer import Computer
from tests.lab.lab import Lab
from tests.lab.link import processes
from tests.lab.process import LabError

from bench.figures import Figures, duration
from bench.page import write_section
from bench.wan import PAGE
from bench.ways import OpenWay, Site, _attach_linked, _attach_neighbour, _beside, _direct

_COUNT: Final = 25
_TICK: Final = os.sysconf("SC_CLK_TCK")
OFF: Final = ", --no-memory"
DIRECT, BESIDE, UNIX, SSH = "on the host itself", "attach pcscd:", "link over unix:", "link over ssh"
#: A command that only reads; one that uses a key; one of which nobody knows what it does.
COMMANDS: Final = {
    "reads (SELECT)": "00A4040000",
    "acts (INTERNAL AUTHENTICATE)": "00880000080102030405060708",
    "unknown (80 40)": "80400000",
}
#: s that the slow card takes; runs of a program with it, and s until the card is done with what they have left.
_SLOW, _RUNS, _DONE = 0.02, 7, 1.5
#: Bounds: with memory over without; the slow card's program over the host itself.
_MOST, _HALF = 1.05, 0.5


@dataclass
class Kept:
    """One kind of command over one way: s of each, and of the processors for all."""

    durations: list[float] = field(default_factory=list)
    processor: float = 0.0


def _ways() -> dict[str, Callable[[Site], OpenWay]]:
    return {
        UNIX: _attach_neighbour,
        UNIX + OFF: lambda site: _attach_neighbour(site, "--no-memory"),
        SSH: _attach_linked,
        SSH + OFF: lambda site: _attach_linked(site, "--no-memory"),
    }


def _processor(computers: tuple[Computer, ...]) -> float:
    """s of processor time that cardferry has taken there so far."""
    ticks = 0
    for number in {each for computer in computers for each in processes(computer, "cardferry")}:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICK


def lone(rounds: int) -> dict[tuple[str, str, str], Kept]:
    """By order, kind of command and way."""
    kept: dict[tuple[str, str, str], Kept] = {}
    with Lab() as lab:
        sites = {key: Site(lab, number) for number, key in enumerate(_ways())}
        for site in sites.values():
            fake_card(site.recipe.pcscd)
        ways = {key: way(sites[key]) for key, way in _ways().items()}
        for number in range(rounds):
            for key in sorted(ways, key=list(ways).index, reverse=bool(number % 2)):
                site = sites[key]
                for name, command in COMMANDS.items():
                    for order in ("apdu", "turn"):
                        one = kept.setdefault((order, name, key), Kept())
                        before = _processor((site.host, site.guest))
                        reader = site.recipe.pcscd.reader()
                        answer = ways[key].ask(order=order, reader=reader, count=_COUNT, command=command)
                        time.sleep(0.05)  # what was believed is still carried out
                        one.processor += _processor((site.host, site.guest)) - before
                        one.durations.extend(answer["durations"])
    return kept


def slow() -> dict[str, list[float]]:
    """``pkcs11-tool -L`` with the slow card, by way; the first run is the one that learns."""
    found: dict[str, list[float]] = {}
    with Lab() as lab:
        openers = {DIRECT: _direct, BESIDE: _beside, **_ways()}
        sites = {key: Site(lab, number) for number, key in enumerate(openers)}
        for site in sites.values():
            piv_card(site.recipe.pcscd, delay=_SLOW)
        ways = {key: way(sites[key]) for key, way in openers.items()}
        for _ in range(_RUNS):
            for key, way in ways.items():
                answer = way.ask(order="program", argv=["pkcs11-tool", "-L"])
                if answer["code"] or "token label" not in answer["out"]:
                    raise LabError(f"{key}: pkcs11-tool -L did not do its work: {answer}")
                found.setdefault(key, []).extend(answer["durations"])
                time.sleep(_DONE)
    return found


def table(kept: dict[tuple[str, str, str], Kept], programs: dict[str, list[float]]) -> str:
    """Both, with goals."""
    heads = ["", "with memory", "--no-memory", "ratio", "processor, with", "processor, without", "goal"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for (order, name, way), ours in kept.items():
        if way.endswith(OFF):
            continue
        base = kept[order, name, way + OFF]
        fast, plain = Figures.of(ours.durations).p50, Figures.of(base.durations).p50
        what = f"{'one APDU' if order == 'apdu' else 'begin + APDU + end'}, {name}, {way}"
        cells = [what, duration(fast), duration(plain), f"{fast / plain:.2f}"]
        cells += [duration(one.processor / len(one.durations)) for one in (ours, base)]
        lines.append("| " + " | ".join([*cells, "met" if fast <= _MOST * plain else "missed"]) + " |")
    lines += [
        "",
        f"| pkcs11-tool -L, a card of {_SLOW * 1000:.0f} ms | the first time | again | goal |",
        "|---|---|---|---|",
    ]
    local = median(programs[DIRECT][1:])
    for way, times in programs.items():
        again = median(times[1:])
        goal = "" if way in (DIRECT, BESIDE) or way.endswith(OFF) else "met" if again < _HALF * local else "missed"
        lines.append(f"| {way} | {duration(times[0])} | {duration(again)} | {goal} |")
    return "\n".join(lines)


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m bench.remembered", description="a link with and without memory")
    parser.add_argument("--rounds", type=int, default=40, help="%(default)s")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    options = parser.parse_args()
    text = table(lone(options.rounds), slow())
    print(text)
    if options.write:
        write_section("what memory costs", text, PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
