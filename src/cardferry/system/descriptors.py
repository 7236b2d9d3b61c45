"""Open files, sent to another process through a Unix socket (``SCM_RIGHTS``, unix(7)), or named by what they are."""

from __future__ import annotations

import errno
import os
import socket
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def send_descriptors(connection: socket.socket, data: bytes, descriptors: Sequence[int]) -> int:
    """Send a message with descriptors; returns how much of it was sent, and raises `OSError`."""
    return socket.send_fds(connection, [data], descriptors)


def receive_descriptors(connection: socket.socket, size: int, count: int) -> tuple[bytes, list[int]]:
    """Receive a message of at most ``size`` bytes with exactly ``count`` descriptors, which are the caller's to close.

    Returns:
        the message; and no descriptors when another number of them came.

    Raises:
        OSError: there is no message; or this process has no descriptors left to receive them.
    """
    data, found = receive_any(connection, size, count)
    if len(found) == count:
        return data, found
    for descriptor in found:
        os.close(descriptor)
    return data, []


def receive_any(connection: socket.socket, size: int, most: int) -> tuple[bytes, list[int]]:
    """Likewise, with ``most`` descriptors or fewer.

    Raises:
        OSError: there is no message; or this process has no descriptors left, and some are lost.
    """
    found = array("i")
    # not socket.recv_fds, which passes no flags on before Python 3.12
    data, ancillary, flags, _ = connection.recvmsg(
        size, socket.CMSG_LEN(most * found.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(content[: len(content) - len(content) % found.itemsize])
    if flags & socket.MSG_CTRUNC and len(found) < most:  # the kernel has dropped those that had no room in our table
        for descriptor in found:
            os.close(descriptor)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return data, list(found)


def open_itself(path: Path) -> int:
    """A descriptor that stands for the file at ``path``, also for a socket or a link, without any right to it."""
    return os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)


def open_file_path(descriptor: int) -> Path:
    """A path to the very file that is open, whatever is at its old path now (proc(5))."""
    return Path(f"/proc/self/fd/{descriptor}")


@contextmanager
def file_in_memory(data: bytes) -> Iterator[str]:
    """A path at which these bytes can be read for the block, by this process, from no disk (memfd_create(2))."""
    descriptor = os.memfd_create("cardferry", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
