"""What this process may have, and who may look into its memory (getrlimit(2), prctl(2))."""

from __future__ import annotations

import ctypes
import logging
import resource
import sys
from typing import Final

log = logging.getLogger(__name__)

#: What the kernel's ``nr_open`` usually is; asking for more is refused on some systems.
_ENOUGH: Final = 1 << 20
#: ``linux/prctl.h``
_PR_SET_DUMPABLE: Final = 4
#: The limit of core files that this process was started with, once it is another one.
_cores: list[tuple[int, int]] = []


def raise_open_files() -> int:
    """Raise the soft limit of open files to the hard limit; each program's context is one, and ssh takes some more.

    Returns:
        what is in force now; 1048576 where there is no limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else hard
    if soft == resource.RLIM_INFINITY:
        return _ENOUGH
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as error:
            log.warning("the limit of open files stays at %d: %s", soft, error)
        else:
            soft = wanted
    log.debug("at most %d open files", soft)
    return soft


def keep_memory_private() -> None:
    """PINs pass through this process: it leaves no core file, and nobody but root looks into its memory.

    As ssh-agent and gpg-agent do it. The limit alone would not do: the kernel hands a dump to a program such as
    systemd-coredump all the same (core(5)). Children that are other programs are dumped or not as their limit says;
    `cores_as_before` gives it back to those that are not ours. ``/proc/PID`` belongs to root from now on (proc(5)):
    even the process itself can read its own ``environ`` and ``mem`` there no more, but ``fd``, ``stat`` and ``comm``.
    """
    if not _cores:
        _cores.append(resource.getrlimit(resource.RLIMIT_CORE))
        resource.setrlimit(resource.RLIMIT_CORE, (0, _cores[0][1]))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def cores_as_before() -> None:
    """In a child, before its program: the limit of core files is what it was before `keep_memory_private`."""
    if _cores:
        resource.setrlimit(resource.RLIMIT_CORE, _cores[0])
