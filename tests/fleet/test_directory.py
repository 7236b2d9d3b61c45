"""The directory of a fleet, apart from what is in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cardferry.fleet.directory import Directory
from cardferry.transports.nats.connection import Connection
from cardferry.transports.nats.settings import FleetSettings

SETTINGS = FleetSettings(("nats://127.0.0.1:4222",))


@pytest.fixture(autouse=True)
def reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that is reached, and takes subscriptions."""

    class Reached:
        where = SETTINGS.servers[0]

        async def subscribe(self, subject: str, took: object) -> None:
            pass

        async def flush(self) -> None:
            pass

    @asynccontextmanager
    async def connected(settings: FleetSettings) -> AsyncIterator[Reached]:
        yield Reached()

    monkeypatch.setattr("cardferry.fleet.directory.connected", connected)


async def test_a_bug_behind_it_is_an_error_and_no_empty_fleet(monkeypatch: pytest.MonkeyPatch) -> None:
    async def opened(connection: Connection, replicas: int = 0) -> None:
        raise AssertionError("a bug")

    monkeypatch.setattr("cardferry.fleet.bucket.opened", opened)
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(20), Directory(SETTINGS):
            pass
    assert caught.group_contains(AssertionError, match="a bug")
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_it_is_given_up_when_that_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = asyncio.Event()

    async def opened(connection: Connection, replicas: int = 0) -> None:
        begun.set()
        await asyncio.get_running_loop().create_future()

    async def use() -> None:
        async with Directory(SETTINGS):
            pass

    monkeypatch.setattr("cardferry.fleet.bucket.opened", opened)
    async with asyncio.timeout(20):
        using = asyncio.get_running_loop().create_task(use())
        await begun.wait()
        using.cancel()
        with pytest.raises(asyncio.CancelledError):
            await using
