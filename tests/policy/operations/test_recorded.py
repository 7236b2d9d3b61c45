"""What programs really send, command by command: each is what the record says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cardferry.policy.operations import Operation, Tracker
from tests.policy.operations.test_tables import words

_RECORDS = sorted(Path(__file__).with_name("recorded").glob("*.txt"))


def steps(record: Path) -> Iterator[list[str]]:
    for line in record.read_text().splitlines():
        if line and not line.startswith("#"):
            yield line.split(" ")


@pytest.mark.parametrize("record", _RECORDS, ids=lambda path: path.stem)
def test_each_command_is_what_the_record_says(record: Path) -> None:
    tracker = Tracker()
    for step in steps(record):
        if step == ["reset"]:
            tracker.reset()
            continue
        command, response, expected = step
        action = tracker.judge(bytes.fromhex(command))
        assert words(action) == expected, command
        tracker.answered(action, bytes.fromhex(response))
    assert not tracker.chain_open


@pytest.mark.parametrize("record", _RECORDS, ids=lambda path: path.stem)
def test_nothing_that_programs_do_is_uncertain(record: Path) -> None:
    assert not any(step[-1].startswith(Operation.OTHER) for step in steps(record))
