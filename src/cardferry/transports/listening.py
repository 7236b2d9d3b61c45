"""A Unix socket to listen on: private from its first moment, never in anybody's way, gone when we go.

A dead socket, one that nobody listens on, is replaced. A live one, or a file that is not a socket, is left alone.
Two starts at the same time keep apart by a lock, so that they cannot take each other's socket for a dead one.
Its folder must be one in which nobody else can put something in its place; all the same its rights are never given to
a path, but to the file that was made, so that they cannot end up at another one.
"""

from __future__ import annotations

import errno
import grp
import os
import socket
import stat
from pathlib import Path
from typing import Final, TypeAlias
from typing import Protocol as Interface

from cardferry.pcsc.errors import UserError
from cardferry.system.descriptors import open_file_path, open_itself
from cardferry.system.peers import peer_credentials, process_name
from cardferry.transports.folders import check_trusted, locked
from cardferry.transports.sockets import (
    Access,
    FolderUnsafeError,
    PathUnusableError,
    check_size,
    checked_path,
    checked_reach,
    who_is_in_the_way,
)

Socket: TypeAlias = socket.socket

#: What to do when a path is not to be had, for those who can choose one.
ELSEWHERE = "choose another place with --socket PATH"
_SHORTER = "choose a shorter one, or set XDG_RUNTIME_DIR to a folder of your own with a shorter path"
#: Connections the kernel keeps for us until we accept them. pcscd's own backlog is 1.
BACKLOG = 4096
_PRIVATE: Final = 0o600


class SocketInUseError(UserError):
    """Somebody else is there."""

    exit_code = 11


class Listening(Interface):
    """A Unix socket that listens, whoever has made it."""

    @property
    def path(self) -> Path:
        """Where it is."""
        ...

    @property
    def socket(self) -> Socket:
        """The socket itself."""
        ...


class ListeningSocket:
    """A bound, listening Unix socket; an ordinary context manager that removes it.

    Args:
        path: where; at most 107 bytes, its folder exists.
        mode: access rights of the socket.
        group: name or number of the group that gets it, None leaves the user's own.
        elsewhere: how to get around a path that is not to be had, for hints.

    Raises:
        PathUnusableError: too long, no such folder, no permission, not a socket.
        SocketInUseError: another process listens there.
        FolderUnsafeError: others could put something in its place.
    """

    def __init__(self, path: Path, mode: int = _PRIVATE, group: str | None = None, elsewhere: str = ELSEWHERE) -> None:
        check_size(path, _SHORTER)
        self.path = path
        self._identity = (0, 0)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            check_trusted(path.parent.absolute(), elsewhere)
            with locked(path.parent):
                _make_room(path, elsewhere)
                self._bind(mode, group, elsewhere)
        except OSError as error:
            self.socket.close()
            raise PathUnusableError(f"cannot listen on {path}: {error.strerror}", elsewhere) from error
        except UserError:
            self.socket.close()
            raise

    def _bind(self, mode: int, group: str | None, elsewhere: str) -> None:
        before = os.umask(0o777 & ~_PRIVATE)
        try:
            self.socket.bind(os.fspath(self.path))
        finally:
            os.umask(before)
        handle = open_itself(self.path)
        try:
            made = os.fstat(handle)
            if not stat.S_ISSOCK(made.st_mode) or made.st_uid != os.getuid() or made.st_nlink != 1:
                raise SocketInUseError(f"something else took the place of {self.path} at this moment", elsewhere)
            self._identity = made.st_dev, made.st_ino
            self._give_rights(open_file_path(handle), mode, group)
            self.socket.listen(BACKLOG)
        except BaseException:
            self._remove()
            raise
        finally:
            os.close(handle)

    def _give_rights(self, made: Path, mode: int, group: str | None) -> None:
        """Give the socket its group, then its mode.

        Args:
            made: the name that the kernel gives to the open file (proc(5)); whoever swaps ``path`` does not change it.
        """
        if group is not None:
            number = group_number(group)
            try:
                os.chown(made, -1, number)
            except (OSError, OverflowError) as error:
                raise PathUnusableError(
                    f"cannot give {self.path} to group {group}: {error}",
                    "name a group that you are a member of: `id -nG` lists them",
                ) from error
        if group is not None or mode != _PRIVATE:
            made.chmod(mode)

    def _remove(self) -> None:
        """Remove the socket, if it is still the one we made."""
        try:
            there = self.path.stat(follow_symlinks=False)
        except FileNotFoundError:
            return
        if (there.st_dev, there.st_ino) == self._identity:
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the socket, if it is still the one we made, and stop listening.

        In this order: as long as we listen, nobody who behaves replaces it, and its inode is not given to another file.
        """
        try:
            self._remove()
        finally:
            self.socket.close()

    def __enter__(self) -> ListeningSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def folder_permissions(folder: Path, option: str = "--socket") -> str:
    """The folder's permissions as ``ls -l`` writes them; raises `FolderUnsafeError` when there is none.

    Args:
        option: the one that chooses another path, for the hint.
    """
    try:
        return stat.filemode(folder.stat().st_mode)
    except OSError as error:
        raise FolderUnsafeError(
            f"the folder {folder} cannot be used: {error.strerror}",
            f"make it, or choose another path with {option} PATH",
        ) from None


def group_number(group: str) -> int:
    """The number of a group that is named, or its number; raises `PathUnusableError` when there is none."""
    try:
        return int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise PathUnusableError(f"there is no group {group!r}", "`getent group` lists those that exist") from None


def check_group(group: str | None) -> None:
    """See that there is that group, if one is named; raises `PathUnusableError`."""
    if group is not None:
        group_number(group)


def public_path(path: Path, access: Access, option: str = "--socket") -> Path:
    """The absolute path of a socket for others; raises `UserError` when there are none, or they could not reach it.

    Args:
        option: the one that chooses another path, for hints.
    """
    check_group(access.group)
    absolute = Path(checked_path(os.path.abspath(path), option))  # noqa: PTH100 - a symbolic link stays
    checked_reach(str(absolute), folder_permissions(absolute.parent, option), access.mode, access.group, option)
    return absolute


def _make_room(path: Path, elsewhere: str) -> None:
    try:
        kind = path.stat(follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise SocketInUseError(f"{path} is there already, and it is not a socket", f"remove it, or {elsewhere}")
    holder = listener(path)
    if holder is not None:
        raise SocketInUseError(f"{path} is in use by {holder}", who_is_in_the_way(os.fspath(path), holder, elsewhere))
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
        pid, _ = peer_credentials(probe)
    return f"{process_name(pid)} (process {pid})"
