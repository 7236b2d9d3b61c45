"""``pool:NAME``: the readers of several hosts as one; each connect goes to the one with the shortest queue.

Pool( Union( Guest( ssh ), Guest( tls ), LocalManager( pcscd over ssh -L ), ... ) )

Who is in a pool is said by a `Members`: a table of the configuration file, or a fleet's directory. Each member is
reached as it would be by itself, and one that is away is tried again and again; but programs that wait for it are told
much sooner than elsewhere, because they can go on at another member.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import ClassVar, Final, Self

import msgspec

from cardferry.app.hosts.address import HostAddress
from cardferry.app.hosts.connect import OpenedReaders, ReachedHost, Way
from cardferry.app.hosts.multiple import AttachedHost, Start
from cardferry.app.hosts.pool_cards import KnownCards
from cardferry.app.hosts.pool_members import InFleet, Members, PoolError, members_of
from cardferry.app.hosts.pool_table import POOL, PoolTable, is_name, pool_table
from cardferry.app.runtime.status_socket import Link
from cardferry.fleet import Union
from cardferry.fleet.pool import Pool
from cardferry.manager.status import SlotStatus
from cardferry.pcsc.errors import PcscError
from cardferry.pcsc.reader_state import ReaderState
from cardferry.transports.errors import AddressSyntaxError

log = logging.getLogger(__name__)

#: s of `Timing.grace`, unless somebody says otherwise: programs wait so long, and one second more, for a member that is
#: out of reach.
GRACE: Final = 1.0
#: s that the other members get to be reached for the first time, once one is.
_OTHERS_TIME: Final = 5.0


@dataclass(frozen=True, slots=True)
class PoolHost(HostAddress):
    """The members of a pool, as one reader with its name."""

    FORMS: ClassVar[tuple[str, ...]] = ("pool:NAME",)

    name: str
    #: Makes the host of what a table says.
    parse_member: Callable[[str], HostAddress] = field(compare=False, repr=False)
    servers: str = ""

    @classmethod
    def parse(cls, rest: str, text: str, parse_member: Callable[[str], HostAddress]) -> Self | None:
        """The name follows the colon; None when there is none."""
        if not rest:
            return None
        if not is_name(rest):
            raise AddressSyntaxError(f"not a HOST: {text!r}", "a pool's name has letters, digits, dots, dashes only")
        return cls(rest, parse_member)

    def __str__(self) -> str:
        return f"{POOL}:{self.name}"

    def open_readers(self, way: Way) -> AbstractAsyncContextManager[OpenedReaders]:
        """There is no way to the readers themselves."""
        raise PoolError(
            f"{self} is several readers, and only `cardferry attach` shows them as one", "name one of its members"
        )

    @asynccontextmanager
    async def reach(self, way: Way) -> AsyncIterator[ReachedHost]:
        """The members, each in the best way there is."""
        way = replace(way, grace=GRACE if way.grace is None else way.grace)
        async with (
            members_of(self.name, self.parse_member, self.servers) as (members, table),
            pooled(self, members, table, way) as reached,
        ):
            yield reached

    def has_changed(self, links: Sequence[Link]) -> bool:
        """Whether other members are listed by now than those of a running one, which has these links."""
        table = pool_table(self.name)
        if table is None or not table.members:
            return False
        running = {link.host for link in links if link.pool == str(self)}
        return running != set(map(str, table.hosts(self.parse_member)))

    def reaching(self, also: Callable[[HostAddress], HostAddress], servers: str = "") -> PoolHost:
        """The same pool, whose members are reached with something more that the command line says.

        Args:
            also: adds it to a member.
            servers: of the fleet, where the configuration has none.
        """
        parse = self.parse_member
        return replace(self, parse_member=lambda text: also(parse(text)), servers=servers or self.servers)


@asynccontextmanager
async def pooled(host: PoolHost, members: Members, table: PoolTable, way: Way) -> AsyncIterator[ReachedHost]:
    """Reach the members of a pool for the block, and those that join it meanwhile; who leaves it is left.

    Raises:
        UserError: none of them can be reached, or one never will, unless they are waited for.
    """
    async with Union(()) as union, asyncio.TaskGroup() as tasks:
        roster = _Roster(host, members, table, way, union=union, tasks=tasks)
        roster.follow()
        running = [
            tasks.create_task(roster.run(), name=f"members of {host}"),
            tasks.create_task(roster.tell_if_none_fits(), name=f"whether {host} has a reader"),
        ]
        if table.asks_cards:
            running.append(tasks.create_task(roster.cards.run(), name=f"cards of {host}"))
        yield ReachedHost(roster.pool, roster.known, roster.links, roster.users)
        for task in running:
            task.cancel()
        roster.end()


class _Roster:
    """The members that are there, each with what keeps it reached.

    Attributes:
        pool: shows them.
        cards: which ones they have.
    """

    def __init__(
        self, host: PoolHost, members: Members, table: PoolTable, way: Way, *, union: Union, tasks: asyncio.TaskGroup
    ) -> None:
        self.pool = Pool(host.name, union, self._means)
        self.cards = KnownCards(union, self._in_pool, self.pool.choose_again)
        self._table = table
        self._name = str(host)
        self._members = members
        self._way = way
        self._union = union
        self._tasks = tasks
        self._numbers = itertools.count()
        self._start = Start(len(members.hosts))
        self._start.over = way.one_of_several
        self._begun = asyncio.Event()
        self._hosts: dict[HostAddress, tuple[AttachedHost, asyncio.Task[None]]] = {}

    @property
    def _asks_cards(self) -> bool:
        """Whether it matters which cards there are; of those in a fleet their hosts have said what they are."""
        return self._table.asks_cards and not isinstance(self._members, InFleet)

    @property
    def _attached(self) -> list[AttachedHost]:
        return [attached for attached, _ in self._hosts.values()]

    # who is there

    async def run(self) -> None:
        """Follow who comes and goes."""
        while True:
            await self._members.changed()
            for attached, task in self.follow():
                await self._union.remove(attached.member)
                task.cancel()
            self.pool.choose_again()

    def follow(self) -> list[tuple[AttachedHost, asyncio.Task[None]]]:
        """Begin with the members that are new; returns those that are none any more."""
        wanted = self._members.hosts
        gone = [self._hosts.pop(host) for host in self._hosts.keys() - set(wanted)]
        for host in wanted:
            if host not in self._hosts:
                folder = self._way.workdir / str(next(self._numbers))
                folder.mkdir(mode=0o700)
                attached = AttachedHost(host, replace(self._way, workdir=folder, one_of_several=True), self._start)
                self._union.add(attached.member)
                self._hosts[host] = attached, self._tasks.create_task(attached.run(), name=f"member {host}")
        return gone

    def end(self) -> None:
        """There are no members any more."""
        for _, task in self._hosts.values():
            task.cancel()

    def _means(self, reader: ReaderState) -> bool:
        """Whether a reader of the union is in the pool."""
        if not self._in_pool(reader):
            return False
        if not self._asks_cards:
            return True
        card = self.cards.find(reader)
        return card is not None and self._table.means_card(card.serials, tuple(card.subjects.values()))

    def _in_pool(self, reader: ReaderState) -> bool:
        try:
            manager, name = self._union.find(reader.name)
        except PcscError:
            return False  # it has gone with its host
        return any(
            attached.member.manager is manager and self._members.means(host, name)
            for host, (attached, _) in self._hosts.items()
        )

    async def known(self) -> None:
        """See `ReachedHost.known`.

        Raises:
            UserError: none can be reached.
        """
        if not self._way.wait and self._hosts:
            await self._start.some.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(_OTHERS_TIME):
                await self._union.ready()
        errors = [attached.error for attached in self._attached]
        if errors and errors[0] is not None and None not in errors and not (self._way.wait or self._start.over):
            raise PoolError(f"no member of {self._name} can be reached; the first: {errors[0].message}", errors[0].hint)
        self._start.over = True
        self._begun.set()

    async def tell_if_none_fits(self) -> None:
        """In the beginning, when it is known who is there: say so if nothing of that is in the pool."""
        await self._begun.wait()
        if self._asks_cards:
            await self.cards.settled()
        if self.pool.members:
            return
        readers: dict[str, Sequence[str]] = {
            str(host): [one.name for one in attached.reached.manager.snapshot.readers]
            for host, (attached, _) in self._hosts.items()
            if attached.reached is not None
        }
        readers.update(self._members.unfit)
        if readers:
            there = "; ".join(f"{host} has {', '.join(names) or 'none'}" for host, names in readers.items())
            log.warning("no reader fits %s: %s", self._name, there)
        elif not self._hosts:
            log.warning("the fleet has no host for %s at present", self._name)

    # for ``status``

    def links(self, path: str) -> list[Link]:
        """The pool, and its members behind it."""
        cards = any(member.atr for member in self.pool.members)
        found = [Link(self._name, "up" if cards else "no member has a card", path, "pool")]
        shown = {self._union.find(member.name) for member in self.pool.members}
        for attached in self._attached:
            slots = [] if attached.reached is None else attached.reached.users()[1]
            meant = [slot for slot in slots if (attached.member.manager, slot.reader) in shown]
            found += [msgspec.structs.replace(link, pool=self._name, readers=meant) for link in attached.links(path)]
        return found

    def users(self) -> tuple[int, list[SlotStatus]]:
        """How many contexts there are, and who uses the pool's reader from here."""
        clients = [client for link in self.links("") for slot in link.readers for client in slot.clients]
        now = asyncio.get_running_loop().time()
        readers = self.pool.snapshot.readers
        return self._union.contexts, [SlotStatus.of(one, one.use, now, sorted(clients)) for one in readers]
