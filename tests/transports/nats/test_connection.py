"""The connection to a NATS service, apart from what goes through it."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from cardferry.transports.nats.connection import still_wanted


async def test_a_cancellation_that_was_lost_on_the_way_is_found() -> None:
    async def work() -> None:
        for _ in range(2):
            still_wanted()
            with suppress(asyncio.CancelledError):  # as asyncio.wait_for does it now and then
                await asyncio.sleep(60)

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
