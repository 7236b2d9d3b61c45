"""Who gets the card, and when: programs that loop over one card, at pcscd and through cardferry, side by side.

    python -m bench.fairness [--quick] [--write] [--results FILE]

Each program connects and then begins a transaction, transmits one APDU and ends it, again and again. The same card,
behind the same pcscd, is used directly and through ``cardferry attach pcscd:...``, one run after the other.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import matplotlib as mpl
from matplotlib.figure import Figure
from tests.lab import Lab
from tests.lab.cards import fake_card
from tests.lab.computer import PCSC_CLIENT, REPOSITORY, Computer
from tests.lab.ferry import Ferry
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.pcscd import SOCKET, Pcscd

from bench.machine import machine, versions
from bench.page import write_section

PAGE = REPOSITORY / "docs" / "fairness.md"
PICTURE = REPOSITORY / "docs" / "images" / "fairness.svg"
#: s that a card takes for an APDU, and how many programs at once for how many s.
DELAYS = (0.02, 0.0)
RUNS = ((1, 5.0), (2, 10.0), (10, 10.0), (100, 40.0))
QUICK = ((1, 1.0), (2, 1.5), (10, 2.0))
WAYS = ("pcscd", "cardferry")


@dataclass(frozen=True, slots=True)
class Turn:
    """One transaction: when it was asked for, when the card was the program's, when it was given back (s)."""

    asked: float
    owned: float
    released: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one run went.

    Attributes:
        way: ``pcscd`` or ``cardferry``.
        delay: of the card, in s.
        turns: of each program, most first.
        jain: Jain's fairness index of the turns: 1 is equal, 1/n is one program alone.
        longest_wait: for a turn, in s; a program that waits at the end counts as well.
        rate: turns a second of all programs together.
        hand_over: median of the times from an end until the next one who waited has the card, in s; None for one
            program.
    """

    way: str
    delay: float
    turns: list[int]
    jain: float
    longest_wait: float
    rate: float
    hand_over: float | None


def jain(counts: Sequence[int]) -> float:
    """Jain's index: the square of the sum over n times the sum of the squares (Jain, Chiu, Hawe 1984)."""
    squares = sum(count * count for count in counts)
    return sum(counts) ** 2 / (len(counts) * squares) if squares else 0.0


def outcome(way: str, delay: float, seconds: float, programs: Sequence[Sequence[Turn]]) -> Outcome:
    """Judge a run from the turns of all its programs.

    Counted is the time in which all of them were there: from the moment when the last one had begun, for ``seconds``,
    or until the first one stopped asking.
    """
    begun = max(min((turn.asked for turn in turns), default=0.0) for turns in programs)
    until = min([begun + seconds, *(turns[-1].released for turns in programs if turns)])
    if any(not turns for turns in programs):
        until = begun + seconds
    counted = [[turn for turn in turns if begun <= turn.owned < until] for turns in programs]
    counts = sorted((len(turns) for turns in counted), reverse=True)
    return Outcome(
        way,
        delay,
        counts,
        jain(counts),
        max(_longest_wait(turns, begun, until) for turns in programs),
        sum(counts) / (until - begun),
        _hand_over(counted),
    )


def _longest_wait(turns: Sequence[Turn], begun: float, until: float) -> float:
    waits = [turn.owned - turn.asked for turn in turns if turn.owned >= begun and turn.asked < until]
    return max(waits, default=until - begun)


def _hand_over(programs: Sequence[Sequence[Turn]]) -> float | None:
    turns = sorted(itertools.chain.from_iterable(programs), key=lambda turn: turn.owned)
    gaps = [
        after.owned - before.released
        for before, after in itertools.pairwise(turns)
        if after.asked < before.released <= after.owned
    ]
    return median(gaps) if gaps else None


def loops(computer: Computer, reader: str, socket: Path | None, count: int, seconds: float) -> list[list[Turn]]:
    """Run ``count`` looping programs for ``seconds``; returns the turns of each."""
    return mixed(computer, reader, [socket] * count, seconds)


def mixed(computer: Computer, reader: str, sockets: Sequence[Path | None], seconds: float) -> list[list[Turn]]:
    """Run a looping program for each of the sockets, None being pcscd's own; returns the turns of each."""
    words: list[str | Path] = [
        PLAIN_PYTHON,
        PCSC_CLIENT,
        "loop",
        reader,
        "--seconds",
        str(seconds),
        "--start",
        "--apdu",
        "00a4040000",
    ]
    with ExitStack() as stack:
        programs = [
            computer.popen(words, env={} if socket is None else {"PCSCLITE_CSOCK_NAME": str(socket)}, stdin=True)
            for socket in sockets
        ]
        for program in programs:
            stack.callback(program.close)
            program.wait_for('"ready": true', timeout=60)
        for program in programs:
            program.write("go\n")
        said = [program.wait_for('"turns"', timeout=seconds * 3 + 60).string for program in programs]
    return [[Turn(*turn) for turn in json.loads(line)["turns"]] for line in said]


