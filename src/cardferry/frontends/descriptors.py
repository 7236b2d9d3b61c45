"""How many programs can be connected: each takes a file descriptor, and a process may have only so many."""

from __future__ import annotations

import resource
from typing import Final

#: What we ask for when we may; the usual soft limit of 1024 is meant for programs that use ``select``.
_WANTED: Final = 65536
#: Descriptors for everything else: readers, links, logs, control sockets.
_RESERVED: Final = 128
#: Descriptors for those who come when all places are taken, to tell them so, and for ``SCardCancel``, which comes on a
#: connection of its own.
TURNED_AWAY: Final = 64


def possible_connections() -> int:
    """Raise the limit of this process as far as wanted and allowed; return how many connections fit in it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _WANTED:
        soft = _WANTED if hard == resource.RLIM_INFINITY else min(_WANTED, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    limit = _WANTED if soft == resource.RLIM_INFINITY else soft
    return max(limit - _RESERVED - TURNED_AWAY, limit // 2)
