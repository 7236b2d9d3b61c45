"""Guests of two principals sign in turn with one card: what one has unlocked is locked for the other, and none fails.

What a guest believes of the card must not come from before that lock.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import pytest

from cardferry.link import Guest, LinkServer
from cardferry.pcsc.caller import Principal, PrincipalKind
from cardferry.pcsc.constants import Disposition, Protocol, ShareMode
from cardferry.transports.base import Pipe
from cardferry.transports.memory import memory_pipe
from tests.callers import somebody
from tests.link.desk import SlowPipe
from tests.policy.guard.guarded_host import ASK, OK, READ, READER, SELECT, SIGN, GuardedHost, verify

#: s each way.
DELAYS: Final = (0.0, 0.0005, 0.025)
ROUNDS: Final = 30
#: The first byte of a status word after which there is more to fetch.
MORE: Final = 0x61


@asynccontextmanager
async def guest_of(server: LinkServer, name: str, delay: float) -> AsyncIterator[Guest]:
    near, far = memory_pipe()

    async def dial() -> Pipe:
        return SlowPipe(near, delay)

    async with asyncio.TaskGroup() as tasks, Guest(dial, name="host") as guest:
        tasks.create_task(server.serve(SlowPipe(far, delay), Principal(PrincipalKind.TLS, name), name))
        await guest.ready()
        yield guest


async def sign(guest: Guest, number: int) -> None:
    """What a program does that signs once: it looks at the card, asks for the tries that are left, logs in, signs."""
    context = await guest.open(somebody("a program", number, 1), 60.0)
    card = await context.connect(READER, ShareMode.SHARED, Protocol.T1)

    async def answer_to(apdu: bytes) -> bytes:
        said = await card.transmit(apdu, Protocol.T1)
        while said[-2] == MORE:
            said = said[:-2] + await card.transmit(bytes((0x00, 0xC0, 0x00, 0x00, said[-1])), Protocol.T1)
        return said

    async def transaction(*apdus: bytes) -> list[bytes]:
        await card.begin()
        said = [await answer_to(apdu) for apdu in apdus]
        await card.end(Disposition.LEAVE)
        return said

    await transaction(SELECT, READ)
    _, verified, signature = await transaction(ASK, verify(), SIGN)
    assert verified == OK
    assert signature[-2:] == OK
    await card.disconnect(Disposition.LEAVE)
    await context.close()


@pytest.mark.parametrize("delay", DELAYS)
@pytest.mark.parametrize("pause", [0.0, 0.05, 2.0])
async def test_two_that_sign_in_turn_never_fail_and_believe_nothing_that_the_other_has_left(
    delay: float, pause: float
) -> None:
    chance = random.Random(7)

    async def loop(guest: Guest) -> None:
        for number in range(ROUNDS):
            await sign(guest, number + 1)
            await asyncio.sleep(chance.uniform(0, pause))

    async with (
        GuardedHost() as host,
        LinkServer(host.offered, memories=host.memories) as server,
        guest_of(server, "build1", delay) as one,
        guest_of(server, "build3", delay) as two,
    ):
        async with asyncio.TaskGroup() as tasks:
            for guest in (one, two):
                tasks.create_task(loop(guest))
        await asyncio.sleep(1)
        assert [guest.counters.refuted for guest in (one, two)] == [0, 0]
        assert all(guest.counters.believed > ROUNDS for guest in (one, two)), "there is a memory at work"
