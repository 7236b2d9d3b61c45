"""Memory from end to end: what it saves, when it waits, and what a program sees when it was wrong."""

from __future__ import annotations

import asyncio

import pytest

from cardferry.link import Guest
from cardferry.pcsc.errors import ReturnCode
from cardferry.pcsc.interface import Card
from tests.link.desk import ALICE, ANY, BOB, DIRECT, LEAVE, READER, RESET, SHARED, T1, Desk, raises
from tests.link.model_card import CLOCK, SIGN, VERIFY, ModelCard, get, put, select
from tests.link.test_round_trips import DELAY, round_trips

FLOW = (select(3), select(0), get(1), get(2))
SETTLED = 1.0


async def connect(guest: Guest) -> Card:
    return await (await guest.open(ALICE, 1.0)).connect(READER, SHARED, ANY)


async def read(card: Card, *commands: bytes) -> list[bytes]:
    """In a transaction."""
    await card.begin()
    answers = [await card.transmit(apdu, T1) for apdu in commands]
    await card.end(LEAVE)
    return answers


async def learn(guest: Guest, *commands: bytes) -> None:
    card = await connect(guest)
    await read(card, *commands)
    await card.disconnect(LEAVE)


async def seen(desk: Desk) -> list[bytes]:
    """What the card was asked, once all is there."""
    await asyncio.sleep(SETTLED)
    assert isinstance(desk.card, ModelCard)
    return [apdu for apdu, _, _ in desk.card.history if apdu]


async def test_a_program_that_only_reads_waits_for_nothing_the_second_time() -> None:
    async with Desk(ModelCard(), delay=DELAY) as desk:
        guest = await desk.guest()
        await learn(guest, *FLOW)
        with round_trips(0):
            card = await connect(guest)
            assert (await read(card, *FLOW))[2:] == [b"\0\1\0\x90\0", b"\0\2\0\x90\0"]
            await card.disconnect(LEAVE)
        assert await seen(desk) == [*FLOW, *FLOW]
        counters = guest.counters
        assert (counters.believed, counters.confirmed, counters.refuted) == (len(FLOW), len(FLOW), 0)
        assert counters.held > 0
        assert desk.host.status.guests[0].believed == len(FLOW)


async def test_another_guest_knows_it_from_its_first_command() -> None:
    async with Desk(ModelCard(), delay=DELAY) as desk:
        await learn(await desk.guest(), *FLOW)
        guest = await desk.guest()
        await asyncio.sleep(3 * DELAY)
        card = await connect(guest)
        with round_trips(1):
            await read(card, *FLOW)


async def test_what_acts_waits_for_its_own_answer() -> None:
    async with Desk(ModelCard(), delay=DELAY) as desk:
        guest = await desk.guest()
        for _ in range(4):
            await learn(guest, *FLOW, VERIFY, get(1), SIGN)
        card = await connect(guest)
        with round_trips(2):
            answers = await read(card, *FLOW, VERIFY, get(1), SIGN)
        assert answers[-1][-2:] == b"\x90\0"


async def test_a_begin_that_waits_brings_the_cards_state() -> None:
    async with Desk(ModelCard(), delay=DELAY) as desk:
        guest, other = await desk.guest(), await desk.guest()
        await learn(guest, *FLOW)
        card, his = await connect(guest), await connect(other)
        await asyncio.sleep(SETTLED)
        for _ in range(2):
            await read(his, select(0))
            with round_trips(1):
                await read(card, get(1), get(2))


async def test_a_refuted_belief_is_a_reset_and_nothing_is_done_after_it() -> None:
    card = ModelCard()
    async with Desk(card, delay=DELAY) as desk:
        guest = await desk.guest()
        await learn(guest, *FLOW, VERIFY, SIGN)
        await learn(guest, *FLOW, VERIFY, SIGN)
        await learn(guest, *FLOW)
        handle = await connect(guest)
        await asyncio.sleep(SETTLED)
        card.objects[2] = 7  # somebody whom nobody has seen
        before = len(card.history)
        await handle.begin()
        assert [await handle.transmit(apdu, T1) for apdu in FLOW][3] == b"\0\2\0\x90\0"
        with raises(ReturnCode.W_RESET_CARD):
            await handle.transmit(SIGN, T1)
        assert [apdu for apdu, _, _ in card.history[before:]] == [*FLOW, b""], "and the card is reset"
        await handle.reconnect(SHARED, ANY, LEAVE)
        assert (await read(handle, *FLOW))[3] == b"\0\2\7\x90\0"
        assert guest.counters.refuted == 1


