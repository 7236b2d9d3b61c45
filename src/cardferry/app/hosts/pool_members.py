"""Who is in a pool: whom the configuration file lists, or the hosts of a fleet with a label."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final
from typing import Protocol as Interface

from cardferry.app.hosts.address import HostAddress
from cardferry.app.hosts.pool_table import POOL, PoolTable, place, pool_table
from cardferry.app.hosts.ssh_link import own_name
from cardferry.app.runtime.fleet import configured_fleet
from cardferry.pcsc.errors import UserError
from cardferry.transports.nats.settings import FleetSettings, parse_label

if TYPE_CHECKING:
    from cardferry.fleet.members import FleetHost

#: Hosts of a fleet to which one guest has links. Of more of them each guest has others, so that all are used.
MOST_HOSTS: Final = 16
Parse = Callable[[str], HostAddress]


class PoolError(UserError):
    """There is no such pool, or none of its members can be reached."""

    exit_code = 66


class Members(Interface):
    """Who is in a pool."""

    @property
    def hosts(self) -> Sequence[HostAddress]:
        """Where the members' readers are, as known now."""
        ...

    def means(self, host: HostAddress, reader: str) -> bool:
        """Whether that reader of a host, by its name there, is in the pool."""
        ...

    @property
    def unfit(self) -> Mapping[str, Sequence[str]]:
        """Hosts that would be members, but have no reader that is meant; and the readers that they have."""
        ...

    async def changed(self) -> None:
        """Wait until something of this is different."""
        ...


class Listed:
    """Members that a table of the configuration file lists.

    Args:
        table: of the pool.
        parse: makes a HOST of what is written there.
    """

    def __init__(self, table: PoolTable, parse: Parse) -> None:
        self.hosts = table.hosts(parse)
        self.unfit: Mapping[str, Sequence[str]] = {}
        self._table = table

    def means(self, host: HostAddress, reader: str) -> bool:
        """By its name alone."""
        del host
        return self._table.means(reader)

    async def changed(self) -> None:
        """Never."""
        await asyncio.get_running_loop().create_future()


class Fleet(Interface):
    """`cardferry.fleet.directory.Directory`, as far as it matters here.

    Attributes:
        version: another number whenever `hosts` are others.
    """

    version: int

    @property
    def hosts(self) -> tuple[FleetHost, ...]:
        """Those that are there."""
        ...

    async def changed(self, version: int) -> None:
        """Wait until ``version`` is another number."""
        ...


class InFleet:
    """Members that have entered themselves in a fleet's directory.

    Args:
        fleet: the hosts with the pool's label.
        table: which of their readers are meant.
        parse: makes a HOST of ``fleet:NAME``.
        guest: what this computer calls itself.
    """

    def __init__(self, fleet: Fleet, table: PoolTable, parse: Parse, guest: str) -> None:
        self._fleet = fleet
        self._table = table
        self._parse = parse
        self._guest = guest
        self.unfit: Mapping[str, Sequence[str]] = {}
        self._readers: dict[HostAddress, frozenset[str]] = {}
        self._look()

    @property
    def hosts(self) -> Sequence[HostAddress]:
        """At most `MOST_HOSTS` of those that have such a reader."""
        return tuple(self._readers)

    def means(self, host: HostAddress, reader: str) -> bool:
        """As the host itself has said of its reader, and the card in it."""
        return reader in self._readers.get(host, ())

    async def changed(self) -> None:
        """Wait until it is other hosts, or other readers."""
        before = self._readers
        while self._readers == before:
            await self._fleet.changed(self._seen)
            self._look()

    def _look(self) -> None:
        table, self._seen = self._table, self._fleet.version
        found = {
            host.name: readers
            for host in self._fleet.hosts
            if (
                readers := frozenset(
                    one.name
                    for one in host.readers
                    if table.means(one.name) and table.means_card(one.serials, tuple(one.subjects.values()))
                )
            )
        }
        self.unfit = {
            f"fleet:{host.name}": [one.name for one in host.readers]
            for host in self._fleet.hosts
            if host.name not in found
        }
        chosen = sorted(found, key=self._order)[:MOST_HOSTS]
        self._readers = {self._parse(f"fleet:{name}"): found[name] for name in chosen}

    def _order(self, host: str) -> bytes:
        """For each guest another one, and always the same (rendezvous hashing): who comes or goes moves few links."""
        return hashlib.sha256(f"{self._guest}\0{host}".encode()).digest()


@asynccontextmanager
async def members_of(name: str, parse: Parse, servers: str = "") -> AsyncIterator[tuple[Members, PoolTable]]:
    """Who is in a pool, for the block; and what its table says, or would.

    Args:
        name: of the pool.
        parse: makes a HOST of what is written.
        servers: of the fleet, where the configuration has none.

    Raises:
        UserError: there is no such pool, or no way to its fleet.
    """
    table = pool_table(name)
    if table is not None and table.members:
        yield Listed(table, parse), table
        return
    settings = configured_fleet(servers=servers)
    if not settings.servers and table is not None:
        raise table.without_servers()
    if not settings.servers:
        raise PoolError(
            f"there is no pool {name!r}",
            f'write into {place()}: [pool.{name}] and below it members = ["HOST", "HOST"]',
        )
    table = table or PoolTable(name)
    async with _directory(settings, table.label or f"{POOL}={name}") as fleet:
        yield InFleet(fleet, table, parse, own_name()), table


@asynccontextmanager
async def _directory(settings: FleetSettings, label: str) -> AsyncIterator[Fleet]:
    from cardferry.fleet.directory import Directory  # noqa: PLC0415 - an extra
    from cardferry.transports.nats.connection import check_extra  # noqa: PLC0415

    check_extra()
    async with Directory(settings, parse_label(label)) as directory:
        yield directory
