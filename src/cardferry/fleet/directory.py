"""Which hosts a fleet has, as they are known now: who looks is told of what changes, and asks nobody.

It reads the bucket once, and from then on hears what hosts write (`cardferry.fleet.bucket`) as plain messages, so
the service keeps nothing for each who looks. Whoever has not written for `LIFE` s is gone. While the service is out of
reach, what was known last stays.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Self

from cardferry.backoff import Backoff, Seldom
from cardferry.changes import Changes
from cardferry.fleet import bucket
from cardferry.fleet.members import MOST_HOSTS, FleetHost, decode
from cardferry.pcsc.errors import UserError
from cardferry.transports.nats.connection import Connection, connected, still_wanted
from cardferry.transports.nats.explaining import explained
from cardferry.transports.nats.settings import FleetSettings
from cardferry.wire.errors import WireError

log = logging.getLogger(__name__)

#: s between attempts to reach the service again.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
#: s until what is in the bucket must have come.
_READING_TIME: Final = 10.0


class Directory:
    """See the module; an asynchronous context manager, which raises `UserError` when there is no directory to read.

    Args:
        settings: where.
        label: only hosts with that label, as key and value; None for all.

    Attributes:
        version: another number whenever `hosts` has become another value.
        current: whether that is what there is now; not while the service is out of reach.
    """

    def __init__(self, settings: FleetSettings, label: tuple[str, str] | None = None) -> None:
        self._settings = settings
        self._keys = "hosts." if label is None else f"labels.{label[0]}.{label[1]}."
        self._hosts: dict[str, FleetHost] = {}
        #: Until when a host is there without another word, in the loop's time.
        self._until: dict[str, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._changes = Changes()
        self._tasks = asyncio.TaskGroup()
        self._watching: asyncio.Task[None]
        self._first: asyncio.Future[UserError | None]
        self._seldom = Seldom()
        self.version = 0
        self.current = False

    @property
    def hosts(self) -> tuple[FleetHost, ...]:
        """All hosts that are there, by name."""
        return tuple(self._hosts[name] for name in sorted(self._hosts))

    def find(self, name: str) -> FleetHost | None:
        """The host of that name."""
        return self._hosts.get(name)

    async def changed(self, version: int) -> None:
        """Wait until the hosts are others, or have something else to say: until `version` is another number."""
        while self.version == version:
            await self._changes.wait()

    async def __aenter__(self) -> Self:
        self._first = asyncio.get_running_loop().create_future()
        await self._tasks.__aenter__()
        self._watching = self._tasks.create_task(self._watch(), name=f"the directory of the fleet at {self._settings}")
        try:
            error = await self._first
        except asyncio.CancelledError as cancelled:  # also by a bug in the task, which is raised here
            await self.__aexit__(type(cancelled), cancelled, cancelled.__traceback__)
            raise
        if error is not None:
            await self.__aexit__(None, None, None)
            raise error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watching.cancel()
        self._pause_time()
        await self._tasks.__aexit__(kind, error, trace)

    # the service

    async def _watch(self) -> None:
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE, 0.3)
        while True:
            still_wanted()
            try:
                async with connected(self._settings) as connection:
                    await self._read(connection)
                    still_wanted()
                    if self._first.done():
                        log.warning("the fleet at %s is back", connection.where)
                    else:
                        self._first.set_result(None)
                    backoff.reset()
                    await connection.over()
                    log.warning("the fleet at %s is out of reach: what was known last stays", connection.where)
            except UserError as error:
                if not self._first.done():
                    self._first.set_result(error)
                    return
                log.debug("the fleet is out of reach: %s", error)
            self.current = False
            self._pause_time()
            await asyncio.sleep(backoff.pause())

    async def _read(self, connection: Connection) -> None:
        """Hear of changes, and then read what there is."""
        heard: set[str] = set()

        def took(subject: str, data: bytes, header: Mapping[str, str]) -> None:
            key = subject.removeprefix(bucket.SUBJECTS)
            heard.add(key)
            self._entry(key, data, bucket.deleted(header), bucket.LIFE)

        await connection.subscribe(f"{bucket.SUBJECTS}{self._keys}*", took)
        await connection.flush()
        store = await bucket.opened(connection, self._settings.replicas)
        there = set()
        with explained(connection.where):
            async with asyncio.timeout(_READING_TIME):
                watcher = await store.watch(f"{self._keys}*")
                async for entry in watcher:
                    if entry is None:
                        break
                    there.add(entry.key)
                    if entry.key not in heard:
                        self._entry(entry.key, entry.value or b"", entry.operation is not None, _left(entry.created))
                await watcher.stop()  # type: ignore[no-untyped-call]
        for name in self._hosts.keys() - {key.removeprefix(self._keys) for key in there | heard}:
            self._remove(name)
        self.current = True
        self._wait()

    # what is known

    def _entry(self, key: str, document: bytes, gone: bool, left: float) -> None:
        """A host has written something; it is there for ``left`` s from now."""
        name = key.removeprefix(self._keys)
        if gone:
            self._remove(name)
            return
        try:
            host = decode(document, name)
        except WireError as error:
            if self._seldom.due(name, asyncio.get_running_loop().time()):
                log.warning("the directory of the fleet has something at %s that is no host: %s", key, error)
            return
        if name not in self._hosts and len(self._hosts) >= MOST_HOSTS:
            if self._seldom.due("", asyncio.get_running_loop().time()):
                log.warning("the fleet has more than %d hosts: not all are looked at", MOST_HOSTS)
            return
        self._until[name] = asyncio.get_running_loop().time() + left
        if self._hosts.get(name) != host:
            self._hosts[name] = host
            self._news()
        if self.current:
            self._wait()

    def _remove(self, name: str) -> None:
        self._until.pop(name, None)
        if self._hosts.pop(name, None) is not None:
            self._news()

    def _news(self) -> None:
        self.version += 1
        self._changes.announce()

    def _wait(self) -> None:
        """See that hosts that write no more vanish; what they write only puts the end off, so one timer will do."""
        if self._timer is None and self._until:
            self._timer = asyncio.get_running_loop().call_at(min(self._until.values()), self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for name in [name for name, until in self._until.items() if until <= now]:
            log.info("%s has left the fleet without a word", name)
            self._remove(name)
        self._wait()

    def _pause_time(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _left(written: datetime | None) -> float:
    """For how many s what was written then is good: not less than until its host must have written again."""
    age = (datetime.now(UTC) - written).total_seconds() if written is not None else 0.0
    return min(bucket.LIFE, max(bucket.REFRESH + 1, bucket.LIFE - age))  # clocks may differ


async def hosts(settings: FleetSettings) -> tuple[FleetHost, ...]:
    """All hosts at this moment; raises `UserError` when there is no directory to read."""
    async with Directory(settings) as directory:
        return directory.hosts
