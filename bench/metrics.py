"""What is measured, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from tests.lab.cards import PIV_PIN


class Distance(StrEnum):
    """How far apart the two computers are."""

    NEAR = "near"
    FAR = "far"


#: s to the far computer and back.
ROUND_TRIP = 0.05
DISTANCES = {Distance.NEAR: "Next door (0 ms)", Distance.FAR: "Far away (50 ms round trip)"}


@dataclass(frozen=True, slots=True)
class Metric:
    """One thing that is timed.

    Attributes:
        key: its name in results.
        title: its name in tables.
        argv: a program; empty for what the measuring client does by itself.
        proof: a regular expression that the program's output matches when it did its work.
        tail: which figure tells how bad it gets, if any: the 99th percentile of many, the longest of few.
    """

    key: str
    title: str
    argv: tuple[str, ...] = ()
    proof: str = ""
    tail: Literal["p99", "longest"] | None = None


_SIGN = ("pkcs11-tool", "--sign", "--login", "--pin", PIV_PIN, "--id", "01", "--mechanism", "ECDSA")

#: Done by `bench.client` with a card that answers at once.
CALLS = (
    Metric("apdu", "one APDU", tail="p99"),
    Metric("turn", "begin + APDU + end", tail="p99"),
    Metric("setup", "set-up: establish, list, connect"),
)
#: Unmodified programs, two readers with a PIV card in each.
PROGRAMS = (
    Metric("opensc-tool", "`opensc-tool -a`", ("opensc-tool", "-a"), r"^3b:", "longest"),
    Metric("list", "`pkcs11-tool -L`", ("pkcs11-tool", "-L"), r"(?s)token label.*token label", "longest"),
    Metric("sign", "`pkcs11-tool --sign`", (*_SIGN, "--input-file", "/etc/hostname"), r"(?s)^.{64}$", "longest"),
)


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured at one distance.

    Attributes:
        rounds: how often every way has its turn with the measuring client.
        counts: repetitions in each round, by the metric's key.
        program_rounds: how often every program runs, by the metric's key.
    """

    rounds: int
    counts: dict[str, int]
    program_rounds: dict[str, int]


FULL = {
    Distance.NEAR: Effort(80, {"apdu": 25, "turn": 8, "setup": 2}, {"opensc-tool": 15, "list": 15, "sign": 15}),
    Distance.FAR: Effort(5, {"apdu": 20, "turn": 10, "setup": 4}, {"opensc-tool": 5, "list": 3, "sign": 3}),
}
QUICK = {
    Distance.NEAR: Effort(4, {"apdu": 10, "turn": 5, "setup": 2}, {"opensc-tool": 2, "list": 2, "sign": 2}),
    Distance.FAR: Effort(1, {"apdu": 3, "turn": 2, "setup": 2}, {"opensc-tool": 1, "list": 0, "sign": 0}),
}
