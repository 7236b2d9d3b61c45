"""Sockets for applications: where they can be, who may use them, and that nobody's is taken away."""

from __future__ import annotations

import grp
import multiprocessing
import os
import shutil
import socket
import stat
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from cardferry.system.peers import peer_credentials, process_name
from cardferry.transports.listening import ListeningSocket, SocketInUseError, listener
from cardferry.transports.sockets import PATH_LIMIT, PathUnusableError, check_size


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


def dead_socket(path: Path) -> None:
    """What a killed process leaves."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


def test_listens_and_leaves_nothing_behind(path: Path) -> None:
    with ListeningSocket(path):
        assert connects(path)
    assert list(path.parent.iterdir()) == []


def test_dead_socket_is_replaced(path: Path) -> None:
    dead_socket(path)
    assert listener(path) is None
    with ListeningSocket(path):
        assert connects(path)


def test_live_socket_is_left_alone_and_its_owner_named(path: Path) -> None:
    with ListeningSocket(path), pytest.raises(SocketInUseError, match=f"process {os.getpid()}") as caught:
        ListeningSocket(path)
    assert "--socket" in caught.value.hint


def test_live_socket_survives_the_attempt(path: Path) -> None:
    with ListeningSocket(path):
        with pytest.raises(SocketInUseError):
            ListeningSocket(path)
        assert connects(path)


def test_live_socket_whose_queue_is_full_is_left_alone(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen(0)
        waiting = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for _ in range(3)]
        for each in waiting:
            each.connect_ex(str(path))
        with pytest.raises(SocketInUseError, match="queue"):
            ListeningSocket(path)
        for each in waiting:
            each.close()
    assert path.exists()


@pytest.mark.parametrize("kind", ["file", "folder", "fifo", "link", "dangling link"])
def test_what_is_no_socket_is_never_touched(kind: str, path: Path) -> None:
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        target = path.with_name("target")
        if kind == "link":
            dead_socket(target)
        path.symlink_to(target)
    before = path.lstat()
    with pytest.raises(SocketInUseError, match="not a socket"):
        ListeningSocket(path)
    assert path.lstat() == before


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_mode(mode: int, path: Path) -> None:
    with ListeningSocket(path, mode=mode):
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_private_from_its_first_moment(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between bind and chmod nobody else gets in, whatever the umask."""
    seen: list[int] = []
    chmod = Path.chmod

    def watched(self: Path, mode: int) -> None:
        seen.append(stat.S_IMODE(self.stat().st_mode))
        chmod(self, mode)

    monkeypatch.setattr(Path, "chmod", watched)
    before = os.umask(0)
    try:
        with ListeningSocket(path, mode=0o666):
            assert os.umask(0) == 0  # and the umask is as it was
    finally:
        os.umask(before)
    assert seen == [0o600]


def test_group_by_name_and_by_number(path: Path) -> None:
    group = grp.getgrgid(os.getegid())
    for name in (group.gr_name, str(group.gr_gid)):
        with ListeningSocket(path, group=name):
            assert path.stat().st_gid == group.gr_gid


@pytest.mark.parametrize("group", ["no-such-group", "", "99999999999999999999", "-1", "\u00b2"])
def test_a_group_that_cannot_be_leaves_no_socket(path: Path, group: str) -> None:
    with pytest.raises(PathUnusableError, match=r"cannot give|there is no group"):
        ListeningSocket(path, group=group)
    assert not path.exists()


def test_path_of_107_bytes_is_the_longest(tmp_path: Path) -> None:
    room = PATH_LIMIT - len(os.fsencode(tmp_path)) - 1
    longest = tmp_path / ("s" * room)
    with ListeningSocket(longest):
        assert connects(longest)
    with pytest.raises(PathUnusableError, match="108 bytes"):
        ListeningSocket(tmp_path / ("s" * (room + 1)))
    assert list(tmp_path.iterdir()) == []


def test_length_is_counted_in_bytes() -> None:
    check_size(Path("/" + "s" * 106), "")
    with pytest.raises(PathUnusableError):
        check_size(Path("/" + "\u00e4" * 54), "")


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PathUnusableError, match="No such file"):
        ListeningSocket(tmp_path / "missing" / "s")


def test_socket_that_somebody_else_has_made_meanwhile_is_not_removed(path: Path) -> None:
    mine = ListeningSocket(path)
    path.unlink()
    with ListeningSocket(path):
        mine.close()
        assert connects(path)


def test_socket_that_is_gone_already(path: Path) -> None:
    with ListeningSocket(path):
        path.unlink()


def test_folder_that_is_gone_already(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    with ListeningSocket(folder / "s"):
        shutil.rmtree(folder)


def test_socket_is_live_until_its_name_is_gone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise somebody who starts meanwhile could take it for dead, and lose his own to our removal."""
    live: list[bool] = []
    unlink = Path.unlink

    def watched(self: Path, missing_ok: bool = False) -> None:
        live.append(connects(self))
        unlink(self, missing_ok)

    listening = ListeningSocket(path)
    monkeypatch.setattr(Path, "unlink", watched)
    listening.close()
    assert live == [True]


def _start(path: str, barrier: Barrier, results: multiprocessing.Queue[str]) -> None:
    barrier.wait()
    try:
        with ListeningSocket(Path(path)):
            results.put("listens")
            barrier.wait()
    except SocketInUseError:
        results.put("in use")
        barrier.wait()


def test_of_many_starts_at_once_one_wins(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    count = 8
    for _ in range(10):
        dead_socket(path)
        barrier, results = context.Barrier(count), context.Queue()
        processes = [context.Process(target=_start, args=(str(path), barrier, results)) for _ in range(count)]
        for process in processes:
            process.start()
        outcomes = [results.get(timeout=20) for _ in range(count)]
        for process in processes:
            process.join()
        assert sorted(outcomes) == ["in use"] * (count - 1) + ["listens"]
        assert not path.exists()


def test_who_is_at_the_other_end(path: Path) -> None:
    with ListeningSocket(path) as listening, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        accepted, _ = listening.socket.accept()
        with accepted:
            assert peer_credentials(accepted) == (os.getpid(), os.getuid())
    assert process_name(os.getpid()) == Path("/proc/self/comm").read_text().strip()
    assert process_name(0x7FFFFFFF) == "another program"
