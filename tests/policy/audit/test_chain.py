"""A change of an audit is found, wherever it is."""

from __future__ import annotations

import json
import random

import pytest

from cardferry.policy.audit.chain import NOTHING, Entry, Problem, check, entry_line, first_line


def lines(count: int, previous: str = NOTHING) -> list[bytes]:
    made, head = first_line(1.0, previous)
    found = [made]
    for number in range(count - 1):
        made, head = entry_line(Entry(float(number), "done", "ssh:a", operation="sign:9C", times=number % 2 + 1), head)
        found.append(made)
    return found


def first_problem(found: list[bytes], previous: str | None = None) -> int | None:
    return next((each.line for each in check(found, previous) if isinstance(each, Problem)), None)


def test_one_byte_anywhere_in_ten_thousand_lines_is_found() -> None:
    found = lines(10_000)
    assert first_problem(found) is None
    chance = random.Random(1)
    for number in (0, 1, 4_999, 9_998, 9_999):
        raw = bytearray(found[number])
        at = chance.randrange(len(raw))
        raw[at] ^= 1 << chance.randrange(8)
        changed = [*found[:number], bytes(raw), *found[number + 1 :]]
        assert first_problem(changed) in (number + 1, number + 2)


def test_every_byte_of_a_line_counts() -> None:
    found = lines(3)
    for number in range(3):
        for at in range(len(found[number])):
            raw = bytearray(found[number])
            raw[at] ^= 1
            assert first_problem([*found[:number], bytes(raw), *found[number + 1 :]]) is not None


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda found: found[1:], 1),
        (lambda found: found[:2] + found[3:], 3),
        (lambda found: [*found[:2], found[3], found[2], *found[4:]], 3),
        (lambda found: [*found[:2], found[1], *found[2:]], 3),
        (lambda found: [*found[:-1], found[-1][:-5]], 6),
        (lambda found: [], 1),
        (lambda found: [*found, lines(2)[0]], 7),
    ],
    ids=["no beginning", "missing", "moved", "twice", "cut short", "nothing", "of another audit"],
)
def test_lines_that_are_missing_moved_or_put_in_are_found(change: object, line: int) -> None:
    assert callable(change)
    assert first_problem(change(lines(6))) == line


def test_a_file_follows_the_one_before_it() -> None:
    old = lines(3)
    head = json.loads(old[-1])["hash"]
    assert first_problem(lines(3, head), head) is None
    assert first_problem(lines(3, head)) is None
    assert first_problem(lines(3), head) == 1