def measure(runs: Sequence[tuple[int, float]]) -> Iterator[Outcome]:
    """All runs: each card, each number of programs, at pcscd and then through cardferry."""
    for delay in DELAYS:
        with Lab() as lab:
            host = lab.computer("host")
            pcscd = Pcscd(host)
            fake_card(pcscd, delay=delay)
            for count, seconds in runs:
                yield outcome("pcscd", delay, seconds, loops(host, pcscd.reader(), None, count, seconds))
                ferry = Ferry(host, ["attach", f"pcscd:{SOCKET}"])
                yield outcome("cardferry", delay, seconds, loops(host, pcscd.reader(), ferry.socket, count, seconds))
                ferry.stop()


@dataclass(frozen=True, slots=True)
class Neighbours:
    """One program on the host itself beside nine that come through cardferry.

    Attributes:
        local: turns of the program at pcscd.
        longest_wait: of that program, in s.
        remote: turns of each of the others, most first.
    """

    local: int
    longest_wait: float
    remote: list[int]


def neighbours(seconds: float) -> Neighbours:
    """Let one local program and nine others loop over a card of 20 ms."""
    with Lab() as lab:
        host = lab.computer("host")
        pcscd = Pcscd(host)
        fake_card(pcscd, delay=DELAYS[0])
        ferry = Ferry(host, ["attach", f"pcscd:{SOCKET}"])
        local, *remote = mixed(host, pcscd.reader(), [None, *[ferry.socket] * 9], seconds)
    begun = max(turns[0].asked for turns in remote)
    counted = [[turn for turn in turns if begun <= turn.owned < begun + seconds] for turns in (local, *remote)]
    wait = _longest_wait(local, begun, begun + seconds) if local else seconds
    return Neighbours(len(counted[0]), wait, sorted((len(turns) for turns in counted[1:]), reverse=True))


def told(neighbours: Neighbours, seconds: float) -> str:
    """The same in a sentence."""
    most, fewest = neighbours.remote[0], neighbours.remote[-1]
    return (
        f"One program at pcscd itself beside nine through cardferry, {seconds:g} s with a card of 20 ms: the local "
        f"program had {neighbours.local} turns and never waited longer than {neighbours.longest_wait:.1f} s; "
        f"the nine had {fewest} to {most} each."
    )


def table(outcomes: Sequence[Outcome]) -> str:
    """The figures, in Markdown."""
    lines = [
        "| card | programs | | turns/s | of what one alone gets | most and fewest turns | Jain's index "
        "| longest wait | that, in full rounds | hand-over, median |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    alone = {(one.way, one.delay): one.rate for one in outcomes if len(one.turns) == 1}
    for one in outcomes:
        single = alone[one.way, one.delay]
        rounds = one.longest_wait * single / len(one.turns)
        hand_over = "" if one.hand_over is None else f"{one.hand_over * 1000:.2f} ms"
        lines.append(
            f"| {one.delay * 1000:g} ms | {len(one.turns)} | {one.way} | {one.rate:.1f} | {one.rate / single:.1%} "
            f"| {one.turns[0]}, {one.turns[-1]} | {one.jain:.3f} | {one.longest_wait:.3f} s "
            f"| {rounds:.2f} | {hand_over} |"
        )
    ran_on = f"{machine()}; " + ", ".join(f"{name} {number}" for name, number in versions().items())
    return f"Measured on a {ran_on}.\n\n" + "\n".join(lines)


def plot(outcomes: Sequence[Outcome], path: Path) -> None:
    """Turns of each program, pcscd's beside ours."""
    counts = sorted({len(one.turns) for one in outcomes} - {1})
    with mpl.rc_context({"svg.hashsalt": "bench", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"}):
        figure = Figure(figsize=(4.0 * len(counts), 3.4), layout="constrained")
        panels = figure.subplots(1, len(counts), squeeze=False)[0]
        for panel, count in zip(panels, counts, strict=True):
            for way, colour, shift in zip(WAYS, ("#4477aa", "#cc3311"), (-0.2, 0.2), strict=True):
                turns = next(one.turns for one in outcomes if len(one.turns) == count and one.way == way and one.delay)
                panel.bar([number + 1 + shift for number in range(count)], turns, 0.4, color=colour, label=way)
            panel.set_title(f"{count} programs")
            panel.set_xlabel("program, the luckiest first")
            panel.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel("turns with a card of 20 ms")
        panels[0].legend(frameon=False)
        figure.savefig(path, metadata={"Date": None})


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.fairness", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="some seconds, to see that it works")
    parser.add_argument("--write", action="store_true", help="write docs/fairness.md and its picture anew")
    parser.add_argument("--results", type=Path, help="also write the figures as JSON")
    options = parser.parse_args(arguments)
    outcomes: list[Outcome] = []
    for one in measure(QUICK if options.quick else RUNS):
        print(f"{one.delay * 1000:g} ms, {len(one.turns)} x {one.way}: jain {one.jain:.3f}", file=sys.stderr)
        outcomes.append(one)
    seconds = 3.0 if options.quick else 20.0
    beside = neighbours(seconds)
    page = f"{table(outcomes)}\n\n{told(beside, seconds)}"
    print(page)
    if options.results:
        figures = {"runs": [asdict(one) for one in outcomes], "neighbours": asdict(beside)}
        options.results.write_text(json.dumps(figures, indent=1))
    if options.write:
        plot(outcomes, PICTURE)
        write_section("fairness", page, PAGE)


if __name__ == "__main__":
    main()
