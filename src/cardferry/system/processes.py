"""Other processes: this user's (proc(5)), and children that must not outlive this one (prctl(2))."""

from __future__ import annotations

import asyncio
import ctypes
import os
import select
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

#: ``linux/prctl.h``
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15


def has_process(command: str) -> bool:
    """Whether a process of this user runs ``command``; also one that is not to be traced, whose files are root's."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it may end meanwhile
            lines = (process / "status").read_text().splitlines()
            fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
            if fields["Name"] == command and int(fields["Uid"].split()[0]) == os.getuid():
                return True
    return False


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped, by SIGSTOP, Ctrl-Z or a debugger (``T`` and ``t`` in proc_pid_stat(5))."""
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return state.rpartition(b") ")[2][:1] in (b"T", b"t")  # the name before that may have blanks and brackets


def command_line(pid: int) -> list[str]:
    """The words that a process was started with; none when it cannot be told."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="surrogateescape").split("\0")[:-1]
    return []


def environment_of(pid: int) -> dict[str, str] | None:
    """The environment that a process was started with; None where that may not be seen."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="surrogateescape").split("\0")
    except OSError:
        return None
    return dict(one.split("=", 1) for one in reversed(variables) if "=" in one)


def name_this_process(name: str) -> None:
    """Call this process so, where others look: pcscd's log, ``ps``, `cardferry.system.peers`. At most 15 bytes count.

    Not by ``/proc/self/comm``, which belongs to root where nobody may look into the process (proc(5)).
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def dies_with_parent() -> Callable[[], None] | None:
    """What a child runs before its program so that it does not outlive us, where the system can do that."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def bind() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(0)

    return bind


async def killed(process: asyncio.subprocess.Process) -> None:
    """Kill a child, unless it has ended by itself, and wait until it is gone."""
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def wait_for_end(pid: int, patience: float) -> bool:
    """Wait until a process has ended, whoever's child it is, up to ``patience`` s; return whether it has."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], patience)[0])
    finally:
        os.close(handle)
