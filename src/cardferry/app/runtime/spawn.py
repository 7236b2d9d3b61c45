"""A cardferry command in the background: started by one that ends soon, told of its readiness or of why not.

The child inherits a pipe. It writes one line of JSON there, a `StartReport`, and closes it; what it logs goes to a file
beside the sockets. Only light imports: this runs in every session that ssh opens for a link.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from cardferry.app.runtime import ascii_json
from cardferry.pcsc.errors import UserError
from cardferry.system.locks import lock
from cardferry.system.processes import name_this_process
from cardferry.system.service_manager import service_manager

#: Bytes of a log file; when it has more, it begins anew.
MAX_LOG: Final = 256 * 1024
_MAX_REPORT: Final = 4096


class BackgroundError(UserError):
    """A process in the background did not start, or does not do what it is for."""

    exit_code = 52


class StartReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a process in the background says, as one line of JSON.

    Attributes:
        taken: streams that were handed over are in use.
        serving: programs can connect at this path now.
        error: what is wrong, empty when nothing is.
        hint: what a person can do.
        code: exit code for the error.
    """

    taken: bool = False
    serving: str = ""
    error: str = ""
    hint: str = ""
    code: int = BackgroundError.exit_code

    @classmethod
    def of(cls, error: UserError) -> StartReport:
        """The report of an error."""
        return cls(error=error.message, hint=error.hint, code=error.exit_code)

    def check(self) -> None:
        """Raise the error that it tells of, if it does; with its own exit code."""
        if self.error:
            told = BackgroundError(self.error, self.hint)
            told.exit_code = self.code
            raise told

    def line(self) -> bytes:
        """As it is sent."""
        return ascii_json.encode(self).encode() + b"\n"


def decode(line: bytes) -> StartReport:
    """Read a report; raises `BackgroundError` when it is none."""
    try:
        return ascii_json.decode(line, StartReport)
    except ValueError:
        raise BackgroundError(
            "a process in the background says what nobody understands",
            "see `cardferry status` for its number, and end it",
        ) from None


class Starter:
    """Whoever started this process, and waits to hear how that went: another cardferry, or systemd.

    Args:
        descriptor: where to write, None when nobody waits.
    """

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def tell(self, report: StartReport) -> None:
        """Tell it, the first time; it does not listen any longer then. A systemd hears that we are ready, each time."""
        if not report.error:
            service_manager().tell(READY="1")
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(BrokenPipeError):
                os.write(descriptor, report.line())
            os.close(descriptor)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process at a time is in the block, of all that give this folder: so only one starts what several need."""
    path = folder / ".starting"
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            lock(handle)
            if _is_at(handle, path):  # and not one that has been removed while we waited for it
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


def start(words: list[str], log_file: Path) -> None:
    """Run ``cardferry WORDS --ready FD`` as a process that does not end with this one; return when it is ready.

    Raises:
        BackgroundError: it is not; in its own words, with its own exit code.
    """
    command = [sys.executable, "-m", "cardferry", *words]
    scope = own_scope()
    line = _reported([*scope, *command], log_file)
    if scope and not line:  # in the unit's own group rather than not at all
        line = _reported(command, log_file)
    if not line:
        raise BackgroundError(f"`cardferry {words[0]}` did not start", f"its last words are in {log_file}")
    decode(line).check()


def own_scope() -> list[str]:
    """What makes a process that a systemd service starts outlive it, in a scope of its own; nothing elsewhere."""
    if not service_manager().there or shutil.which("systemd-run") is None:
        return []
    user = ["--user"] if "MANAGERPID" in os.environ else []  # systemd.exec(5): only the user manager sets it
    return ["systemd-run", *user, "--scope", "--quiet", "--collect", "--"]


def _reported(command: list[str], log_file: Path) -> bytes:
    """Run the command in the background and return the line that it reports; empty when it ends without one."""
    import subprocess  # noqa: PLC0415 - hardly any session starts something

    reading, writing = os.pipe()
    log_to = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        # nobody waits for it: it outlives us, and is then its new parent's
        subprocess.Popen(  # noqa: S603 - this very program
            [*command, "--ready", str(writing)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log_to,
            pass_fds=[writing],
            cwd="/",
            start_new_session=True,
        )
    finally:
        os.close(writing)
        os.close(log_to)
    with os.fdopen(reading, "rb") as report:
        return report.readline(_MAX_REPORT)


def start_agent(folder: Path, idle: float, options: Sequence[str] = ()) -> None:
    """Start the agent of the account, whose runtime folder is ``folder``; return when it is ready.

    Args:
        idle: s without anybody until it leaves.
        options: more for ``cardferry host``.

    Raises:
        BackgroundError: it is not.
    """
    start(["host", "--idle", f"{idle:g}", *options], agent_log(folder))


def agent_log(folder: Path) -> Path:
    """What an agent that has started itself logs."""
    return folder / "agent.log"


def reach(path: Path, begin: Callable[[], None]) -> socket.socket:
    """A connection to the process in the background that listens at ``path``; started if nobody does.

    Args:
        begin: starts it; returns when it listens.

    Raises:
        BackgroundError: there is none, and none can be started.
    """
    connection = _connected(path)
    if connection is None:
        with alone(path.parent):  # of several that come at once, one starts it
            connection = _connected(path)
            if connection is None:
                try:
                    begin()
                except BackgroundError:
                    if (connection := _connected(path)) is None:  # one that a person has started was faster
                        raise
                connection = connection or _connected(path)
    if connection is None:
        raise BackgroundError(f"nobody listens at {path}", "is the disk full, or the folder somebody else's?")
    return connection


def _connected(path: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(os.fspath(path))
    except OSError:
        connection.close()
        return None
    return connection


class BoundedLog(logging.Filter):
    """Empties the file behind standard error when it has grown too long; it must be open for appending.

    Args:
        most: bytes.
    """

    def __init__(self, most: int = MAX_LOG) -> None:
        super().__init__()
        self._most = most

    def filter(self, record: logging.LogRecord) -> bool:
        """Look at the size before each line."""
        with contextlib.suppress(OSError):
            if os.fstat(2).st_size > self._most:
                os.ftruncate(2, 0)
        return True


def settle_in_background() -> None:
    """See that what this process logs to standard error does not fill the disk, and that it is not called python."""
    name_this_process("cardferry")
    for handler in logging.getLogger().handlers:
        handler.addFilter(BoundedLog())
