"""A host's own entry in the directory: written when it comes, when something changes, and every `REFRESH` s.

A name belongs to one host: the first document under it is written on the condition that there is none, and each further
one that nobody else has written meanwhile (``Nats-Expected-Last-Subject-Sequence``). What a host that has died
leaves behind is waited for.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import msgspec

from cardferry.backoff import Backoff
from cardferry.fleet import bucket
from cardferry.fleet.members import MOST_BYTES, FleetHost, FleetReader, decode, encode
from cardferry.transports.nats.connection import Connection, still_wanted
from cardferry.transports.nats.errors import NameTakenError, NatsError
from cardferry.transports.nats.explaining import explained
from cardferry.wire.errors import WireError

if TYPE_CHECKING:
    from nats.js.kv import KeyValue

log = logging.getLogger(__name__)

#: s between two documents of a host about which there is always news.
_PAUSE: Final = 1.0
#: s until it is looked whether more servers shall keep the directory; twice as long each time, up to the second one.
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 600.0
#: How often an entry is looked at that others take away meanwhile.
_TRIES: Final = 5


class Entry:
    """See the module.

    Args:
        host: what is said of the host itself; its readers come from ``readers``, and its address, if it has none, is
            found out.
        readers: the readers as they are now.
        changed: waits until they are others.
        replicas: see `bucket.opened`.
    """

    def __init__(
        self,
        host: FleetHost,
        readers: Callable[[], tuple[FleetReader, ...]],
        changed: Callable[[], Awaitable[object]],
        replicas: int = 0,
    ) -> None:
        self._host = msgspec.structs.replace(host, instance=secrets.token_hex(8))
        self._readers = readers
        self._changed = changed
        self._replicas = replicas
        #: Revision of the document that we have written last; 0 for none, or when it is somebody else's by now.
        self._last = 0
        self._claimed = False

    @asynccontextmanager
    async def entered(self, connection: Connection) -> AsyncIterator[None]:
        """Be in the directory for the block.

        Raises:
            NameTakenError: another host has the name, at the start or later.
            NatsError: the directory cannot be written when that is wanted for the first time.
        """
        if not self._host.address:
            self._host = msgspec.structs.replace(self._host, address=await connection.own_address())
        if not self._claimed:
            await self._claim(connection, await bucket.opened(connection, self._replicas))
            self._claimed = True
        news = asyncio.Event()
        news.set()  # after a break, guests need not wait until the service has chosen who keeps the directory
        try:
            async with asyncio.TaskGroup() as tasks:
                looking = tasks.create_task(self._look(news))
                writing = tasks.create_task(self._write(connection, news))
                keeping = tasks.create_task(self._keep_more(connection))
                try:
                    yield
                finally:
                    for task in (looking, writing, keeping):
                        task.cancel()
        finally:
            if self._last and not connection.lost.done():
                with suppress(NatsError, TimeoutError):
                    await self._leave(connection)

    async def _look(self, news: asyncio.Event) -> None:
        while True:
            await self._changed()
            news.set()
            await asyncio.sleep(_PAUSE)

    async def _write(self, connection: Connection, news: asyncio.Event) -> None:
        store: KeyValue | None = None
        told = False
        while True:
            still_wanted()
            with suppress(TimeoutError):
                async with asyncio.timeout(bucket.REFRESH):
                    await news.wait()
            news.clear()
            try:
                if store is None:
                    store = await bucket.opened(connection, self._replicas)
                with suppress(_Overtaken):
                    await self._put(connection, store)
                if not self._last:
                    await self._claim(connection, store)
                told = False
            except NatsError as error:  # its servers may be choosing who keeps the directory
                store = None
                if not told and not connection.lost.done():
                    log.warning("the directory of the fleet is not written: %s", error)
                told = True

    async def _keep_more(self, connection: Connection) -> None:
        """See from time to time that enough servers keep the directory."""
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE, 0.5)
        while True:
            await asyncio.sleep(backoff.pause())
            still_wanted()
            try:
                await bucket.keep_more(connection, self._replicas)
            except NatsError as error:
                log.debug("the directory of the fleet is not kept by more servers: %s", error)

    async def _put(self, connection: Connection, store: KeyValue) -> None:
        """Write the document where it belongs.

        Raises:
            _Overtaken: somebody else has written or removed it since.
            NatsError: it is not known whether it is written.
        """
        from nats.js import errors  # noqa: PLC0415 - an extra

        document = self._document()
        with explained(connection.where):
            try:
                self._last = await store.update(bucket.host_key(self._host.name), document, self._last)
            except errors.KeyWrongLastSequenceError:
                self._last = 0
                raise _Overtaken from None
            for key, value in self._host.labels.items():
                await store.put(bucket.label_key(key, value, self._host.name), document)

    def _document(self) -> bytes:
        readers = self._readers()
        while True:
            document = encode(msgspec.structs.replace(self._host, readers=readers))
            if len(document) <= MOST_BYTES or not readers:
                return document
            readers = readers[: len(readers) // 2]

    async def _claim(self, connection: Connection, store: KeyValue) -> None:
        """Have the name; raises `NameTakenError` and `NatsError`."""
        for _ in range(_TRIES):
            found = await self._found(connection, store)
            self._last = 0
            last, document = (0, b"") if found is None else found
            try:
                other = decode(document, self._host.name)
            except WireError:  # there is none
                other = None
            if other is not None and other.instance != self._host.instance and await self._alive(connection, other):
                raise NameTakenError(
                    f"the fleet has a host {other.name} already, at {other.address}; "
                    f"this one is at {self._host.address}",
                    "give this one another name: --fleet-name, or name in the table [fleet] of the configuration",
                )
            self._last = last
            with suppress(_Overtaken):
                await self._put(connection, store)
                return
        raise NatsError(f"the directory's entry {self._host.name} changes all the time", "see who else writes it")

    async def _found(self, connection: Connection, store: KeyValue) -> tuple[int, bytes] | None:
        """Revision and document of what is there."""
        from nats.js import errors  # noqa: PLC0415 - an extra

        with explained(connection.where):
            try:
                entry = await store._get(bucket.host_key(self._host.name))
            except errors.KeyDeletedError as gone:
                return gone.entry.revision, b""
            except errors.NotFoundError:
                return None
        return entry.revision or 0, entry.value or b""

    async def _alive(self, connection: Connection, other: FleetHost) -> bool:
        """Whether the host that has the name writes again before its entry vanishes."""
        seen: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def took(subject: str, data: bytes, header: Mapping[str, str]) -> None:
            if not seen.done() and (bucket.deleted(header) or data):
                seen.set_result(not bucket.deleted(header))

        await connection.subscribe(f"{bucket.SUBJECTS}{bucket.host_key(other.name)}", took)
        log.info("the fleet has an entry %s of %s: waiting whether it is alive", other.name, other.address)
        with suppress(TimeoutError):
            async with asyncio.timeout(bucket.LIFE + 1):
                return await seen
        return False

    async def _leave(self, connection: Connection) -> None:
        with explained(connection.where):
            async with asyncio.timeout_at(connection.end):
                store = await bucket.found(connection)
                if store is None:
                    return
                await store.delete(bucket.host_key(self._host.name), self._last)
                for key, value in self._host.labels.items():
                    await store.delete(bucket.label_key(key, value, self._host.name))


class _Overtaken(Exception):  # noqa: N818 - nothing is wrong
    """Somebody else has written."""
