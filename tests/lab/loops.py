"""Programs that people run again and again, and how often they failed: `repeat.py` in a computer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.lab.computer import Computer
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.process import Command

_REPEAT = Path(__file__).with_name("repeat.py")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a program's runs.

    Attributes:
        runs: how many there were.
        failures: the last line that each failed run said.
        longest: s that the longest run took.
    """

    runs: int = 0
    failures: tuple[str, ...] = ()
    longest: float = 0.0

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(self.runs + other.runs, self.failures + other.failures, max(self.longest, other.longest))

    def __str__(self) -> str:
        said = "".join(f"; {count} x {what}" for what, count in Counter(self.failures).items())
        return f"{len(self.failures)} of {self.runs} failed, the longest took {self.longest} s{said}"

    @property
    def lost(self) -> float:
        """The part that failed."""
        return len(self.failures) / self.runs


class Loop:
    """A program that runs again and again.

    Args:
        computer: where.
        command: the program.
        count: how often; 0: until `outcome` is asked for.
        env: adds to `Computer.env`.
        pause: s between two runs.
    """

    def __init__(
        self,
        computer: Computer,
        command: Command,
        count: int = 0,
        env: Mapping[str, str] | None = None,
        pause: float = 0.0,
    ) -> None:
        words: Command = [PLAIN_PYTHON, _REPEAT, str(count), str(pause), *command]
        self._process = computer.popen(words, env, stdin=True)
        self._endless = not count

    def wait_until_running(self) -> None:
        """Wait for the end of the first run."""
        self._process.wait_for("^running$", timeout=60)

    def outcome(self, timeout: float = 600.0) -> Outcome:
        """Wait for the last run."""
        if self._endless:
            self._process.write("\n")
        said = json.loads(self._process.wait(timeout).out.splitlines()[-1])
        return Outcome(said["runs"], tuple(said["failures"]), said["longest"])


def outcome(loops: Iterable[Loop]) -> Outcome:
    """Of all of them together."""
    return sum((loop.outcome() for loop in loops), Outcome())
