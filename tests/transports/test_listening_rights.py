"""The rights of a socket reach that socket and nothing else, whoever swaps its path meanwhile."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cardferry.pcsc.errors import UserError
from cardferry.transports import listening
from cardferry.transports.listening import ListeningSocket, SocketInUseError
from cardferry.transports.sockets import FolderUnsafeError, PathUnusableError
from tests.other_user import SOMEBODY, folder_for_all, needs_root, somebody_who

#: So often somebody gets the chance to be quicker.
TRIES = 300


class Precious:
    """A file of ours that nobody else may read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_text("secret")
        path.chmod(0o600)
        self._before = self._rights()

    def _rights(self) -> tuple[int, int, int]:
        found = self.path.lstat()
        return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)

    def is_safe(self) -> bool:
        return self._rights() == self._before


@pytest.fixture
def everybodys() -> Iterator[Path]:
    """A folder in which everybody may do everything."""
    with folder_for_all(0o777) as folder:
        yield folder


@pytest.fixture
def precious(tmp_path: Path) -> Precious:
    return Precious(tmp_path / "precious")


def swap(path: Path, target: Path) -> Callable[[], None]:
    """Put a link to ``target`` in the place of a socket as soon as there is one."""

    def do() -> None:
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
            path.symlink_to(target)

    return do


def tried(path: Path) -> bool:
    """Whether a start succeeds; whatever is in the way is taken away before."""
    path.unlink(missing_ok=True)
    with suppress(UserError), ListeningSocket(path, 0o660, str(SOMEBODY)):
        return True
    return False


@needs_root
def test_in_a_folder_where_others_swap_files_nothing_is_ever_made(everybodys: Path, precious: Precious) -> None:
    path = everybodys / "s"
    with somebody_who(swap(path, precious.path)):
        assert [tried(path) for _ in range(TRIES)] == [False] * TRIES
    assert precious.is_safe()
    with pytest.raises(FolderUnsafeError, match="others can write in it") as raised:
        ListeningSocket(path)
    assert "--socket" in raised.value.hint


@needs_root
def test_a_swapped_path_never_gets_rights_to_another_file_even_there(
    everybodys: Path, precious: Precious, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The race itself, with the folder's check out of the way."""
    monkeypatch.setattr(listening, "check_trusted", lambda folder, elsewhere: None)
    path = everybodys / "s"
    with somebody_who(swap(path, precious.path)):
        for _ in range(TRIES):
            tried(path)
            assert precious.is_safe()


@needs_root
def test_in_a_sticky_folder_nobody_is_quicker(precious: Precious) -> None:
    with folder_for_all(0o1777) as folder:
        path = folder / "s"
        with somebody_who(swap(path, precious.path)):
            assert [tried(path) for _ in range(TRIES)] == [True] * TRIES
    assert precious.is_safe()


def bound_and_then(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Let something happen at the moment after the socket is bound."""

    class Socket(socket.socket):
        def bind(self, address: object) -> None:
            super().bind(address)  # type: ignore[arg-type]
            act()

    monkeypatch.setattr("cardferry.transports.listening.socket.socket", Socket)


@pytest.mark.parametrize("what", ["link", "file", "another name"])
def test_what_is_there_in_the_sockets_place_is_left_alone(
    tmp_path: Path, precious: Precious, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    path = tmp_path / "s"

    def act() -> None:
        path.unlink()
        match what:
            case "link":
                path.symlink_to(precious.path)
            case "file":
                precious.path.rename(path)
                precious.path = path
            case "another name":
                path.hardlink_to(precious.path)

    bound_and_then(monkeypatch, act)
    with pytest.raises(SocketInUseError, match="took the place of"):
        ListeningSocket(path, 0o666, str(os.getgid()))
    assert precious.is_safe()
    assert path.is_symlink() or path.is_file()


def test_a_socket_that_is_gone_before_it_has_its_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s"
    bound_and_then(monkeypatch, path.unlink)
    with pytest.raises(PathUnusableError):
        ListeningSocket(path, 0o660)


def test_a_socket_that_somebody_else_removes_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listening = ListeningSocket(tmp_path / "s")
    unlink = Path.unlink

    def second(path: Path, missing_ok: bool = False) -> None:
        unlink(path)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", second)
    listening.close()
    assert listening.socket.fileno() == -1


def test_somebody_who_locks_the_folder_does_not_hang_the_start(tmp_path: Path) -> None:
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        with ListeningSocket(tmp_path / "s"):
            pass
    finally:
        os.close(held)
    assert list(tmp_path.iterdir()) == []
