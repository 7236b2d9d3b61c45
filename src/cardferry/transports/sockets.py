"""What a unix socket's path must be, and what can be wrong with it: the same words here and on the other side.

Source: ``unix(7)``; `PATH_LIMIT` is what Linux's ``sun_path`` and libpcsclite's copy of it hold.
"""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cardferry.transports.errors import AddressSyntaxError, TransportError

#: Bytes of the longest path a socket can be bound to and libpcsclite can be told (without the closing NUL).
PATH_LIMIT: Final = 107


@dataclass(frozen=True, slots=True)
class Access:
    """Who may connect to a socket of ours.

    Attributes:
        mode: the socket's access rights.
        group: group that gets it, None leaves the user's own.
    """

    mode: int = 0o600
    group: str | None = None


class SocketTakenError(TransportError):
    """Somebody serves at the path already."""

    exit_code = 11


class NotASocketError(TransportError):
    """Something that is not a socket is at the path; it is never touched."""

    exit_code = 11
    heals = False


class PathUnusableError(TransportError):
    """The path is too long or not one that a socket can be bound to."""

    exit_code = 10
    heals = False


class FolderUnsafeError(TransportError):
    """The folder that shall hold the socket is missing, or others could tamper with it."""

    exit_code = 12
    heals = False


def absolute_path(rest: str, text: str, example: str) -> Path:
    """The path of a socket in an address; raises `AddressSyntaxError` when it is not absolute.

    Args:
        rest: the path, as it is written.
        text: the whole address, for the error.
        example: how to write one.
    """
    if not rest.startswith("/"):
        raise AddressSyntaxError(f"not a socket's path: {text!r}", f"write it absolute, as in {example}")
    return Path(rest)


def who_is_in_the_way(path: str, holder: str, elsewhere: str) -> str:
    """What to do about a socket that somebody listens on: no hint asks anybody to end systemd.

    Args:
        path: of the socket.
        holder: who listens, as ``name (process 4711)`` or ``command line (pid 4711)``.
        elsewhere: how to choose another path.
    """
    systemd = re.search(r"\((process|pid) 1\)$", holder)
    unknown = systemd or holder == "another program" or re.match(r"(\S*/)?pcscd\b", holder)
    if unknown and path in ("/run/pcscd/pcscd.comm", "/var/run/pcscd/pcscd.comm"):
        return f"{elsewhere}; or, where no reader is plugged in, stop its pcscd: systemctl stop pcscd.socket pcscd"
    if systemd:
        return f"{elsewhere}: one of systemd's units listens there (systemctl list-sockets)"
    return f"end that program, or {elsewhere}"


def connected(path: Path) -> socket.socket:
    """A non-blocking socket that is connected to the one at ``path``, which the kernel does at once or not at all.

    An event loop's own way takes a queue that is full for a connection that is being made (asyncio).

    Raises:
        BlockingIOError: as many connections wait to be accepted there as may wait.
        OSError: there can be no connection.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        connection.connect(os.fspath(path))
    except BaseException:
        connection.close()
        raise
    return connection


def check_size(path: Path, shorter: str) -> None:
    """See that a path fits into a socket's address; raises `PathUnusableError`.

    Args:
        shorter: how to get a shorter one, for the hint.
    """
    if wrong := _too_long(os.fspath(path)):
        raise PathUnusableError(f"the socket's path {wrong}: {path}", shorter)


def _too_long(path: str) -> str:
    size = len(os.fsencode(path))
    return "" if size <= PATH_LIMIT else f"is {size} bytes long, a socket can have {PATH_LIMIT}"


def unfit(path: str) -> str:
    """What keeps a path from being a socket's on any system, in words that follow "the path"; empty when it is fit.

    The path may come from the other side. Named to ssh, ``${NAME}`` would be replaced by what our environment has under
    that name, and told to the other side; there is no way to escape it (ssh_config(5), ENVIRONMENT VARIABLES).
    It is also part of lines that people copy to a shell: where a backslash stands before the closing quote, fish goes
    on with the quotation that other shells end.
    """
    if not path.startswith("/") or path.endswith("/"):
        return "is not absolute, or that of a folder"
    if "${" in path or "\\" in path or not path.isprintable():
        return "has characters that ssh, shells or terminals take for something else"
    return _too_long(path)


def checked_path(path: str, option: str) -> str:
    """Return ``path`` if a socket can be bound to it on any system, else raise `PathUnusableError`.

    Args:
        path: an absolute path, here or on the other side.
        option: the option that chooses another one, for the hint.
    """
    if wrong := unfit(path):
        choose = "choose a shorter one" if "bytes" in wrong else "give another absolute path to a file"
        raise PathUnusableError(f"the socket's path {wrong}: {path!r}", f"{choose} with {option} PATH")
    return path


def checked_reach(path: str, folder: str, mode: int, group: str | None, option: str) -> None:
    """See that those whom ``mode`` lets in can pass the folder; raises `FolderUnsafeError`.

    Args:
        path: the socket's path.
        folder: its folder's permissions as ``ls -l`` writes them (``drwxr-x---``); empty if not known.
        mode: the socket's access rights.
        group: the group it is for, None if it is for the account alone.
        option: the option that chooses another path, for the hint.
    """
    if len(folder) < len("drwxrwxrwx"):
        return
    if (group is not None and mode & 0o070 and folder[6] not in "xs") or (mode & 0o007 and folder[9] not in "xt"):
        raise FolderUnsafeError(
            f"nobody else could reach {path}: its folder is {folder[:10]}",
            f"choose a path in a folder that they can enter with {option} PATH",
        )
