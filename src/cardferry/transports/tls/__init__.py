"""TLS between a guest and a host, each with a certificate (``tls://HOST:PORT``); see ``docs/transports/tls.md``.

`address` is what everybody imports. The library ``cryptography`` is loaded by those who dial, listen, invite or join.
"""

from __future__ import annotations

from typing import Final
from typing import Protocol as Interface
from weakref import WeakSet


class Door(Interface):
    """Where guests come in."""

    def recheck(self) -> None:
        """Cut off who is here and may not be here any more."""
        ...


#: All doors of this process.
doors: Final[WeakSet[Door]] = WeakSet()


def recheck() -> None:
    """Guests were removed: cut them off, wherever they came in."""
    for door in tuple(doors):
        door.recheck()
