"""Folders in which others could put something in the place of our files, and a lock that others cannot hold.

A path is worth what the folders on the way to it are: whoever may rename in one of them decides where the path leads.
As for sshd (``StrictModes``), each must belong to us or to root; others may write in it only if it is sticky like
``/tmp``, where nobody can remove or rename what is somebody else's (inode(7)).
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cardferry.system.locks import lock
from cardferry.transports.sockets import FolderUnsafeError

#: Symbolic links that are followed on the way to a folder; the kernel's own limit (path_resolution(7)).
_MOST_LINKS: Final = 40


def check_trusted(folder: Path, elsewhere: str) -> None:
    """See that nobody but us and root decides what is in ``folder``, and where its path leads.

    Args:
        folder: an absolute path.
        elsewhere: how to choose another place, for the hint.

    Raises:
        FolderUnsafeError: somebody else does.
        OSError: it cannot be looked at.
    """
    # Who owns "/" is root, also in a user namespace, which shows root as nobody.
    ours = {os.getuid(), 0, Path("/").stat().st_uid}
    for place, found in _way(folder):
        if found.st_uid not in ours:
            raise FolderUnsafeError(f"the folder {place} cannot be trusted: it belongs to somebody else", elsewhere)
        if stat.S_ISDIR(found.st_mode) and found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
            mend = f"chmod go-w {shlex.quote(str(place))}, or " if found.st_uid == os.getuid() else ""
            raise FolderUnsafeError(
                f"the folder {place} cannot be trusted: others can write in it", f"{mend}{elsewhere}"
            )


def _way(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Each folder and symbolic link on the way to ``folder``, which comes last."""
    here = Path("/")
    yield here, here.lstat()
    ahead = list(reversed(folder.parts[1:]))
    links = 0
    while ahead:
        name = ahead.pop()
        if name == "..":
            here = here.parent
            continue
        place = here / name
        found = place.lstat()
        yield place, found
        if not stat.S_ISLNK(found.st_mode):
            here = place
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(folder))
        target = place.readlink()
        if target.is_absolute():
            here = Path("/")
        ahead += reversed(target.parts[target.is_absolute() :])


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Only one process of this user at a time is in the block, of all that give this folder. Short blocks only.

    What is locked is a file that nobody else can open. The folder itself will not do: whoever may read it could lock
    it, and we would wait for ever.

    Raises:
        FolderUnsafeError: somebody else's file is in the way.
        OSError: the lock cannot be made.
    """
    path = folder / f".cardferry-{os.getuid()}.lock"
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if os.fstat(handle).st_uid != os.getuid():
                raise FolderUnsafeError(
                    f"{path} is in the way: it belongs to somebody else", "look who made it, or choose another folder"
                )
            lock(handle)
            if not _is_at(handle, path):
                continue  # whoever had the lock has removed the file
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return
        finally:
            os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False
