"""Runs pcsc-lite's own tests at pcscd and through cardferry in each way of deploying it, side by side.

    python -m bench.conformance UNITARY_TESTS [--write] [--only PART] [--way PART]

``UNITARY_TESTS`` is the folder of that name in pcsc-lite's source, which you fetched; nothing of it is shipped here.
The tests need pyscard. Most print a verdict and exit with 0 whatever it is, so the output is judged. Where a test wants
a card or a reader removed, that is done when it says so.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from pathlib import Path

from tests.lab import Computer, Lab, LabError
from tests.lab.cards import CardInReader, fake_card
from tests.lab.computer import REPOSITORY
from tests.lab.ferry import Ferry, attach, share
from tests.lab.link import install_cardferry, link_of
from tests.lab.pcscd import SOCKET
from tests.lab.process import Running
from tests.lab.recipe import Recipe
from tests.lab.usb_reader import UsbReader

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


@dataclass(frozen=True, slots=True)
class Stage:
    """What a test runs on: a reader with a card, hands to take them out, and a way there.

    Attributes:
        usb: the reader, with its pcscd.
        card: in the reader.
        computer: where the tests run.
        env: leads them to the card.
    """

    usb: UsbReader
    card: CardInReader
    computer: Computer
    env: dict[str, str]

    def reset(self) -> None:
        """A freshly inserted card, in a reader that is there."""
        self.usb.plug()
        if self.card.process.code is None:
            self.card.remove()
        self.card.insert()


def _at_pcscd(lab: Lab, name: str) -> Stage:
    usb = UsbReader(lab.computer(name))
    return Stage(usb, fake_card(usb), usb.computer, {})


def _beside_pcscd(lab: Lab, name: str) -> Stage:
    stage = _at_pcscd(lab, name)
    return replace(stage, env=Ferry(stage.computer, ["attach", f"pcscd:{SOCKET}"]).env)


def _on_a_guest(command: str, linked: bool, lab: Lab, name: str) -> Stage:
    """``attach`` or ``share``, next door; what is not linked has cardferry at one end only."""
    recipe = Recipe(lab, names=(f"{name}h", f"{name}g"), pcscd=UsbReader)
    assert isinstance(recipe.pcscd, UsbReader)
    card = fake_card(recipe.pcscd)
    here, there = (recipe.guest, recipe.host) if command == "attach" else (recipe.host, recipe.guest)
    if linked:
        install_cardferry(there)
    ferry = attach(recipe) if command == "attach" else share(recipe)
    if link_of(here, command).way != ("link" if linked else "forwarding"):
        raise LabError(f"not the way that was asked for: {ferry.process}")
    return Stage(recipe.pcscd, card, recipe.guest, ferry.env)


#: The columns: how each is built, with a name for its computers.
WAYS: dict[str, Callable[[Lab, str], Stage]] = {
    "pcscd": _at_pcscd,
    "`attach pcscd:`": _beside_pcscd,
    "`attach`, linked": partial(_on_a_guest, "attach", True),
    "`attach --no-link`": partial(_on_a_guest, "attach", False),
    "`share`, linked": partial(_on_a_guest, "share", True),
    "`share`, only sshd": partial(_on_a_guest, "share", False),
}
ALONE = "pcscd"


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
    stage.usb.unplug()
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
    program = stage.computer.popen(command, env=stage.env, stdin=True)
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


def measure(folder: Path, tests: Sequence[Test], ways: Sequence[str]) -> Iterator[tuple[Test, dict[str, Result]]]:
    """Each test, in each way; all have computers of their own and a freshly inserted card."""
    with Lab() as lab:
        folder = Path(shutil.copytree(folder, lab.folder / "UnitaryTests"))  # a computer's own /tmp hides ours
        stages = {way: WAYS[way](lab, f"way{number}") for number, way in enumerate(ways)}
        for test in tests:
            results = {}
            for way, stage in stages.items():
                stage.reset()
                results[way] = run(test, folder, stage)
            yield test, results


def table(results: Sequence[tuple[Test, dict[str, Result]]]) -> str:
    """The verdicts, in Markdown."""
    used = versions()
    lines = [
        f"pcscd {used['pcsc-lite']} and its library, vpcd {used['vpcd']}, pyscard.",
        "",
        f"| test | expected | {' | '.join(WAYS)} |",
        f"|---|---|{'---|' * len(WAYS)}",
    ]
    for test, by_way in results:
        name = " ".join((f"`{test.script}`", *test.arguments))
        verdicts = " | ".join(by_way[way].verdict.value for way in WAYS)
        lines.append(f"| {name} | {test.expected} | {verdicts} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 when cardferry does as expected wherever pcscd does, in each way."""
    parser = argparse.ArgumentParser(prog="python -m bench.conformance", description=__doc__)
    parser.add_argument("folder", type=Path, help="UnitaryTests of pcsc-lite's source")
    parser.add_argument("--only", default="", help="tests whose name contains this")
    parser.add_argument("--way", default="", help="columns whose name contains this, and pcscd's")
    parser.add_argument("--write", action="store_true", help="write docs/conformance.md anew")
    options = parser.parse_args(arguments)
    if options.write and (options.only or options.way):
        parser.error("--write needs all tests in all ways")
    chosen = [test for test in TESTS if options.only in test.script]
    ways = [way for way in WAYS if way == ALONE or options.way in way]
    missing = [test.script for test in chosen if not (options.folder / test.script).is_file()]
    if missing:
        print(f"error: {options.folder} has no {missing[0]}", file=sys.stderr)
        print("hint: name the folder UnitaryTests of pcsc-lite's source", file=sys.stderr)
        return 2
    results = []
    worse = 0
    for test, by_way in measure(options.folder.resolve(), chosen, ways):
        results.append((test, by_way))
        print(
            test.script, *test.arguments, *(f"{way}: {one.verdict.value};" for way, one in by_way.items()), flush=True
        )
        for way, one in by_way.items():
            if one.verdict is not Verdict.AS_EXPECTED:
                print(f"--- {way}, exit code {one.code}", one.output, "---", sep="\n", flush=True)
                worse += by_way[ALONE].verdict is Verdict.AS_EXPECTED
    if options.write:
        write_section("conformance", table(results), PAGE)
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
