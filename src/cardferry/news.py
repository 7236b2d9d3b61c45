"""Something has changed: wakes all who wait for that. What it is they find out for themselves."""

from __future__ import annotations

import asyncio


class News:
    """See the module.

    Attributes:
        waiters: one future for each who waits.
    """

    __slots__ = ("waiters",)

    def __init__(self) -> None:
        self.waiters: set[asyncio.Future[None]] = set()

    async def wait(self) -> None:
        """Wait until there is news."""
        waiter = asyncio.get_running_loop().create_future()
        self.waiters.add(waiter)
        try:
            await waiter
        finally:
            self.waiters.discard(waiter)

    def tell(self) -> None:
        """There is news."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)
