"""Which hosts a fleet has, as they are known now: who looks is told of what changes, and asks nobody.

It reads the bucket once, and from then on hears what hosts write (`cardferry.fleet.bucket`) as plain messages, so
the service keeps nothing for each who looks. While the service is out of reach, what was known last stays.

Whoever has not written for `LIFE` s, and then not for as long again, though the bucket can be written, is gone. For a
silence may be the bucket's: its servers are choosing who leads, or have begun anew with nothing. Who uses hosts does so
through links, which know by themselves when they are broken.
"""

from __future__ import annotations

import asyncio
import logging
import math
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
from cardferry.transports.nats.errors import NatsError
from cardferry.transports.nats.explaining import explained
from cardferry.transports.nats.settings import FleetSettings
from cardferry.wire.errors import WireError

log = logging.getLogger(__name__)

#: s between attempts to reach the service again.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
#: Different reasons why the service refuses us that are told at once.
_REASONS: Final = 6
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
        #: Whose time was over, and who has been given as long again.
        self._late: set[str] = set()
        self._changes = Changes()
        self._tasks = asyncio.TaskGroup()
        self._watching: asyncio.Task[None]
        self._first: asyncio.Future[UserError | None]
        self._seldom = Seldom()
        self._refused = Seldom(_REASONS)
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
                    self._refused.reset()
                    await self._follow(connection)
                    log.warning("the fleet at %s is out of reach: what was known last stays", connection.where)
            except UserError as error:
                if not self._first.done():
                    self._first.set_result(error)
                    return
                self._tell(error)
            self.current = False
            await asyncio.sleep(backoff.pause())

    def _tell(self, error: UserError) -> None:
        """Why it stays out of reach is news where a person can mend it; that it is, has been told."""
        heals = not isinstance(error, NatsError) or error.heals
        due = not heals and self._refused.due(self._settings.reason(error.message), asyncio.get_running_loop().time())
        log.log(logging.WARNING if due else logging.DEBUG, "the fleet is out of reach: %s", error)

    async def _read(self, connection: Connection) -> None:
        """Hear of changes, and then read what there is."""
        heard: set[str] = set()

        def took(subject: str, data: bytes, header: Mapping[str, str]) -> None:
            key = subject.removeprefix(bucket.SUBJECTS)
            heard.add(key)
            self._entry(key, data, bucket.deleted(header), bucket.LIFE)

        await connection.subscribe(f"{bucket.SUBJECTS}{self._keys}*", took)
        await connection.flush()
        store = await bucket.found(connection)
        there = set()
        if store is not None:
            with explained(connection.where):
                async with asyncio.timeout(_READING_TIME):
                    watcher = await store.watch(f"{self._keys}*")
                    async for entry in watcher:
                        if entry is None:
                            break
                        there.add(entry.key)
                        if entry.key not in heard:
                            gone = entry.operation is not None
                            self._entry(entry.key, entry.value or b"", gone, _left(entry.created))
                    await watcher.stop()  # type: ignore[no-untyped-call]
        now = asyncio.get_running_loop().time()
        for name in self._hosts.keys() - {key.removeprefix(self._keys) for key in there | heard}:
            self._until[name] = now + bucket.LIFE  # the host may not know yet that it must write again
            self._late.discard(name)
        self.current = True

    async def _follow(self, connection: Connection) -> None:
        """Until the connection is lost: see that hosts vanish that write no more."""
        loop = asyncio.get_running_loop()
        while not connection.lost.done():
            still_wanted()
            now = loop.time()
            late = [name for name, until in self._until.items() if until <= now]
            if late:
                self._are_late(late, kept=await bucket.kept(connection))
            else:
                soonest = min(self._until.values(), default=now + bucket.LIFE)
                await asyncio.wait({connection.lost}, timeout=soonest - now)

    def _are_late(self, names: list[str], *, kept: bool) -> None:
        """The time of these is over; ``kept``: whether they could have written."""
        now = asyncio.get_running_loop().time()
        for name in names:
            if self._until.get(name, math.inf) > now:
                continue  # it has written meanwhile
            if kept and name in self._late:
                log.info("%s has left the fleet without a word", name)
                self._remove(name)
                continue
            self._until[name] = now + bucket.LIFE
            if kept:
                self._late.add(name)
            else:
                self._late.discard(name)

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
        self._late.discard(name)
        if self._hosts.get(name) != host:
            self._hosts[name] = host
            self._news()

    def _remove(self, name: str) -> None:
        self._until.pop(name, None)
        self._late.discard(name)
        if self._hosts.pop(name, None) is not None:
            self._news()

    def _news(self) -> None:
        self.version += 1
        self._changes.announce()


def _left(written: datetime | None) -> float:
    """For how many s what was written then is good: not less than until its host must have written again."""
    age = (datetime.now(UTC) - written).total_seconds() if written is not None else 0.0
    return min(bucket.LIFE, max(bucket.REFRESH + 1, bucket.LIFE - age))  # clocks may differ


async def hosts(settings: FleetSettings) -> tuple[FleetHost, ...]:
    """All hosts at this moment; raises `UserError` when there is no directory to read."""
    async with Directory(settings) as directory:
        return directory.hosts
