"""Entries get into the file whole, one after the other, whoever writes and whatever happens."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from cardferry.app.commands.audit import Tail, entries, verify
from cardferry.policy.audit import AuditError, AuditLog, Entry
from cardferry.policy.audit.log import files


def entry(number: int = 0) -> Entry:
    return Entry(float(number), "done", "ssh:a", what=f"number {number}")


def said(path: Path) -> list[str]:
    return [str(each["what"]) for each in entries(path) if "what" in each]


def test_the_file_is_private_and_begins_a_chain(tmp_path: Path) -> None:
    path = tmp_path / "new" / "audit.jsonl"
    log = AuditLog(path)
    assert log.add(entry(1), entry(2))
    assert path.stat().st_mode & 0o077 == 0
    assert said(path) == ["number 1", "number 2"]
    assert verify(path).lines == 3


def test_two_processes_write_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    one, two = AuditLog(path), AuditLog(path)
    for number in range(10):
        (one, two)[number % 2].add(entry(number))
    assert verify(path).lines == 11


def test_a_full_file_is_followed_by_another_without_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    one, two = AuditLog(path, most=1000), AuditLog(path, most=1000)
    for number in range(50):
        (one, two)[number % 2].add(entry(number))
    assert len(files(path)) > 3
    assert said(path) == [f"number {number}" for number in range(50)]
    assert verify(path).files == len([each for each in files(path) if each.exists()])


def test_it_goes_on_after_a_new_start(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for number in range(3):
        log = AuditLog(path, most=200)
        log.add(entry(number))
        log.close()
    assert said(path) == ["number 0", "number 1", "number 2"]
    verify(path)


def test_a_file_in_between_that_is_missing_is_found(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path, most=500)
    for number in range(30):
        log.add(entry(number))
    files(path)[1].unlink()
    with pytest.raises(AuditError, match="does not follow the file before it"):
        verify(path)


def test_a_full_disk_leaves_no_half_lines_and_is_told_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    write, room = os.write, [20, 0]

    def full(handle: int, data: bytes) -> int:
        if not (left := room.pop(0)):
            raise OSError(errno.ENOSPC, "no space")
        return write(handle, data[:left])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        assert not log.add(entry(1))
    assert log.add(entry(2))
    assert [(each["event"], each.get("times")) for each in entries(path)][1:] == [("missing", None), ("done", None)]
    verify(path)


def test_what_is_no_audit_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "letter"
    path.write_text("Dear card,\n")
    with pytest.raises(AuditError, match="does not end with a line of an audit"):
        AuditLog(path)
    assert path.read_text() == "Dear card,\n"


def test_an_anchor_finds_an_end_that_was_cut_off_and_a_chain_made_anew(tmp_path: Path) -> None:
    path, anchor = tmp_path / "audit.jsonl", tmp_path / "anchor"
    log = AuditLog(path)
    log.add(entry(1))
    whole = path.read_bytes()
    log.add(entry(2))
    verify(path, anchor)
    log.add(entry(3))
    verify(path, anchor)
    assert len(anchor.read_text().splitlines()) == 2
    path.write_bytes(whole)
    verify(path)  # the chain alone does not show it
    with pytest.raises(AuditError, match=r"does not have what .* says it had"):
        verify(path, anchor)
    path.unlink()
    AuditLog(path).add(entry(1))
    with pytest.raises(AuditError):
        verify(path, anchor)


def test_what_is_added_is_followed_also_into_the_next_file(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path, most=400)
    log.add(entry(0))
    tail = Tail(path)
    seen: list[object] = []
    for number in range(1, 10):
        log.add(entry(number))
        seen += [each["what"] for each in tail.new() if "what" in each]
    assert seen == [f"number {number}" for number in range(1, 10)]


def test_lines_are_ascii_with_escapes(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    AuditLog(path).add(Entry(1.0, "done", "ssh:\x1b[2J", program="\u202eevil"))
    raw = path.read_bytes()
    assert raw.isascii()
    assert b"\x1b" not in raw
    assert json.loads(raw.splitlines()[1])["principal"] == "ssh:\x1b[2J"
