"""What ``status`` is told of a linked host: who uses its readers, as the host says, and which programs here do."""

from __future__ import annotations

import asyncio

import pytest

from cardferry.app.hosts.connect import reached_over_link
from tests.link.cards import COUNT
from tests.link.desk import ALICE, ANY, BOB, LEAVE, READER, SHARED, T1, Desk
from tests.virtual_time import loop_factories

LOOPS = loop_factories()


async def test_users_of_a_linked_host_are_those_that_it_tells_and_clients_are_programs_here() -> None:
    async with Desk(delay=0.025) as desk:
        guest = await desk.guest()
        reached = reached_over_link("nas", guest)
        mine = await (await guest.open(ALICE, 60.0)).connect(READER, SHARED, ANY)
        theirs = await (await desk.manager.open(BOB)).connect(READER, SHARED, ANY)
        await theirs.begin()
        await asyncio.sleep(1)
        waiting = desk.start(mine.begin())
        await asyncio.sleep(2)
        contexts, (slot,) = reached.users()
        assert (contexts, slot.clients) == (1, [str(ALICE)])
        assert (slot.holder, slot.principal) == (BOB.program.name, str(BOB.principal))
        (waiter,) = slot.waiters
        assert waiter.client == f"{ALICE} on guest"
        assert [slot.held, waiter.waiting] == pytest.approx([3, 2], abs=0.1)
        await theirs.end(LEAVE)
        await waiting
        await mine.transmit(COUNT, T1)
        await mine.end(LEAVE)
        await asyncio.sleep(2)
        assert reached.users()[1][0].holder is None
        await theirs.disconnect(LEAVE)
        for context in tuple(desk.manager.contexts):
            await context.close()
