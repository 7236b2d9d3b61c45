"""What a card has said is told to guests by the same rules as the card itself would answer them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from cardferry.link import Guest, LinkServer
from cardferry.pcsc.caller import Principal, PrincipalKind
from cardferry.pcsc.constants import Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import ReturnCode
from cardferry.pcsc.interface import Card
from cardferry.transports.base import Pipe
from cardferry.transports.memory import memory_pipe
from tests.callers import somebody
from tests.link.desk import raises
from tests.policy.guard.guarded_host import DENIED, OK, READER, SELECT, GuardedHost

RULES = 'audit = "off"\n[[allow]]\nwho = "ssh:admin"\nmay = "read"\n[[allow]]\nwho = "ssh:build1"\nmay = {may}\n'
ALL, SOME = RULES.format(may='"read"'), RULES.format(may='"read:A000000308"')
READ = bytes.fromhex("00CB3FFF035C017E00")
BUILD1 = Principal(PrincipalKind.SSH, "build1")


@asynccontextmanager
async def guest_of(host: GuardedHost) -> AsyncIterator[tuple[Guest, Card]]:
    """A guest, and what one of its programs has connected to."""
    near, far = memory_pipe()

    async def dial() -> Pipe:
        return near

    async with (
        LinkServer(host.offered, memories=host.memories) as server,
        asyncio.TaskGroup() as tasks,
        Guest(dial, name="host") as guest,
    ):
        tasks.create_task(server.serve(far, BUILD1, "guest"))
        await guest.ready()
        context = await guest.open(somebody("a program", 1000, 1), 1.0)
        yield guest, await context.connect(READER, ShareMode.SHARED, Protocol.T1)
        await context.close()


async def read(card: Card) -> tuple[bytes, bytes]:
    await card.begin()
    said = [await card.transmit(apdu, Protocol.T1) for apdu in (SELECT, READ)]
    await card.end(Disposition.LEAVE)
    return said[0][-2:], said[1]


async def believed(guest: Guest, card: Card) -> int:
    """How many of the two commands are answered from memory."""
    before = guest.counters.believed
    await read(card)
    return guest.counters.believed - before


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await condition():  # noqa: ASYNC110 - nothing tells of counters
            await asyncio.sleep(0.02)


async def until_believed(guest: Guest, card: Card, number: int) -> None:
    async def so_many() -> bool:
        return await believed(guest, card) == number

    await until(so_many)
    await settled(guest)


async def settled(guest: Guest) -> None:
    """Until the host has told what has become of all that was believed."""

    async def all_told() -> bool:
        return guest.counters.believed == guest.counters.confirmed + guest.counters.refuted

    await until(all_told)


async def test_a_guest_hears_of_nothing_that_it_may_not_read(tmp_path: Path) -> None:
    async with GuardedHost(SOME, folder=tmp_path) as host, guest_of(host) as (guest, card):
        admin = await host.principal("ssh:admin")
        for apdu in (SELECT, READ):
            assert (await admin.send(apdu))[-2:] == OK
        assert (await read(card))[1] == DENIED
        await until_believed(guest, card, 1)  # the SELECT
        assert (await read(card))[1] == DENIED
        assert guest.counters.refuted == 0


async def test_what_it_may_not_read_any_more_is_refused_and_not_believed_again(tmp_path: Path) -> None:
    """It hears of other rules by a reset at the worst, once."""
    async with GuardedHost(ALL, folder=tmp_path) as host, guest_of(host) as (guest, card):
        assert (await read(card))[1][-2:] == OK
        await until_believed(guest, card, 2)
        (tmp_path / "config.toml").write_text(SOME)
        host.guard.rulebook.reload()
        assert (await read(card))[1][-2:] == OK  # it believes what it was told before

        await settled(guest)
        with raises(ReturnCode.W_RESET_CARD):
            await card.begin()
        await card.reconnect(ShareMode.SHARED, Protocol.T1, Disposition.LEAVE)
        await until_believed(guest, card, 1)
        assert (await read(card))[1] == DENIED
        assert guest.counters.refuted == 1


async def test_rules_that_change_are_heard_of(tmp_path: Path) -> None:
    async with GuardedHost(ALL, folder=tmp_path) as host, guest_of(host) as (guest, card):
        with host.guard.telling(host.memories.tell_anew):
            await read(card)
            await until_believed(guest, card, 2)
            (tmp_path / "config.toml").write_text(SOME)
            host.guard.rulebook.reload()
            await asyncio.sleep(0.1)  # on its way
            await until_believed(guest, card, 1)
            assert (await read(card))[1] == DENIED
            assert guest.counters.refuted == 0
