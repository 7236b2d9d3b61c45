"""Whoever comes to an address, taken by the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from cardferry.transports.base import Address, Arrival
from cardferry.transports.nats.listener import NatsListener
from cardferry.transports.sockets import Access


@asynccontextmanager
async def taking(address: Address, take: Callable[[Arrival], None]) -> AsyncIterator[None]:
    """Listen at an address for the block; ``take`` gets each who comes."""
    with address.listen(Access()) as listener:
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(listener.run(take, lambda: None))
            try:
                if isinstance(listener, NatsListener):
                    await listener.here.wait()
                yield
            finally:
                running.cancel()


@asynccontextmanager
async def listening(address: Address) -> AsyncIterator[asyncio.Queue[Arrival]]:
    """Likewise; those who have come are in a queue."""
    arrivals: asyncio.Queue[Arrival] = asyncio.Queue()
    async with taking(address, arrivals.put_nowait):
        yield arrivals