async def test_the_card_is_not_reset_for_a_program_that_has_gone() -> None:
    card = ModelCard()
    async with Desk(card, delay=DELAY) as desk:
        guest = await desk.guest()
        await learn(guest, *FLOW)
        await asyncio.sleep(0.3)
        card.objects[1] = 7
        with round_trips(0):
            await learn(guest, *FLOW)
        await asyncio.sleep(0.3)
        assert card.resets == 0
        assert guest.counters.refuted == 2, "and what came behind it was not carried out"
        assert (await read(await connect(guest), *FLOW))[2] == b"\0\1\7\x90\0"


async def test_what_a_program_has_left_behind_comes_before_the_next_one() -> None:
    """The card takes its time: the second program must not meet the first one's commands."""
    async with Desk(ModelCard(), delay=DELAY, card_delay=0.02) as desk:
        guest = await desk.guest()
        first, second = (select(0), get(1), get(2)), (select(1), get(1), get(2))
        await learn(guest, *first, *first)
        await learn(guest, *second)
        before = len(await seen(desk))
        context = await guest.open(ALICE, 1.0)
        ghost = await context.connect(READER, SHARED, ANY)
        await read(ghost, *first)
        await read(ghost, *first)
        await ghost.disconnect(LEAVE)
        await context.close()
        card = await connect(guest)
        assert [await card.transmit(apdu, T1) for apdu in (*second, put(3, 1))][1] == b"\1\1\0\x90\0"
        assert (await seen(desk))[before:] == [*first, *first, *second, put(3, 1)]
        assert guest.counters.refuted == 0


async def test_outside_of_transactions_only_a_handle_that_is_alone_believes() -> None:
    async with Desk(ModelCard(), delay=DELAY) as desk:
        guest = await desk.guest()
        await learn(guest, *FLOW)
        card = await connect(guest)
        with round_trips(0):
            for apdu in FLOW:
                await card.transmit(apdu, T1)
        await (await guest.open(BOB, 1.0)).connect(READER, DIRECT, ANY)
        with round_trips(len(FLOW)):
            for apdu in FLOW:
                await card.transmit(apdu, T1)


async def test_a_handle_that_has_paused_asks() -> None:
    async with Desk(ModelCard(), delay=DELAY) as desk:
        guest = await desk.guest()
        await learn(guest, *FLOW)
        card = await connect(guest)
        await card.transmit(select(0), T1)
        await asyncio.sleep(SETTLED)
        with round_trips(1):
            await card.transmit(get(1), T1)
            await card.transmit(get(2), T1)


async def test_a_guest_is_not_too_far_ahead() -> None:
    async with Desk(ModelCard(), delay=DELAY) as desk:
        guest = await desk.guest()
        await learn(guest, *FLOW)
        card = await connect(guest)
        await card.begin()
        with round_trips(2):
            for _ in range(300):
                await card.transmit(get(1), T1)
        await card.end(LEAVE)
        assert len(await seen(desk)) == len(FLOW) + 300


async def test_a_card_that_is_exchanged_has_said_nothing() -> None:
    async with Desk(ModelCard(), delay=DELAY) as desk:
        guest = await desk.guest()
        await learn(guest, *FLOW)
        await asyncio.sleep(SETTLED)
        other = ModelCard()
        other.objects[1] = 5
        desk.reader.remove()
        desk.reader.insert(other)
        await asyncio.sleep(SETTLED)
        believed = guest.counters.believed
        assert (await read(await connect(guest), *FLOW))[2] == b"\0\1\5\x90\0"
        assert guest.counters.believed == believed


async def test_a_reset_leaves_what_was_said_after_a_select() -> None:
    async with Desk(ModelCard(), delay=DELAY) as desk:
        guest = await desk.guest()
        await learn(guest, *FLOW)
        card = await connect(guest)
        await card.reconnect(SHARED, ANY, RESET)
        with round_trips(1):  # the begin, to see whether the handle is in order
            await read(card, *FLOW)


async def test_answers_that_change_by_themselves_are_refuted_once() -> None:
    async with Desk(ModelCard(), delay=DELAY) as desk:
        guest = await desk.guest()
        for _ in range(8):
            await learn(guest, select(0), get(CLOCK))
            await asyncio.sleep(0.2)
        assert guest.counters.refuted == 1


@pytest.mark.parametrize("at_host", [True, False])
async def test_it_can_be_turned_off_at_either_end(at_host: bool) -> None:
    async with Desk(ModelCard(), delay=DELAY, remember=not at_host) as desk:
        guest = await desk.guest(remember=at_host)
        await learn(guest, *FLOW)
        card = await connect(guest)
        with round_trips(len(FLOW)):
            await read(card, *FLOW)
        assert guest.counters.believed == guest.counters.held == 0
