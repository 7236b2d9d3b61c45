"""How many sockets this process may have: each application's context is one, and ssh takes some more."""

from __future__ import annotations

import logging
import resource
from typing import Final

log = logging.getLogger(__name__)

#: What the kernel's ``nr_open`` usually is; asking for more is refused on some systems.
_ENOUGH: Final = 1 << 20


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
