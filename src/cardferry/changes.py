"""Wakes all who wait for something to change; what has changed they find out by themselves."""

from __future__ import annotations

import asyncio


class Changes:
    """Like `asyncio.Condition`, without a lock, and `announce` may be called from anywhere in the event loop."""

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    async def wait(self) -> None:
        """Wait until the next change is announced."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def announce(self) -> None:
        """Something has changed: all who wait go on."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
