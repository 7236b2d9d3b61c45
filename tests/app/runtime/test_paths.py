from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

import pytest

from cardferry.app.runtime.paths import private_folder, runtime_folder, scratch
from cardferry.transports.listening import folder_permissions
from cardferry.transports.sockets import FolderUnsafeError
from tests.other_user import SOMEBODY, as_somebody, folder_for_all, needs_root


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_the_runtime_folder_of_the_session_is_used(tmp_path: Path) -> None:
    folder = runtime_folder({"XDG_RUNTIME_DIR": str(tmp_path)}, "/nowhere")
    assert folder == tmp_path / "cardferry"
    assert mode(folder) == 0o700


@pytest.mark.parametrize("runtime", ["", "relative", "/no/such/folder"])
def test_without_one_a_folder_in_the_temporary_folder_is_made(tmp_path: Path, runtime: str) -> None:
    folder = runtime_folder({"XDG_RUNTIME_DIR": runtime}, str(tmp_path), tmp_path / "none")
    assert folder == tmp_path / f"cardferry-{os.getuid()}"
    assert mode(folder) == 0o700


def test_a_session_that_is_told_of_no_folder_uses_the_accounts_own(tmp_path: Path) -> None:
    own = tmp_path / str(os.getuid())
    own.mkdir(mode=0o700)
    for environ in ({}, {"XDG_RUNTIME_DIR": ""}):
        assert runtime_folder(environ, "/nowhere", tmp_path) == own / "cardferry"


def test_the_umask_does_not_matter(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        assert mode(private_folder(tmp_path / "x")) == 0o700
    finally:
        os.umask(before)


def test_a_folder_widened_for_reading_by_its_owner_is_taken(tmp_path: Path) -> None:
    folder = private_folder(tmp_path / "x")
    folder.chmod(0o755)
    assert private_folder(folder) == folder


def test_a_symbolic_link_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "x").symlink_to(tmp_path / "real")
    with pytest.raises(FolderUnsafeError, match="symbolic link"):
        private_folder(tmp_path / "x")


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(FolderUnsafeError, match="not a folder"):
        private_folder(tmp_path / "x")


@pytest.mark.parametrize("bits", [0o770, 0o777, 0o1777])
def test_a_folder_that_others_can_write_in_is_refused(tmp_path: Path, bits: int) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x").chmod(bits)
    with pytest.raises(FolderUnsafeError, match="others can write"):
        private_folder(tmp_path / "x")


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").mkdir(mode=0o700)
    mine = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    with pytest.raises(FolderUnsafeError, match="belongs to somebody else"):
        private_folder(tmp_path / "x")


def test_a_folder_that_cannot_be_made_is_an_error_for_people(tmp_path: Path) -> None:
    with pytest.raises(FolderUnsafeError, match="cannot be made"):
        private_folder(tmp_path / "no" / "x")


def test_a_folder_that_others_could_replace_is_refused_and_not_made(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(FolderUnsafeError, match="others can write in it") as raised:
        runtime_folder({"XDG_RUNTIME_DIR": str(tmp_path)})
    assert "XDG_RUNTIME_DIR" in raised.value.hint
    assert list(tmp_path.iterdir()) == []


@needs_root
def test_a_folder_in_which_nothing_can_be_made_is_an_error_for_people() -> None:
    with folder_for_all() as place:
        (place / "cardferry").mkdir(mode=0o500)
        os.chown(place / "cardferry", SOMEBODY, SOMEBODY)
        os.chown(place, SOMEBODY, SOMEBODY)
        with pytest.raises(RuntimeError) as raised:
            as_somebody(lambda: runtime_folder({"XDG_RUNTIME_DIR": str(place)}))
    message, hint = str(raised.value).splitlines()
    assert message == f"nothing can be written in the folder {place / 'cardferry'}"
    assert "XDG_RUNTIME_DIR" in hint


def test_a_computer_without_any_folder_for_files_is_an_error_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr("tempfile.gettempdir", none)
    with pytest.raises(FolderUnsafeError, match="No usable temporary directory"):
        runtime_folder({}, accounts=Path("/nowhere"))


@needs_root
def test_a_runtime_folder_that_we_may_not_even_look_at_is_none() -> None:
    with folder_for_all(0o700) as closed, folder_for_all(0o1777) as temporary:
        found = as_somebody(lambda: runtime_folder({"XDG_RUNTIME_DIR": f"{closed}/x"}, str(temporary)))
        assert found == temporary / f"cardferry-{SOMEBODY}"


def test_whoever_locks_the_runtime_folder_does_not_keep_us_waiting(tmp_path: Path) -> None:
    """One that its owner has opened for reading can be locked by anybody."""
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        with scratch(tmp_path) as folder:
            assert folder.is_dir()
    finally:
        os.close(held)


def test_scratch_is_private_and_goes(tmp_path: Path) -> None:
    with scratch(tmp_path) as folder:
        assert mode(folder) == 0o700
        (folder / "socket").touch()
    assert list(tmp_path.iterdir()) == []


def test_scratch_goes_also_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), scratch(tmp_path):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_has_left_is_cleared_and_what_is_in_use_is_not(tmp_path: Path) -> None:
    left = tmp_path / ".part-left"
    left.mkdir()
    (left / "ctl").touch()
    with scratch(tmp_path) as first, scratch(tmp_path) as second:
        assert not left.exists()
        assert first.is_dir()
        assert second.is_dir()


def test_a_planted_link_is_not_followed_when_clearing(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "letter").touch()
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    (runtime / ".part-link").symlink_to(precious)
    with scratch(runtime):
        assert (precious / "letter").exists()


def test_permissions_as_ls_writes_them(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    assert folder_permissions(tmp_path) == "drwxr-x---"
    with pytest.raises(FolderUnsafeError):
        folder_permissions(tmp_path / "nothing")
