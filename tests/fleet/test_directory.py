"""The directory of a fleet, apart from what is in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import NoReturn

import pytest

from cardferry.fleet import bucket
from cardferry.fleet.directory import Directory
from cardferry.fleet.members import FleetHost, encode
from cardferry.transports.nats.connection import Connection
from cardferry.transports.nats.errors import NatsError, NatsRefusesError
from cardferry.transports.nats.settings import FleetSettings

SETTINGS = FleetSettings(("nats://127.0.0.1:4222",))


class Service:
    """A NATS service with a bucket.

    Attributes:
        documents: of its hosts; None when there is no bucket.
        led: whether somebody can write; who asks for the bucket gets an error when not.
        lost: of the connection.
    """

    where = SETTINGS.servers[0]

    def __init__(self) -> None:
        self.documents: dict[str, bytes] | None = {}
        self.led = True
        self.took: Callable[[str, bytes, Mapping[str, str]], None] = lambda *_: None
        self.lost: asyncio.Future[None]

    @asynccontextmanager
    async def connected(self, settings: FleetSettings) -> AsyncIterator[Service]:
        self.lost = asyncio.get_running_loop().create_future()
        yield self

    async def subscribe(self, subject: str, took: Callable[[str, bytes, Mapping[str, str]], None]) -> None:
        self.took = took

    async def flush(self) -> None:
        pass

    async def found(self, connection: object) -> Service | None:
        if not self.led:
            raise NatsError("nobody leads", "wait")
        return None if self.documents is None else self

    async def watch(self, keys: str) -> Service:
        return self

    async def stop(self) -> None:
        pass

    async def __aiter__(self) -> AsyncIterator[SimpleNamespace | None]:
        for key, value in (self.documents or {}).items():
            yield SimpleNamespace(key=key, value=value, operation=None, created=datetime.now(UTC))
        yield None

    def writes(self, *names: str) -> None:
        """These hosts write."""
        for name in names:
            self.took(f"$KV.cardferry.hosts.{name}", encode(FleetHost(name)), {})


@pytest.fixture(autouse=True)
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    """A service that is reached."""
    made = Service()
    monkeypatch.setattr("cardferry.fleet.directory.connected", made.connected)
    monkeypatch.setattr("cardferry.fleet.bucket.found", made.found)
    return made


def names(directory: Directory) -> list[str]:
    return [host.name for host in directory.hosts]


async def test_a_host_that_writes_no_more_vanishes_and_others_stay(service: Service) -> None:
    async with Directory(SETTINGS) as directory:
        service.writes("LAB-1", "LAB-2")
        for _ in range(10):
            await asyncio.sleep(bucket.REFRESH)
            service.writes("LAB-2")
        assert names(directory) == ["LAB-2"]
        service.took("$KV.cardferry.hosts.LAB-2", b"", {"KV-Operation": "DEL"})
        assert names(directory) == [], "who says good-bye is gone at once"


async def test_hosts_stay_while_nobody_can_write_and_have_time_to_write_again(service: Service) -> None:
    async with Directory(SETTINGS) as directory:
        service.writes("LAB-1", "LAB-2")
        await asyncio.sleep(bucket.LIFE - 1)
        service.led = False
        await asyncio.sleep(60)
        service.led = True
        service.documents = None  # what it kept in memory is lost
        await asyncio.sleep(60)
        assert names(directory) == ["LAB-1", "LAB-2"], "without a bucket nobody can write"
        service.documents = {}
        await asyncio.sleep(bucket.LIFE - 0.1)
        assert names(directory) == ["LAB-1", "LAB-2"]
        for _ in range(10):
            service.writes("LAB-1")
            await asyncio.sleep(bucket.REFRESH)
        assert names(directory) == ["LAB-1"], "it has had its time"


async def test_hosts_stay_when_the_service_is_back_with_an_empty_bucket(service: Service) -> None:
    async with Directory(SETTINGS) as directory:
        service.writes("LAB-1", "LAB-2")
        service.lost.set_result(None)
        await asyncio.sleep(60)
        assert not service.lost.done(), "it is connected again"
        service.lost.set_result(None)
        service.writes("LAB-1", "LAB-2")
        await asyncio.sleep(1)
        assert directory.current
        assert names(directory) == ["LAB-1", "LAB-2"]
        await asyncio.sleep(bucket.LIFE - 1)
        assert names(directory) == ["LAB-1", "LAB-2"]
        await asyncio.sleep(2 * bucket.LIFE)
        assert names(directory) == []


async def test_without_a_bucket_the_fleet_is_empty_until_a_host_makes_one(service: Service) -> None:
    service.documents = None
    async with Directory(SETTINGS) as directory:
        assert names(directory) == []
        service.writes("LAB-1")
        assert names(directory) == ["LAB-1"]


async def test_why_it_stays_away_is_told_where_a_person_can_mend_it(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(settings: FleetSettings) -> NoReturn:
        raise NatsRefusesError("it does not let this computer in", "")

    async with Directory(SETTINGS):
        monkeypatch.setattr("cardferry.fleet.directory.connected", refused)
        service.lost.set_result(None)
        await asyncio.sleep(60)
        told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert [message.partition(": ")[2] for message in told] == [
            "what was known last stays",
            "it does not let this computer in",
        ]


async def test_a_bug_behind_it_is_an_error_and_no_empty_fleet(monkeypatch: pytest.MonkeyPatch) -> None:
    async def found(connection: Connection) -> None:
        raise AssertionError("a bug")

    monkeypatch.setattr("cardferry.fleet.bucket.found", found)
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(20), Directory(SETTINGS):
            pass
    assert caught.group_contains(AssertionError, match="a bug")
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_it_is_given_up_when_that_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = asyncio.Event()

    async def found(connection: Connection) -> None:
        begun.set()
        await asyncio.get_running_loop().create_future()

    async def use() -> None:
        async with Directory(SETTINGS):
            pass

    monkeypatch.setattr("cardferry.fleet.bucket.found", found)
    async with asyncio.timeout(20):
        using = asyncio.get_running_loop().create_task(use())
        await begun.wait()
        using.cancel()
        with pytest.raises(asyncio.CancelledError):
            await using
