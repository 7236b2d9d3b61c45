"""Open files that are sent to another process: all of them, or none."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cardferry.system.descriptors import (
    file_in_memory,
    open_file_path,
    open_itself,
    receive_descriptors,
    send_descriptors,
)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, two = socket.socketpair()
    with one, two:
        yield one, two


def test_a_message_with_descriptors(ends: tuple[socket.socket, socket.socket], tmp_path: Path) -> None:
    one, two = ends
    (tmp_path / "file").write_text("here")
    with (tmp_path / "file").open("rb") as file:
        send_descriptors(one, b"hello", [file.fileno(), file.fileno()])
    data, found = receive_descriptors(two, 100, 2)
    assert data == b"hello"
    assert [os.pread(descriptor, 4, 0) for descriptor in found] == [b"here", b"here"]
    assert not any(os.get_inheritable(descriptor) for descriptor in found)
    for descriptor in found:
        os.close(descriptor)


@pytest.mark.parametrize("count", [0, 1])
def test_another_number_of_descriptors_is_none(ends: tuple[socket.socket, socket.socket], count: int) -> None:
    one, two = ends
    before = set(Path("/proc/self/fd").iterdir())
    send_descriptors(one, b"hello", [one.fileno()] * count)
    assert receive_descriptors(two, 100, 2) == (b"hello", [])
    assert set(Path("/proc/self/fd").iterdir()) == before


def test_descriptors_for_which_there_is_no_room_are_an_error(ends: tuple[socket.socket, socket.socket]) -> None:
    one, two = ends
    send_descriptors(one, b"hello", [one.fileno()] * 2)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.close(lowest := os.dup(one.fileno()))  # all below are open, whatever other tests have left
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            receive_descriptors(two, 100, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_an_open_file_is_named_whatever_takes_its_place(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch(mode=0o600)
    handle = open_itself(path)
    path.rename(tmp_path / "moved")
    path.symlink_to("/dev/null")
    open_file_path(handle).chmod(0o640)
    assert (tmp_path / "moved").stat().st_mode & 0o777 == 0o640
    os.close(handle)


def test_a_file_in_memory_is_read_like_any_other_and_is_gone_afterwards() -> None:
    with file_in_memory(b"secret" * 1000) as path:
        assert Path(path).read_bytes() == b"secret" * 1000
    assert not Path(path).exists() or Path(path).read_bytes() != b"secret" * 1000
