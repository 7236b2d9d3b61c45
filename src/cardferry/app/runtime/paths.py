"""Where this computer's sockets of ours are: one folder per user, private, and checked before it is trusted."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from cardferry.system.locks import lock, lock_at_once
from cardferry.transports.folders import check_trusted, locked
from cardferry.transports.sockets import FolderUnsafeError

#: The folder of the service of the whole computer (`setup system`), where it takes guests that accounts hand over, and
#: where it tells accounts how it does. Another one than that of root's own services, which is root's alone.
SYSTEM_FOLDER: Final = Path("/run/cardferry-system")
SYSTEM_GUESTS: Final = SYSTEM_FOLDER / "guests"
SYSTEM_STATUS: Final = SYSTEM_FOLDER / "status"
#: The folder of root's own services (`setup service`), whatever root's XDG_RUNTIME_DIR is.
SYSTEM_SERVICES: Final = Path("/run/cardferry")
_SCRATCH: Final = ".part-"
_OF_YOUR_OWN: Final = "set XDG_RUNTIME_DIR to a folder of your own"


def runtime_folder(
    environ: Mapping[str, str] = os.environ, temporary: str | None = None, accounts: Path = Path("/run/user")
) -> Path:
    """The folder for our sockets, made if it is not there; ours alone, and writable.

    ``$XDG_RUNTIME_DIR/cardferry``, else ``cardferry-UID`` in the folder for temporary files. A session without the
    variable (sshd without PAM, cron, su) has the folder that the account's other sessions, and systemd, have, if it is
    there: they all shall find the same agent.

    Args:
        environ: the environment.
        temporary: the folder for temporary files, the system's by default.
        accounts: where the folders of accounts are (pam_systemd(8)).

    Raises:
        FolderUnsafeError: it belongs to somebody else, is a symbolic link, others can write in it or on the way to it,
            or we cannot.
    """
    runtime = environ.get("XDG_RUNTIME_DIR") or _of_account(accounts / f"{os.getuid()}")
    if runtime.startswith("/") and os.path.isdir(runtime):  # noqa: PTH112 - false also where we may not look
        return private_folder(Path(runtime) / "cardferry")
    try:
        parent = Path(temporary or tempfile.gettempdir())
    except FileNotFoundError as error:
        raise FolderUnsafeError(f"there is no folder for our sockets: {error.strerror}", _OF_YOUR_OWN) from None
    return private_folder(parent / f"cardferry-{os.getuid()}")


def _of_account(folder: Path) -> str:
    with suppress(OSError):
        if folder.is_dir() and folder.stat().st_uid == os.getuid():
            return str(folder)
    return ""


def agent_path(folder: Path) -> Path:
    """Where the agent of the account whose runtime folder it is listens."""
    return folder / "agent"


def private_folder(folder: Path) -> Path:
    """Make ``folder`` with mode 0700, or check that the one that is there is ours alone to write in.

    Raises:
        FolderUnsafeError: it is not.
    """
    try:
        check_trusted(folder.parent, _OF_YOUR_OWN)
        folder.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise FolderUnsafeError(f"the folder {folder} cannot be made: {error.strerror}", _OF_YOUR_OWN) from None
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        problem = "it is a symbolic link" if stat.S_ISLNK(found.st_mode) else "it is not a folder"
    elif found.st_uid != os.getuid():
        problem = "it belongs to somebody else"
    elif found.st_mode & 0o022:
        problem = "others can write in it"
    elif not os.access(folder, os.W_OK | os.X_OK):
        raise FolderUnsafeError(
            f"nothing can be written in the folder {folder}", f"make it writable, or {_OF_YOUR_OWN}"
        )
    else:
        return folder
    raise FolderUnsafeError(
        f"the folder {folder} cannot be trusted: {problem}", f"look who made it and remove it, or {_OF_YOUR_OWN}"
    )


@contextmanager
def scratch(runtime: Path) -> Iterator[Path]:
    """A private folder inside ``runtime`` for sockets between parts of one process; removed afterwards.

    Folders that a killed process has left are removed, too: their lock is free.
    """
    with ExitStack() as held:
        with locked(runtime):  # nobody takes a folder that is being made for one that was left
            for left in runtime.glob(_SCRATCH + "*"):
                _remove_unlocked(left)
            folder = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=runtime))
            lock(held.enter_context(_opened(folder)))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


def _remove_unlocked(folder: Path) -> None:
    with suppress(OSError), _opened(folder) as handle:
        lock_at_once(handle)
        shutil.rmtree(folder, ignore_errors=True)


def this_computer() -> str:
    """This computer's short name, as it appears in paths on other computers."""
    return socket.gethostname().partition(".")[0] or "cardferry"
