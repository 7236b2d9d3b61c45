"""What this process asks of the system and of Python when it serves many.

Sockets: each application's context is one, and ssh takes some more. And the garbage collector, which stops everything.
"""

from __future__ import annotations

import gc
import logging
import resource
from typing import Final

log = logging.getLogger(__name__)

#: What the kernel's ``nr_open`` usually is; asking for more is refused on some systems.
_ENOUGH: Final = 1 << 20
#: How many objects more make the collector look at the youngest, how many such looks at the younger, and then at all.
#: Python's own 700, 10 and 10 make it look at all objects several times a second while a guest opens thousands of
#: contexts, 0.1 s or more each time. What is done with is freed by its reference count, nearly all of it.
_COLLECT: Final = (20_000, 5, 10)


def raise_open_files() -> int:
    """Raise the soft limit of open files to the hard limit; return what is in force now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as error:
            log.warning("the limit of open files stays at %d: %s", soft, error)
        else:
            soft = wanted
    log.debug("at most %d open files", soft)
    return soft


def collect_rarely() -> None:
    """Let the garbage collector stop this process less often, and not look at what was there from the start."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT)
