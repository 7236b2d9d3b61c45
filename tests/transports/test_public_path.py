"""Where a socket for others can be, and what is wrong with where it cannot."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cardferry.transports.listening import public_path
from cardferry.transports.sockets import Access, FolderUnsafeError, PathUnusableError


def test_a_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert public_path(Path("card.sock"), Access()) == tmp_path / "card.sock"


def test_a_path_that_is_too_long_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(PathUnusableError) as raised:
        public_path(tmp_path / ("x" * 107), Access())
    assert "--socket" in raised.value.hint


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(FolderUnsafeError, match="No such file"):
        public_path(tmp_path / "no" / "card.sock", Access())


def test_a_group_that_cannot_pass_the_folder_is_told_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(FolderUnsafeError, match="nobody else could reach"):
        public_path(tmp_path / "card.sock", Access(0o660, str(os.getgid())))
    tmp_path.chmod(0o750)
    public_path(tmp_path / "card.sock", Access(0o660, str(os.getgid())))
