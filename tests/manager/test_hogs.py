"""An owner that never pauses: how long it has the card, and what those who wait and it itself are told."""

from __future__ import annotations

import asyncio

import pytest

from cardferry.manager import ExclusivePolicy, Settings
from cardferry.pcsc.constants import ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from tests.manager.desk import APDU, EXCLUSIVE, LEAVE, LOST, OK, SHARED, T1, Client, Desk, elapsed, raises

HOLD = Settings(max_idle=30, max_hold=120, connect_patience=70)


async def hog(client: Client, pause: float) -> tuple[ReturnCode, float]:
    """One command after the other in an open transaction; how that ended, and after how long."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    try:
        while True:
            assert await client.card.transmit(b"hog", T1) == OK
            await asyncio.sleep(pause)
    except PcscError as error:
        return error.code, loop.time() - start


@pytest.mark.parametrize("share", [SHARED, EXCLUSIVE])
async def test_a_transaction_ends_though_its_owner_sends_a_command_every_second_and_a_half(share: ShareMode) -> None:
    async with Desk(HOLD) as desk:
        greedy, next_one = await desk.client("greedy", share), await desk.client("next", None, patience=1.0)
        if share is SHARED:
            await greedy.card.begin()
        desk.reader.takes["transmit"] = 0.02
        hogging = desk.start(hog(greedy, 1.5))
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await next_one.context.connect(desk.reader.name, SHARED, T1)  # `connect_patience` is less
        connecting = desk.start(next_one.context.connect(desk.reader.name, SHARED, T1))
        assert await elapsed(connecting) == pytest.approx(50, abs=0.1)
        assert desk.reader.history[-1] == LOST  # nobody inherits what the other one did
        code, after = await hogging
        assert code is ReturnCode.W_RESET_CARD
        assert after == pytest.approx(120, abs=2)
        await (await connecting).disconnect(LEAVE)


@pytest.mark.parametrize("patience", [None, 1.0])
async def test_without_any_pause_it_ends_as_well_and_the_owner_is_told_at_once(patience: float | None) -> None:
    async with Desk(HOLD) as desk:
        greedy, other = await desk.client("greedy", patience=patience), await desk.client("other")
        await greedy.card.begin()
        desk.reader.takes["transmit"] = 0.7
        hogging = desk.start(hog(greedy, 0))
        waiting = desk.start(other.card.begin())
        code, after = await hogging
        assert code is ReturnCode.W_RESET_CARD
        assert after == pytest.approx(150, abs=1)  # there was always a command at the card
        with raises(ReturnCode.W_RESET_CARD):
            await waiting
        await other.card.reconnect(SHARED, T1, LEAVE)
        await other.card.begin()


async def test_a_command_longer_than_that_is_finished_and_its_transaction_has_time_to_end() -> None:
    async with Desk(HOLD) as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        desk.reader.takes["transmit"] = 600.0  # a key is being generated
        await alice.card.begin()
        waiting = desk.start(bob.card.begin())
        assert await alice.card.transmit(APDU, T1) == OK
        desk.reader.takes["transmit"] = 1.0
        for _ in range(20):
            assert await alice.card.transmit(APDU, T1) == OK
        await alice.card.end(LEAVE)
        await waiting
        await bob.card.end(LEAVE)


async def test_a_lone_command_longer_than_that_costs_its_program_nothing() -> None:
    async with Desk(HOLD) as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        desk.reader.takes["transmit"] = 600.0
        making = desk.start(alice.card.transmit(APDU, T1))
        await asyncio.sleep(1)
        waiting = desk.start(bob.card.begin())
        assert await making == OK
        await waiting
        await bob.card.end(LEAVE)
        assert await alice.card.transmit(APDU, T1) == OK


async def test_what_a_local_program_takes_is_not_counted() -> None:
    async with Desk(HOLD) as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        desk.reader.local_begin()
        beginning = desk.start(alice.card.begin())
        waiting = desk.start(bob.card.begin())
        await asyncio.sleep(500)
        desk.reader.local_end()
        await beginning
        for _ in range(20):
            assert await alice.card.transmit(APDU, T1) == OK
            await asyncio.sleep(5)
        await alice.card.end(LEAVE)
        await waiting
        await bob.card.end(LEAVE)


async def test_an_exclusive_connection_that_is_honoured_lasts() -> None:
    async with Desk(Settings(max_idle=30, max_hold=120, exclusive=ExclusivePolicy.HONOUR)) as desk:
        alice, bob = await desk.client("alice", EXCLUSIVE), await desk.client("bob", None)
        for _ in range(100):
            with raises(ReturnCode.E_SHARING_VIOLATION):
                await bob.context.connect(desk.reader.name, SHARED, T1)
            assert await alice.card.transmit(APDU, T1) == OK
            await asyncio.sleep(1.5)


async def test_one_whose_time_is_over_and_for_whom_nobody_waits_any_more_goes_on() -> None:
    async with Desk(HOLD) as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob", patience=1.0)
        await alice.card.begin()
        desk.reader.takes["transmit"] = 0.5
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await bob.card.begin()
        for _ in range(1000):
            assert await alice.card.transmit(APDU, T1) == OK
        await alice.card.end(LEAVE)
