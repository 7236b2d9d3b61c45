"""``python -m bench.lan``: a link next door, beside ``ssh -N -L`` and the host itself, in turns.

--rounds N    rounds of 25 lone APDUs and 25 transactions for each way
--no-memory   links that ask the card for each command
--write       write the table into docs/link-performance.md
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.lab.cards import fake_card, openpgp_card, piv_card
from tests.lab.lab import Lab
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.process import LabError

from bench.figures import Figures, duration
from bench.page import write_section
from bench.wan import PAGE
from bench.ways import (
    OpenWay,
    Site,
    _attach_direct,
    _attach_fleet,
    _attach_linked,
    _attach_neighbour,
    _attach_pool,
    _attach_tls,
    _direct,
    _nothing_over_tcp,
    _nothing_twice,
    _ssh,
)  # the same ways as everywhere

_COUNT = 25
DIRECT, SSH, LINK, ECHO = "on the host itself", "ssh -N -L", "link over ssh", "ssh HOST cat"
UNIX, TLS, BESIDE = "link over unix:", "link over TLS", "attach --direct"
NATS, POOL = "link through NATS", "pool of one card, over TLS"
#: What two Python processes in the places of ours cost that do nothing but pass bytes on.
BARE, BARE_TCP = "bare relays over ssh", "bare relays over TCP"
#: What a program is asked to find: a PIV card and an empty reader, or an empty OpenPGP card in that one. The second
#: card makes it try one application after the other, about 270 commands; nobody can foresee which comes next.
ONE_CARD, TWO_CARDS = "pkcs11-tool -L, a PIV card", "pkcs11-tool -L, PIV and OpenPGP card"
#: What ssh alone needs to carry 60 bytes to a process on the other side and back.
_ECHO = """
import json, socket, subprocess, sys, time
near, far = socket.socketpair()
subprocess.Popen(sys.argv[2:], stdin=far, stdout=far)
far.close()
durations = []
for _ in range(int(sys.argv[1]) + 20):
    start = time.perf_counter()
    near.sendall(bytes(60))
    left = 60
    while left:
        left -= len(near.recv(left))
    durations.append(time.perf_counter() - start)
print(json.dumps(durations[20:]))
"""


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound for a figure of a link over the same one of another way."""

    metric: str
    figure: str
    base: str
    most: float
    way: str = LINK


GOALS = (
    Goal("one APDU", "p50", SSH, 1.5),
    Goal("one APDU", "p99", SSH, 0.5),
    Goal("begin + APDU + end", "p50", SSH, 0.7),
    *(Goal(metric, "p50", DIRECT, 2.0) for metric in (ONE_CARD, TWO_CARDS)),
    *(Goal(metric, "p50", SSH, 0.05) for metric in (ONE_CARD, TWO_CARDS)),
    Goal("one APDU", "p50", LINK, 1.0, UNIX),
    Goal("begin + APDU + end", "p50", LINK, 1.0, TLS),
    Goal("one APDU", "p50", SSH, 1.0, BESIDE),
    Goal("begin + APDU + end", "p50", SSH, 0.6, BESIDE),
)


def measure(rounds: int, words: Sequence[str] = ()) -> dict[tuple[str, str], Figures]:
    """By metric and way; ``words`` are further ones for the links' `attach`."""
    durations: dict[tuple[str, str], list[float]] = {}
    with Lab() as lab:
        sites = [Site(lab, number) for number in range(10)]
        cards = [fake_card(site.recipe.pcscd) for site in sites]
        ways = {
            DIRECT: _direct(sites[0]),
            SSH: _ssh(sites[1]),
            LINK: _attach_linked(sites[2], *words),
            UNIX: _attach_neighbour(sites[3], *words),
            BARE: _nothing_twice(sites[4]),
            TLS: _attach_tls(sites[5], *words),
            BARE_TCP: _nothing_over_tcp(sites[7]),
            BESIDE: _attach_direct(sites[6], *words),
            NATS: _attach_fleet(sites[8], *words),
            POOL: _attach_pool(sites[9], *words),
        }
        for number in range(rounds):
            for name in _turned(list(ways), number):
                for order, metric in (("apdu", "one APDU"), ("turn", "begin + APDU + end")):
                    answer = ways[name].ask(order=order, reader=sites[0].recipe.pcscd.reader(), count=_COUNT)
                    durations.setdefault((metric, name), []).extend(answer["durations"])
            durations.setdefault(("one APDU", ECHO), []).extend(_echo(sites[1]))
        for site, card in zip(sites, cards, strict=True):
            card.remove()
            piv_card(site.recipe.pcscd)
        _programs(ONE_CARD, ways, rounds, durations)
        for site in sites:
            openpgp_card(site.recipe.pcscd, 1)
        _programs(TWO_CARDS, ways, rounds, durations)
    return {key: Figures.of(values) for key, values in durations.items()}


def _programs(
    metric: str, ways: Mapping[str, OpenWay], rounds: int, durations: dict[tuple[str, str], list[float]]
) -> None:
    for number in range(max(5, rounds // 8)):
        for name in _turned([name for name in ways if name not in (BARE, BARE_TCP)], number):
            durations.setdefault((metric, name), []).extend(_list(ways[name]))


def _turned(names: Sequence[str], number: int) -> list[str]:
    first = number % len(names)
    return [*names[first:], *names[:first]]


def _echo(site: Site) -> list[float]:
    words = [PLAIN_PYTHON, "-c", _ECHO, str(_COUNT), "ssh", "-F", str(site.to_host), "-T", "host", "cat"]
    durations: list[float] = json.loads(site.guest.run(words).check().out)
    return durations


def _list(way: OpenWay) -> list[float]:
    answer = way.ask(order="program", argv=["pkcs11-tool", "-L"])
    if answer["code"] or "token label" not in answer["out"]:
        raise LabError(f"pkcs11-tool -L did not do its work: {answer}")
    durations: list[float] = answer["durations"]
    return durations


def table(figures: dict[tuple[str, str], Figures]) -> str:
    """Figures, then goals."""
    ways = (DIRECT, ECHO, SSH, BARE, BARE_TCP, LINK, UNIX, TLS, BESIDE, NATS, POOL)
    lines = ["| | " + " | ".join(ways) + " |", "|---" * (len(ways) + 1) + "|"]
    for metric in dict.fromkeys(metric for metric, _ in figures):
        for figure in ("p50", "p99"):
            known = [figures.get((metric, way)) for way in ways]
            cells = ["" if one is None else duration(getattr(one, figure)) for one in known]
            lines.append(f"| {metric}, {figure} | " + " | ".join(cells) + " |")
    lines += ["", "| goal | ratio | |", "|---|---|---|"]
    for goal in GOALS:
        ours, base = figures[goal.metric, goal.way], figures[goal.metric, goal.base]
        ratio = getattr(ours, goal.figure) / getattr(base, goal.figure)
        what = f"{goal.metric}, {goal.figure}: {goal.way} at most {goal.most:g} of {goal.base}"
        lines.append(f"| {what} | {ratio:.2f} | {'met' if ratio <= goal.most else 'missed'} |")
    return "\n".join(lines)


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m bench.lan", description="a link beside ssh -N -L, next door")
    parser.add_argument("--rounds", type=int, default=60, help="%(default)s")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    parser.add_argument("--no-memory", action="store_true", help="links that ask the card for each command")
    options = parser.parse_args()
    text = table(measure(options.rounds, ("--no-memory",) if options.no_memory else ()))
    print(text)
    if options.write:
        write_section("next door", text, PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
