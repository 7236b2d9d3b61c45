"""The file of ``--record``: whose it is, where it leads, and what is in it after the disk was full."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cardferry.policy.record_file import MISSING, RecordError, RecordFile
from cardferry.policy.recorded import CallRecord
from cardferry.transports.sockets import FolderUnsafeError
from tests.other_user import as_somebody, folder_for_all, needs_root

RECORD = CallRecord(
    1.0, "local-user:alice", "gpg", False, "Reader 00 00", "transmit", "VERIFY 00 80, 8 bytes", "90 00", 0.25
)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def rights(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_each_call_is_a_line_and_what_was_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "calls"
    for _ in range(2):
        RecordFile(path).write(RECORD)
    assert [(line["call"], line["outcome"], line["seconds"]) for line in lines(path)] == [
        ("transmit", "90 00", 0.25)
    ] * 2
    assert rights(path) == 0o600


def test_names_that_are_not_utf_8_and_those_that_steer_terminals_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "calls"
    RecordFile(path).write(CallRecord(1.0, "ssh:x", "\x1b[2J", False, "B\udcfcro", "status"))
    assert path.read_bytes().isascii()
    assert (lines(path)[0]["program"], lines(path)[0]["reader"]) == ("\x1b[2J", "B\udcfcro")


def test_a_file_of_ours_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "calls"
    path.touch()
    path.chmod(0o666)
    RecordFile(path)
    assert rights(path) == 0o600


@pytest.mark.parametrize("kind", ["link", "dangling link", "another name", "folder"])
def test_what_leads_elsewhere_is_not_written_to(tmp_path: Path, kind: str) -> None:
    path, precious = tmp_path / "calls", tmp_path / "precious"
    if kind != "dangling link":
        precious.write_text("letter")
    match kind:
        case "another name":
            path.hardlink_to(precious)
        case "folder":
            path.mkdir()
        case _:
            path.symlink_to(precious)
    with pytest.raises(RecordError) as raised:
        RecordFile(path)
    assert (raised.value.exit_code, "--record" in raised.value.hint) == (12, True)
    assert not precious.exists() or precious.read_text() == "letter"


@needs_root
def test_a_file_of_somebody_else_is_not_written_to() -> None:
    with folder_for_all(0o1777) as folder:
        path = folder / "calls"

        def put() -> None:
            path.touch()
            path.chmod(0o666)

        as_somebody(put)
        with pytest.raises(RecordError):
            RecordFile(path)
        assert path.read_bytes() == b""


def test_nor_one_in_a_folder_where_others_could_swap_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(FolderUnsafeError, match="others can write in it") as raised:
        RecordFile(tmp_path / "calls")
    assert "--record" in raised.value.hint
    assert list(tmp_path.iterdir()) == []


_FULL_FOR_A_WHILE = f"""
import logging, resource, signal, sys
from pathlib import Path
from cardferry.policy.record_file import RecordFile
from cardferry.policy.recorded import CallRecord
logging.basicConfig(format="%(message)s")
file = RecordFile(Path(sys.argv[1]))
record = {RECORD!r}
room = resource.getrlimit(resource.RLIMIT_FSIZE)
file.write(record)
resource.setrlimit(resource.RLIMIT_FSIZE, (Path(sys.argv[1]).stat().st_size + 20, room[1]))
for _ in range(3):
    file.write(record)
resource.setrlimit(resource.RLIMIT_FSIZE, room)
file.write(record)
file.write(record)
"""


def test_after_a_full_disk_there_is_no_half_line_and_the_gap_is_told(tmp_path: Path) -> None:
    """The limit of a file's size is met like the end of a disk: what fits is written, then there is an error."""
    path = tmp_path / "calls"
    said = subprocess.run([sys.executable, "-c", _FULL_FOR_A_WHILE, path], capture_output=True, text=True, check=True)
    assert [(line["call"], line["what"]) for line in lines(path)] == [
        ("transmit", RECORD.what),
        (MISSING, "3 calls"),
        ("transmit", RECORD.what),
        ("transmit", RECORD.what),
    ]
    first, second = said.stderr.splitlines()
    assert first == f"calls are not recorded in {path} any more: File too large"
    assert second == f"calls are recorded in {path} again; 3 are missing"


def test_a_pipe_that_is_full_begins_a_new_line_when_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "calls"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    file = RecordFile(path)
    long = CallRecord(
        1.0, "ssh:x", "x" * 3000, False, "", "status", "y" * 3000
    )  # longer than what a pipe takes in one piece
    for _ in range(20):
        file.write(long)
    read = os.read(reading, 1 << 20)
    file.write(RECORD)
    read += os.read(reading, 1 << 20)
    os.close(reading)
    *whole, half, gap, last = read.splitlines()
    assert [json.loads(line)["call"] for line in whole] == ["status"] * len(whole)
    assert long.program.encode() in half
    assert json.loads(gap)["what"] == f"{20 - len(whole)} calls"
    assert json.loads(last)["call"] == "transmit"
