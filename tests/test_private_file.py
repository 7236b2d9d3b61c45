"""A file for this account alone is written whole, or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from cardferry.private_file import write_private


def test_it_takes_the_place_of_the_one_before_and_is_ours_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    path.chmod(0o644)
    before = path.stat().st_ino
    write_private(path, b"after")
    assert path.read_bytes() == b"after"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_ino != before, "whoever reads the old one reads it to its end"
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_there_stays_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "file"
    path.write_text("before")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_private(path, b"after")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_somebody_elses_link_in_its_way_is_not_followed(tmp_path: Path) -> None:
    path, victim = tmp_path / "file", tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / f".file.{os.getpid()}.new").symlink_to(victim)
    write_private(path, b"secret")
    assert victim.read_text() == "untouched"
    assert path.read_bytes() == b"secret"
