"""Other processes: this user's (proc(5)), and children that must not outlive this one (prctl(2))."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

#: ``linux/prctl.h``
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15


def environments(command: str) -> Iterator[tuple[int, dict[str, str]]]:
    """The process id and the environment of each process of this user that runs ``command`` and sees our files."""
    mounts = Path("/proc/self/ns/mnt").readlink()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it may end meanwhile, or belong to somebody else
            if process.stat().st_uid != os.getuid() or (process / "comm").read_text().strip() != command:
                continue
            if (process / "ns/mnt").readlink() != mounts:
                continue  # of a container, which has its own paths
            variables = (process / "environ").read_bytes().decode(errors="surrogateescape").split("\0")
            yield int(process.name), dict(one.split("=", 1) for one in reversed(variables) if "=" in one)


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
