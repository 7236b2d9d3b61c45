"""A Unix socket to listen on: private from its first moment, never in anybody's way, gone when we go.

A dead socket, one that nobody listens on, is replaced. A live one, or a file that is not a socket, is left alone.
The folder is locked meanwhile, so that two starts at the same time cannot take each other's socket for a dead one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cardferry.pcsc.errors import UserError

#: Bytes in ``sun_path`` before the closing NUL (unix(7)).
MAX_SOCKET_PATH = 107
#: What to do when a path is not to be had, for those who can choose one.
ELSEWHERE = "choose another place with --socket PATH"
_SHORTER = "choose a shorter one, or set XDG_RUNTIME_DIR to a folder of your own with a shorter path"
#: Connections the kernel keeps for us until we accept them. pcscd's own backlog is 1.
BACKLOG = 4096
_UCRED = struct.Struct("3i")


class SocketPathError(UserError):
    """The path cannot be a socket of ours."""

    exit_code = 10


class SocketInUseError(UserError):
    """Somebody else is there."""

    exit_code = 11


class ListeningSocket:
    """A bound, listening Unix socket; an ordinary context manager that removes it.

    Args:
        path: where; at most 107 bytes, its folder exists.
        mode: access rights of the socket.
        group: name or number of the group that gets it, None leaves the user's own.
        elsewhere: how to get around a path that is not to be had, for hints.

    Raises:
        SocketPathError: too long, no such folder, no permission, not a socket.
        SocketInUseError: another process listens there.
    """

    def __init__(self, path: Path, mode: int = 0o600, group: str | None = None, elsewhere: str = ELSEWHERE) -> None:
        self.path = check_path(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            with _locked(path.parent):
                _make_room(path, elsewhere)
                self._bind(mode, group)
                made = path.stat(follow_symlinks=False)
        except OSError as error:
            self.socket.close()
            raise SocketPathError(f"cannot listen on {path}: {error.strerror}", elsewhere) from error
        except UserError:
            self.socket.close()
            raise
        self._identity = made.st_dev, made.st_ino

    def _bind(self, mode: int, group: str | None) -> None:
        before = os.umask(0o177)
        try:
            self.socket.bind(os.fspath(self.path))
        finally:
            os.umask(before)
        try:
            if group is not None:
                _give_to(self.path, group)
            self.path.chmod(mode)
            self.socket.listen(BACKLOG)
        except BaseException:
            self.path.unlink()
            raise

    def close(self) -> None:
        """Remove the socket, if it is still the one we made, and stop listening.

        In this order: as long as we listen, nobody who behaves replaces it, and its inode is not given to another file.
        """
        try:
            there = self.path.stat(follow_symlinks=False)
            if (there.st_dev, there.st_ino) == self._identity:
                self.path.unlink()
        except FileNotFoundError:
            pass
        finally:
            self.socket.close()

    def __enter__(self) -> ListeningSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_path(path: Path, shorter: str = _SHORTER) -> Path:
    """The path, if it fits into a socket address.

    Args:
        shorter: how to get a shorter one, for the hint.

    Raises:
        SocketPathError: it is longer than 107 bytes.
    """
    size = len(os.fsencode(path))
    if size > MAX_SOCKET_PATH:
        raise SocketPathError(
            f"the socket's path has {size} bytes, and {MAX_SOCKET_PATH} is the most: {path}",
            shorter,
        )
    return path


def _give_to(path: Path, group: str) -> None:
    try:
        shutil.chown(path, group=int(group) if group.isdecimal() else group)
    except (OSError, LookupError, OverflowError) as error:
        raise SocketPathError(
            f"cannot give {path} to group {group}: {error}", "name a group that exists and that you are a member of"
        ) from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _make_room(path: Path, elsewhere: str) -> None:
    try:
        kind = path.stat(follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise SocketInUseError(f"{path} is there already, and it is not a socket", f"remove it, or {elsewhere}")
    holder = listener(path)
    if holder is not None:
        raise SocketInUseError(f"{path} is in use by {holder}", f"end that program, or {elsewhere}")
    path.unlink(missing_ok=True)


def listener(path: Path) -> str | None:
    """Who listens on a Unix socket, in words such as ``cardferry (process 4711)``; None for a dead socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(os.fspath(path))
        except BlockingIOError:
            return "a program whose queue of connections is full"
        except OSError as error:
            if error.errno in (errno.ECONNREFUSED, errno.ENOENT):
                return None
            return f"somebody we may not ask ({error.strerror})"
        pid, _, _ = _UCRED.unpack(probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return f"{process_name(pid)} (process {pid})"


def peer_credentials(connection: socket.socket) -> tuple[int, int]:
    """Process id and user id of the other end of a connected Unix socket (``SO_PEERCRED``)."""
    pid, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid


def process_name(pid: int) -> str:
    """The command name of a process, as far as it can be seen from here."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return "another program"
