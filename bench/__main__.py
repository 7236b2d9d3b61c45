"""``python -m bench``: measure, print, and on request write down.

--quick            about half a minute, to see that all still works; the figures mean little
--ways KEY,...     only these columns: direct, beside, ssh, terminal, nothing (a relay that does
                       nothing), attach, share, attach2, share2 (cardferry at both ends)
--near, --far      only this distance
--results FILE     save the results as JSON
--from FILE        do not measure, take results that were saved
--write            write the tables into docs/performance.md and draw docs/images/performance.svg
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.lab.computer import REPOSITORY
from tests.lab.lab import Lab
from tests.lab.namespaces import missing_parts

from bench.machine import machine, versions
from bench.metrics import FULL, QUICK, Distance
from bench.page import write_section
from bench.quiet import Patience
from bench.report import tables
from bench.results import Results, load
from bench.run import Bench
from bench.ways import WAYS

PICTURE = REPOSITORY / "docs" / "images" / "performance.svg"


def command_line() -> argparse.ArgumentParser:
    """The options above."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="cardferry beside plain ssh forwarding")
    parser.add_argument("--quick", action="store_true", help="about half a minute; the figures mean little")
    parser.add_argument("--ways", default=",".join(way.key for way in WAYS), help="only these columns: %(default)s")
    only = parser.add_mutually_exclusive_group()
    for distance in Distance:
        only.add_argument(f"--{distance}", dest="only", action="store_const", const=distance, help="only this distance")
    parser.add_argument(
        "--patience", type=float, default=60.0, metavar="S", help="seconds to wait, in all, for a quiet machine"
    )
    parser.add_argument("--results", type=Path, metavar="FILE", help="save the results as JSON")
    parser.add_argument("--from", dest="saved", type=Path, metavar="FILE", help="take saved results")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md and its picture")
    return parser


def measure(options: argparse.Namespace) -> Results:
    """Run."""
    wanted = options.ways.split(",")
    ways = [way for way in WAYS if way.key in wanted]
    efforts = QUICK if options.quick else FULL

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    patience = Patience(0.0 if options.quick else options.patience)
    with Lab() as lab:
        bench = Bench(lab, ways, patience, say)
        for distance in Distance if options.only is None else [options.only]:
            bench.measure(distance, efforts[distance])
        return Results(machine(), versions(), options.quick, patience.rounds, patience.quiet, bench.figures())


def main() -> int:
    """Measure and report; 1 when that cannot be done here."""
    options = command_line().parse_args()
    unknown = set(options.ways.split(",")) - {way.key for way in WAYS}
    if unknown:
        print(f"error: no such way: {', '.join(sorted(unknown))}", file=sys.stderr)
        print(f"hint: there are {', '.join(way.key for way in WAYS)}", file=sys.stderr)
        return 2
    if options.saved is not None:
        results = load(options.saved)
    elif missing_parts():
        print(f"error: cannot measure here, missing: {'; '.join(missing_parts())}", file=sys.stderr)
        print("hint: make bench installs the packages, as root", file=sys.stderr)
        return 1
    else:
        results = measure(options)
    if options.results is not None:
        results.save(options.results)
    found = tables(results)
    print(about(results), *(table.plain() for table in found), sep="\n\n")
    if options.write:
        from bench.plot import plot  # noqa: PLC0415 - matplotlib takes a second to load

        write_section("the comparison", "\n".join([about(results), "", *(table.markdown() for table in found)]))
        plot(results, PICTURE)
    return 0


def about(results: Results) -> str:
    """What the figures were measured on."""
    told = ", ".join(f"{name} {number}" for name, number in results.versions.items())
    text = f"Measured on a {results.machine}; {told}."
    if results.rounds:
        text += f" {results.quiet} of {results.rounds} rounds next door began while the machine was doing nothing else."
    if results.quick:
        text += " A quick run: the figures mean little."
    return text


if __name__ == "__main__":
    sys.exit(main())
