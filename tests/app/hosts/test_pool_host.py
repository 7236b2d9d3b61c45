"""A pool whose members come and go, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cardferry.app.hosts.address import HostAddress
from cardferry.app.hosts.connect import ReachedHost, Way
from cardferry.app.hosts.pool_host import PoolHost, pooled
from cardferry.app.hosts.pool_table import PoolTable
from cardferry.app.hosts.registry import parse_host
from cardferry.app.runtime.retry import REFUSED_PAUSE
from cardferry.changes import Changes
from cardferry.pcsc.errors import UserError
from cardferry.pcsc.reader_state import ReaderState
from cardferry.policy.guard.identity import Identity
from cardferry.transports.errors import TransportError
from tests.app.hosts.test_multiple import Hosts, RefusedError, Scripted
from tests.app.hosts.test_pool_members import Directory, in_fleet, lab
from tests.fleet.hosts import Said
from tests.virtual_time import loop_factories, quiet

LOOPS = loop_factories()
ALL = PoolTable("signing")


class Listing:
    """Members of a pool, as the test says."""

    def __init__(self, table: PoolTable, *hosts: HostAddress) -> None:
        self.hosts = hosts
        self.unfit: Mapping[str, Sequence[str]] = {}
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
    folder: Path, hosts: Hosts, *names: str, wait: bool = False, table: PoolTable = ALL
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


# --- what members refuse


@pytest.mark.parametrize("error", [RefusedError("lab has not let us in", ""), UserError("too many guests", "")])
async def test_a_service_tries_members_again_that_have_refused_it(
    error: UserError, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    away = TransportError("lab does not answer", "")
    hosts = Hosts(lab=[away, error, error, Said("Reader")])
    async with pool(tmp_path, hosts, "lab", wait=True) as (reached, _):
        await asyncio.sleep(REFUSED_PAUSE)
        assert members(reached) == []
        assert f"{error.message}; trying again in 300 s" in caplog.messages
        await asyncio.sleep(2 * REFUSED_PAUSE)
        assert members(reached) == ["lab"]
        assert "not tried again" not in caplog.text
        assert caplog.text.count(error.message) == 1, "one line will do"


async def test_a_member_that_has_refused_is_tried_again_when_it_is_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof = 1
    monkeypatch.setattr(Scripted, "proof", lambda self: proof)
    hosts = Hosts(lab=[RefusedError("lab has not let us in", ""), Said("Reader")])
    async with pool(tmp_path, hosts, "lab", wait=True) as (reached, _):
        await asyncio.sleep(REFUSED_PAUSE / 2)
        assert len(hosts.attempts) == 1
        proof = 2
        await asyncio.sleep(5)
        assert members(reached) == ["lab"]


# --- when there is nothing to show


async def test_a_pool_in_which_no_reader_fits_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = PoolTable("signing", readers=("Yubico*",))
    hosts = Hosts(one=[Said("Reader", "Other")], two=[Said()])
    async with pool(tmp_path, hosts, "one", "two", table=table):
        await asyncio.sleep(60)
        assert caplog.messages == ["no reader fits pool:signing: one has Reader, Other; two has none"]


async def test_nor_does_a_pool_of_a_fleet_whose_hosts_have_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for fleet, said in (
        (Directory(lab(1)), "no reader fits pool:signing: fleet:LAB-1 has Reader"),
        (Directory(), "the fleet has no host for pool:signing at present"),
    ):
        caplog.clear()
        table = PoolTable("signing", readers=("Yubico*",))
        async with pooled(PoolHost("signing", parse_host), in_fleet(fleet, table), table, Way(tmp_path)) as reached:
            await reached.known()
            await quiet()
        assert caplog.messages == [said]


async def test_where_cards_matter_it_is_said_when_they_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def identity_in(manager: object, reader: str, caller: object) -> Identity:
        await asyncio.sleep(3)
        return Identity(serials=("7",))

    monkeypatch.setattr("cardferry.app.hosts.pool_cards.identity_in", identity_in)
    table = PoolTable("signing", serials=("8",))
    said = Said()
    said.become(ReaderState("Reader", atr=b";"))
    async with pool(tmp_path, Hosts(one=[said]), "one", table=table):
        await asyncio.sleep(2)
        assert "no reader fits" not in caplog.text
        await asyncio.sleep(2)
        assert "no reader fits pool:signing: one has Reader" in caplog.messages
