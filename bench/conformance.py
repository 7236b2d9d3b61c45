"""Runs pcsc-lite's own tests at pcscd and through cardferry, side by side.

    python -m bench.conformance UNITARY_TESTS [--write] [--only PART]

``UNITARY_TESTS`` is the folder of that name in pcsc-lite's source, which you fetched; nothing of it is shipped here.
The tests need pyscard. Most print a verdict and exit with 0 whatever it is, so the output is judged. Where a test wants
a card or a reader removed, that is done when it says so.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tests.lab import Lab, LabError
from tests.lab.cards import CardInReader, fake_card
from tests.lab.computer import REPOSITORY
from tests.lab.ferry import Ferry
from tests.lab.pcscd import SOCKET, Pcscd
from tests.lab.process import Running

from bench.machine import versions
from bench.page import write_section

PAGE = REPOSITORY / "docs" / "conformance.md"
#: s that one test may take.
_TIME = 60.0


class Verdict(Enum):
    """What came of a test."""

    AS_EXPECTED = "as expected"
    OTHERWISE = "**otherwise**"
    HANGS = "**hangs**"


@dataclass(frozen=True, slots=True)
class Test:
    """One of upstream's tests.

    Attributes:
        script: its path in the folder.
        expected: in words, for the table.
        wanted: what its output must match, anywhere.
        unwanted: what its output must not match.
        code: its exit code.
        arguments: for the script.
        act: what to do while it runs.
    """

    script: str
    expected: str
    wanted: str = ""
    unwanted: str = "FAILED|ERROR!|Traceback"
    code: int = 0
    arguments: tuple[str, ...] = ()
    act: Callable[[Running, Stage], None] | None = None


class Stage:
    """What a test runs on: a reader with a card, and hands to take it out.

    Attributes:
        name: for the table's column.
        environment: leads programs to it.
    """

    def __init__(self, name: str, pcscd: Pcscd, card: CardInReader, environment: dict[str, str]) -> None:
        self.name = name
        self.pcscd = pcscd
        self.card = card
        self.environment = environment

    def reset(self) -> None:
        """A freshly inserted card."""
        self.card.remove()
        self.card.insert()


def _enter(program: Running, _: Stage) -> None:
    program.write("\n" * 20)


def _take_card_out(program: Running, stage: Stage) -> None:
    program.wait_for("Remove the card")
    stage.card.remove()
    program.write("\n" * 20)


def _take_card_out_and_put_it_in(program: Running, stage: Stage) -> None:
    program.wait_for("Remove the card")
    stage.card.remove()
    program.wait_for("Insert the card", timeout=_TIME)
    stage.card.insert()


def _take_reader_away(program: Running, stage: Stage) -> None:
    program.wait_for("Remove reader")
    stage.pcscd.stop()
    program.write("\n")


TESTS = (
    Test("SCardBeginTransaction_Disconnect.py", "exit code 0"),
    Test("SCardBeginTransaction_ExclusiceMode.py", "exit code 0"),
    Test("SCardBeginTransaction_Reset.py", "We got the expected error", "We got the expected error"),
    Test("SCardBeginTransaction_SharedMode.py", "Blocking: OK", "Blocking: OK"),
    Test("SCardBeginTransaction_deadlock.py", "no deadlock, exit code 0"),
    Test("SCardBlockingBehaviourTest.py", "six times succeeded", r"(?s)(Test for \w+ succeeded.*){6}"),
    Test("SCardCancel.py", "Command cancelled", "Command cancelled"),
    Test("SCardCancel2.py", "exit code 0"),
    Test("SCardConnect_DIRECT.py", "exit code 0"),
    Test("SCardConnect_DIRECT2.py", "exit code 0"),
    Test("SCardEndTransaction_extra_call.py", "OK", "OK"),
    Test("SCardExclusiveBehaviour.py", "Test successful", "Test successful"),
    Test("SCardGetAttrib.py", "exit code 0"),
    Test("getAttrib.py", "exit code 0"),
    Test("control_get_firmware.py", "exit code 0"),
    Test("reset_card.py", "exit code 0"),
    Test("reset_card.py", "exit code 0", arguments=("reset",)),
    Test("SCardGetStatusChange2.py", "exit code 1, unknown reader", "0x80100009|Unknown reader", "", 1),
    Test("SCardGetStatusChange/SCardGetStatusChange_nonBlock.py", "OK", "OK"),
    Test("ThreadSafe.py", "exit code 0"),
    Test("ThreadSafeConnect.py", "exit code 0"),
    Test("FEATURE_GET_TLV_PROPERTIES.py", "exit code 1: the reader has none", unwanted="", code=1),
    Test("SCard_fork.py", "exit code 1 on libraries without its build option", unwanted="", code=1),
    Test("SCardStatus.py", "exit code 0", act=_enter),
    Test("SCardReconnect.py", "exit code 0", act=_enter),
    Test("SCardCancel3.py", "Card removed", "Card removed", act=_take_card_out),
    Test("CheckAutoPowerOff.py", "Test passed", "Test passed", act=_take_card_out_and_put_it_in),
    Test("SCard_RemovedReader.py", "exit code 0", unwanted="Traceback", act=_take_reader_away),
)


@dataclass(frozen=True, slots=True)
class Result:
    """What a test did on one stage."""

    verdict: Verdict
    code: int | None
    output: str


def run(test: Test, folder: Path, stage: Stage) -> Result:
    """Run one test."""
    command: list[str | Path] = [sys.executable, "-u", folder / test.script, *test.arguments]
    program = stage.pcscd.computer.popen(command, env=stage.environment, stdin=True)
    try:
        if test.act is not None:
            test.act(program, stage)
        done = program.wait(_TIME)
    except LabError as error:
        return Result(Verdict.HANGS, None, f"{error}\n{program}")
    finally:
        program.close()
    output = done.all
    good = (
        done.code == test.code
        and (not test.wanted or re.search(test.wanted, output) is not None)
        and (not test.unwanted or re.search(test.unwanted, output) is None)
    )
    return Result(Verdict.AS_EXPECTED if good else Verdict.OTHERWISE, done.code, output)


def measure(folder: Path, tests: Sequence[Test]) -> Iterator[tuple[Test, dict[str, Result]]]:
    """Each test, at pcscd and through cardferry; both on a computer of their own with a freshly inserted card."""
    with Lab() as lab:
        stages = []
        for name in ("pcscd", "cardferry"):
            pcscd = Pcscd(lab.computer(name))
            card = fake_card(pcscd)
            stages.append(Stage(name, pcscd, card, {}))
        ferry = Ferry(stages[1].pcscd.computer, ["attach", f"pcscd:{SOCKET}"])
        stages[1].environment = ferry.env
        for test in tests:
            results = {}
            for stage in stages:
                stage.reset()
                results[stage.name] = run(test, folder, stage)
                if stage.pcscd.process.code is not None:
                    stage.pcscd.start()
            yield test, results


def table(results: Sequence[tuple[Test, dict[str, Result]]]) -> str:
    """The verdicts, in Markdown."""
    used = versions()
    lines = [
        f"pcscd {used['pcsc-lite']} and its library, vpcd {used['vpcd']}, pyscard.",
        "",
        "| test | expected | pcscd | cardferry |",
        "|---|---|---|---|",
    ]
    for test, by_stage in results:
        name = " ".join((f"`{test.script}`", *test.arguments))
        verdicts = " | ".join(by_stage[stage].verdict.value for stage in ("pcscd", "cardferry"))
        lines.append(f"| {name} | {test.expected} | {verdicts} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 when cardferry does as expected wherever pcscd does."""
    parser = argparse.ArgumentParser(prog="python -m bench.conformance", description=__doc__)
    parser.add_argument("folder", type=Path, help="UnitaryTests of pcsc-lite's source")
    parser.add_argument("--only", default="", help="tests whose name contains this")
    parser.add_argument("--write", action="store_true", help="write docs/conformance.md anew")
    options = parser.parse_args(arguments)
    chosen = [test for test in TESTS if options.only in test.script]
    missing = [test.script for test in chosen if not (options.folder / test.script).is_file()]
    if missing:
        print(f"error: {options.folder} has no {missing[0]}", file=sys.stderr)
        print("hint: name the folder UnitaryTests of pcsc-lite's source", file=sys.stderr)
        return 2
    results = []
    worse = 0
    for test, by_stage in measure(options.folder.resolve(), chosen):
        results.append((test, by_stage))
        print(test.script, *test.arguments, *(f"{name}: {one.verdict.value}" for name, one in by_stage.items()))
        ours, theirs = by_stage["cardferry"], by_stage["pcscd"]
        if ours.verdict is not Verdict.AS_EXPECTED:
            print(ours.output)
            worse += theirs.verdict is Verdict.AS_EXPECTED
    if options.write:
        write_section("conformance", table(results), PAGE)
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
