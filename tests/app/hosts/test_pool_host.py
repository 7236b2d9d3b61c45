"""A pool whose members come and go, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from cardferry.app.hosts.address import HostAddress
from cardferry.app.hosts.connect import ReachedHost, Way
from cardferry.app.hosts.pool_host import PoolHost, pooled
from cardferry.app.hosts.pool_table import PoolTable
from cardferry.app.hosts.registry import parse_host
from cardferry.changes import Changes
from tests.app.hosts.test_multiple import Hosts, Scripted
from tests.fleet.hosts import Said
from tests.virtual_time import loop_factories, quiet

LOOPS = loop_factories()


class Listing:
    """Members of a pool, as the test says."""

    def __init__(self, table: PoolTable, *hosts: HostAddress) -> None:
        self.hosts = hosts
        self._table = table
        self._changes = Changes()

    def become(self, *hosts: HostAddress) -> None:
        self.hosts = hosts
        self._changes.announce()

    def means(self, host: HostAddress, reader: str) -> bool:
        return self._table.means(reader)

    async def changed(self) -> None:
        await self._changes.wait()


@asynccontextmanager
async def pool(
    folder: Path, hosts: Hosts, *names: str, wait: bool = False, table: PoolTable = PoolTable("signing")
) -> AsyncIterator[tuple[ReachedHost, Listing]]:
    """A pool of some of the hosts, as `attach` has it."""
    listing = Listing(table, *(Scripted(name, hosts) for name in names))
    host = PoolHost("signing", parse_host)
    async with pooled(host, listing, table, Way(folder, wait=wait)) as reached:
        await reached.known()
        yield reached, listing


def members(reached: ReachedHost) -> list[str]:
    """Who is up."""
    return [link.host for link in reached.links("path") if link.pool and link.state == "up"]


async def test_members_that_leave_while_their_links_are_up_end_nothing(tmp_path: Path) -> None:
    hosts = Hosts(one=[Said("Reader", "Other")], two=[Said("Reader")], three=[Said("Reader")])
    async with pool(tmp_path, hosts, "one", "two", "three") as (reached, listing):
        assert members(reached) == ["one", "two", "three"]
        serial = reached.manager.snapshot.serial
        listing.become(listing.hosts[2])
        await quiet()
        assert members(reached) == ["three"]
        assert reached.manager.snapshot.serial == serial, "programs see the same reader"
        assert hosts.open == {"three"}
        listing.become()
        await quiet()
        assert [reader.name for reader in reached.manager.snapshot.readers] == []
        listing.become(Scripted("two", hosts))
        await asyncio.sleep(1)
        assert [reader.name for reader in reached.manager.snapshot.readers] == ["signing"]
