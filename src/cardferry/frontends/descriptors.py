"""How many programs can be connected: each takes a file descriptor, and a process may have only so many."""

from __future__ import annotations

from typing import Final

from cardferry.system.limits import raise_open_files

#: More programs than any computer has.
_WANTED: Final = 65536
#: Descriptors for everything else: readers, links, logs, control sockets.
_RESERVED: Final = 128
#: Descriptors for those who come when all places are taken, to tell them so, and for ``SCardCancel``, which comes on a
#: connection of its own.
TURNED_AWAY: Final = 64


def possible_connections() -> int:
    """Raise the limit of this process as far as allowed; return how many connections fit in it."""
    limit = min(raise_open_files(), _WANTED)
    return max(limit - _RESERVED - TURNED_AWAY, limit // 2)
