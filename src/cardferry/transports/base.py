"""What a transport is to the layers above: a pipe for bytes, both ways.

Calls and callbacks happen in the event loop's thread, in the manner of `asyncio.Protocol`, because streams cost
25 to 80 us a round trip where this costs 15. A pipe keeps the order of its bytes, and either delivers them or is lost:

1. A pipe is connected when a program gets it. It holds what arrives until `Pipe.start` names its user.
2. Bytes come in pieces of any size by `PipeUser.received`. `Pipe.pause_reading` stops that, soon.
3. `Pipe.write` never waits. When too much is under way, `PipeUser.congested` says True: write no more until it
   says False.
4. `PipeUser.lost` is the last thing that a user hears, exactly once, whoever ended the pipe: None when an end closed
   it, otherwise what went wrong. After `Pipe.close` what was written is still delivered; after `Pipe.abort` it is not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol as Interface

#: Bytes on their way in one direction before a user is asked to pause.
HIGH_WATER = 256 * 1024


class PipeUser(Interface):
    """Who uses a pipe."""

    def received(self, data: bytes) -> None:
        """Bytes came, at least one."""
        ...

    def congested(self, congested: bool) -> None:
        """The other end, or the way to it, is slower than what was written; or it has caught up again."""
        ...

    def lost(self, error: Exception | None) -> None:
        """The pipe is gone; nothing comes after this."""
        ...


class Pipe(Interface):
    """A connected byte pipe."""

    @property
    def name(self) -> str:
        """Where it leads, in words for people."""
        ...

    def start(self, user: PipeUser) -> None:
        """Give the pipe its user; once. What has arrived already is delivered from now on."""
        ...

    def write(self, data: bytes) -> None:
        """Send bytes. On a pipe that is lost or closed they vanish."""
        ...

    def pause_reading(self) -> None:
        """Deliver nothing for now. Pausing twice is pausing once."""
        ...

    def resume_reading(self) -> None:
        """Deliver again."""
        ...

    def close(self) -> None:
        """Deliver what was written, then end."""
        ...

    def abort(self) -> None:
        """End now."""
        ...


#: Makes a connection. Raises `OSError`, or a `UserError` that says what a person can do.
Dial = Callable[[], Awaitable[Pipe]]
