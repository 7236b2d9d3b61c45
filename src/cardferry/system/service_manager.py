"""What a service tells the systemd that has started it (sd_notify(3)): that it is ready, is alive, stops.

A datagram of ``NAME=value`` lines to the socket that ``NOTIFY_SOCKET`` names. Where nobody has started us so, nothing
is told.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import MutableMapping
from functools import cache
from typing import Final

log = logging.getLogger(__name__)

_SOCKET, _EVERY, _FOR = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
#: s that a manager gets to take what it is told, when its queue is full.
_PATIENCE: Final = 1.0


class ServiceManager:
    """Whoever wants to hear from this process.

    Args:
        environ: what it has left there is taken out: it is for us, not for what we start.

    Attributes:
        there: whether there is one: this process is the service's own, and not one that it has started.
        watchdog: s within which it must hear that we are alive (sd_watchdog_enabled(3)); 0 when it does not care.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        path = environ.pop(_SOCKET, "")
        microseconds, whose = environ.pop(_EVERY, ""), environ.pop(_FOR, "")
        self._address = "\0" + path[1:] if path.startswith("@") else path if path.startswith("/") else ""
        self.there = bool(self._address)
        mine = self.there and whose in ("", str(os.getpid()))
        self.watchdog = int(microseconds) / 1e6 if mine and microseconds.isdecimal() else 0.0

    def tell(self, **what: str) -> None:
        """Tell it, such as ``READY="1"``; ``STATUS`` is a line for people."""
        if not self._address:
            return
        text = "".join(f"{name}={' '.join(value.split())}\n" for name, value in what.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
                sending.settimeout(_PATIENCE)
                sending.sendto(text.encode(errors="replace"), self._address)
        except OSError as error:
            log.debug("systemd is not told %s: %s", ", ".join(what), error)


@cache
def service_manager() -> ServiceManager:
    """That of this process; the environment is looked at once."""
    return ServiceManager(os.environ)
