"""Sockets that systemd has opened for this process (sd_listen_fds(3)): they listen before it runs, and after it."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from typing import Final

#: ``SD_LISTEN_FDS_START``
_FIRST: Final = 3


def listening_sockets(environ: MutableMapping[str, str] = os.environ) -> list[socket.socket]:
    """The sockets, in the unit's order; none where systemd has passed none. Children are not told of them."""
    named = {name: environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")}
    if named["LISTEN_PID"] != str(os.getpid()) or not named["LISTEN_FDS"].isdecimal():
        return []
    found = [socket.socket(fileno=_FIRST + number) for number in range(int(named["LISTEN_FDS"]))]
    for one in found:
        one.set_inheritable(False)
        one.setblocking(False)
    return found
