from __future__ import annotations

from pathlib import Path

import pytest

from cardferry.app.web.audit_end import MOST, AuditEnd
from cardferry.policy.audit import AuditLog, Entry


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path / "audit.jsonl"


def names(end: AuditEnd) -> list[str]:
    return [one["principal"] for one in end.entries() if one["event"] != "begins"]


def test_there_is_none_yet(path: Path) -> None:
    assert AuditEnd(path).entries() == []


def test_the_newest_are_first_and_what_comes_is_seen(path: Path) -> None:
    log, end = AuditLog(path), AuditEnd(path)
    log.add(Entry(1.0, "done", "one"), Entry(2.0, "denied", "two"))
    assert names(end) == ["two", "one"]
    log.add(Entry(3.0, "done", "three"))
    assert names(end) == ["three", "two", "one"]


def test_of_a_long_one_the_end_is_read_and_whole_lines(path: Path) -> None:
    log, end = AuditLog(path), AuditEnd(path)
    for number in range(500):
        log.add(Entry(1.0, "done", f"{number}", what="x" * 60))
    assert names(end) == [f"{number}" for number in range(499, 499 - MOST, -1)]


def test_a_new_file_goes_on(path: Path) -> None:
    log, end = AuditLog(path, most=600), AuditEnd(path)
    for number in range(12):
        log.add(Entry(1.0, "done", f"{number}"))
        assert names(end)[0] == f"{number}"
    assert names(end)[:2] == ["11", "10"]


def test_what_is_no_line_is_left_out(path: Path) -> None:
    path.write_bytes(b'\xff\n[]\n{"at":1}\nnull\n{"at":1,"event":"done","principal":"one"}\nhalf')
    assert names(AuditEnd(path)) == ["one"]
