"""What a pool gives: the same twenty guests at one card, at four, and at four of which one dies, in one run.

    python -m bench.pool [--quick] [--write] [--results FILE]

Each guest is a computer of its own with a `cardferry attach` and one program, which has never heard of pools: it
connects, begins a transaction, transmits some commands, ends it and disconnects, again and again. Each card is at a
host of its own, and takes 20 ms for each command. How busy the machine's own processors are is said, too: when they
have nothing left, it is them that are measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.lab import Lab
from tests.lab.computer import REPOSITORY, Computer
from tests.lab.ferry import Ferry
from tests.lab.pool import Place, attach_all, configure, loops, turns

from bench.fairness import Outcome, Turn, outcome
from bench.machine import machine, versions
from bench.page import write_section

PAGE = REPOSITORY / "docs" / "pools.md"
#: s that a card takes for a command; commands in a transaction, such as a signature has.
CARD, COMMANDS = 0.02, 5
COUNT_APDU = "80200000"
#: Cards, guests, s of each run.
FULL, QUICK = (4, 20, 20.0), (2, 4, 3.0)
_MOST_ERRORS = 100


@dataclass(frozen=True, slots=True)
class Run:
    """One run.

    Attributes:
        cards: how many there were; and what happened to one of them.
        outcome: how it went.
        idle: part of the time in which the machine's processors had nothing to do.
    """

    cards: str
    outcome: Outcome
    idle: float


def _processors() -> tuple[int, int]:
    """Idle time and all time of the processors, in ticks (proc_stat(5))."""
    ticks = [int(one) for one in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def use(guests: Sequence[tuple[Computer, Ferry]], seconds: float, cards: str, dies: Place | None = None) -> Run:
    """Let the guests' programs loop.

    Args:
        dies: a host that is killed when a third of the time is over.
    """
    words = ["--errors", str(_MOST_ERRORS), "--commands", str(COMMANDS)]
    programs = loops(guests, seconds, *words, apdu=COUNT_APDU)
    idle, ticks = _processors()
    if dies is not None:
        time.sleep(seconds / 3)
        dies.kill()
    had = [[Turn(*turn) for turn in each] for each in turns(programs, seconds)]
    idle_now, ticks_now = _processors()
    judged = outcome("cardferry", CARD, seconds, had)
    return Run(cards, judged, (idle_now - idle) / (ticks_now - ticks))


def measure(cards: int, count: int, seconds: float) -> list[Run]:
    """All runs."""
    with Lab() as lab:
        places = [Place(lab, number, CARD) for number in range(cards)]
        for place in places:
            place.ready()
        guests = [lab.computer(f"guest{number}") for number in range(count)]
        runs = []
        for members in (places[:1], places):
            for guest in guests:
                configure(guest, [place.name for place in members])
            with ExitStack() as stack:
                ferries = attach_all(guests)
                for ferry in ferries:
                    stack.callback(ferry.stop)
                attached = list(zip(guests, ferries, strict=True))
                runs.append(use(attached, seconds, str(len(members))))
                if len(members) == cards:
                    runs.append(use(attached, seconds, f"{cards}, one killed", places[0]))
        return runs


def table(runs: Sequence[Run]) -> str:
    """The figures, in Markdown."""
    one = runs[0].outcome
    lines = [
        "| cards | guests | transactions/s | of what one card gives | most and fewest | Jain's index | longest wait "
        "| processors idle |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        had = run.outcome
        lines.append(
            f"| {run.cards} | {len(had.turns)} | {had.rate:.1f} | {had.rate / one.rate:.2f} "
            f"| {had.turns[0]}, {had.turns[-1]} | {had.jain:.3f} | {had.longest_wait:.2f} s | {run.idle:.0%} |"
        )
    ran_on = f"{machine()}; " + ", ".join(f"{name} {number}" for name, number in versions().items())
    return f"Measured on a {ran_on}. A transaction has {COMMANDS} commands of 20 ms.\n\n" + "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.pool", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="some seconds, to see that it works")
    parser.add_argument("--write", action="store_true", help="write the figures into docs/pools.md")
    parser.add_argument("--results", type=Path, help="also write the figures as JSON")
    options = parser.parse_args(arguments)
    runs = measure(*(QUICK if options.quick else FULL))
    for run in runs:
        print(f"{run.cards}: {run.outcome.rate:.1f}/s, jain {run.outcome.jain:.3f}", file=sys.stderr)
    page = table(runs)
    print(page)
    if options.results:
        options.results.write_text(json.dumps([asdict(run) for run in runs], indent=1))
    if options.write:
        write_section("pool", page, PAGE)


if __name__ == "__main__":
    main()
