"""In which folders nobody else can put something in our file's place, and that nobody else can hold our lock."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cardferry.transports.folders import check_trusted, locked
from cardferry.transports.sockets import FolderUnsafeError
from tests.other_user import SOMEBODY, as_somebody, folder_for_all, needs_root

ELSEWHERE = "choose another place with --socket PATH"


@pytest.fixture
def shared() -> Iterator[Path]:
    with folder_for_all(0o1777) as folder:
        yield folder


def refusal(folder: Path) -> FolderUnsafeError:
    with pytest.raises(FolderUnsafeError) as raised:
        check_trusted(folder, ELSEWHERE)
    assert raised.value.exit_code == 12
    assert ELSEWHERE in raised.value.hint
    return raised.value


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o1777, 0o1775])
def test_a_folder_in_which_nobody_else_can_swap_a_file_is_trusted(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    check_trusted(tmp_path, ELSEWHERE)


@pytest.mark.parametrize("mode", [0o770, 0o777, 0o702, 0o2775])
def test_a_folder_that_others_can_write_in_is_not_and_the_hint_helps(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "it's mine"
    folder.mkdir()
    folder.chmod(mode)
    told = refusal(folder)
    assert told.message == f"the folder {folder} cannot be trusted: others can write in it"
    command, _, _ = told.hint.partition(", or ")
    assert os.system(command) == 0
    check_trusted(folder, ELSEWHERE)


def test_nor_is_one_that_is_on_the_way_to_it(tmp_path: Path) -> None:
    (tmp_path / "open" / "mine").mkdir(parents=True)
    (tmp_path / "open").chmod(0o777)
    assert f"the folder {tmp_path / 'open'} " in refusal(tmp_path / "open" / "mine").message


def test_nor_one_that_a_link_leads_through(tmp_path: Path) -> None:
    (tmp_path / "open" / "mine").mkdir(parents=True)
    (tmp_path / "open" / "link").symlink_to("mine")
    (tmp_path / "outer").symlink_to(tmp_path / "open" / "mine" / ".." / "link")
    check_trusted(tmp_path / "outer", ELSEWHERE)
    (tmp_path / "open").chmod(0o777)
    assert f"the folder {tmp_path / 'open'} " in refusal(tmp_path / "outer").message


def test_links_that_never_end_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="Too many levels"):
        check_trusted(tmp_path / "a", ELSEWHERE)


@needs_root
def test_a_folder_of_somebody_else_is_not_trusted(shared: Path) -> None:
    theirs = shared / "theirs"
    as_somebody(theirs.mkdir)
    assert "belongs to somebody else" in refusal(theirs).message


@needs_root
def test_nor_is_their_link_to_one_of_ours(shared: Path, tmp_path: Path) -> None:
    as_somebody(lambda: (shared / "link").symlink_to(tmp_path))
    assert f"{shared / 'link'} cannot be trusted: it belongs to somebody else" in refusal(shared / "link").message


@needs_root
def test_users_trust_root_and_themselves(shared: Path) -> None:
    def mine() -> None:
        (shared / "mine").mkdir()
        check_trusted(shared / "mine", ELSEWHERE)

    as_somebody(mine)
    with pytest.raises(RuntimeError, match="belongs to somebody else"):
        as_somebody(lambda: check_trusted(shared / "mine", ELSEWHERE), SOMEBODY + 1)


def test_one_at_a_time_has_the_lock_and_nothing_is_left(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def enter() -> None:
        for _ in range(50):
            with locked(tmp_path):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 200
    assert list(tmp_path.iterdir()) == []


@needs_root
def test_whoever_else_locks_the_folder_and_all_in_it_does_not_keep_us_waiting(shared: Path) -> None:
    """The lock of the folder itself was ours before, and anybody's who may read it."""
    held = os.open(shared, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        with locked(shared):
            (lock,) = shared.iterdir()
            with pytest.raises(PermissionError):
                as_somebody(lambda: os.open(lock, os.O_RDONLY))
    finally:
        os.close(held)


@needs_root
@pytest.mark.parametrize("what", ["file", "link", "fifo", "folder"])
def test_what_somebody_else_puts_in_its_place_is_an_error_and_no_wait(shared: Path, tmp_path: Path, what: str) -> None:
    place = shared / f".cardferry-{os.getuid()}.lock"
    precious = tmp_path / "precious"

    def put() -> None:
        match what:
            case "file":
                place.touch()
            case "link":
                place.symlink_to(precious)
            case "fifo":
                os.mkfifo(place)
            case "folder":
                place.mkdir()

    as_somebody(put)
    with pytest.raises((FolderUnsafeError, OSError)), locked(shared):
        pass
    assert not precious.exists()
