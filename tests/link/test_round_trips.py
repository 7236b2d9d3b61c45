"""What calls cost over a distance: virtual time tells to the microsecond."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cardferry.link import Guest
from cardferry.pcsc.constants import GET_FEATURE_REQUEST, Attribute, Disposition
from cardferry.pcsc.errors import ReturnCode
from cardferry.pcsc.interface import Card
from tests.link.cards import COUNT
from tests.link.desk import ALICE, ANY, BOB, DIRECT, EXCLUSIVE, LEAVE, READER, RESET, SHARED, T1, UNPOWER, Desk, raises

DELAY = 0.025
#: s that calls may take besides the distance: messages that nobody waits for linger for company.
SLACK = 0.005


@contextmanager
def round_trips(count: int) -> Iterator[None]:
    """The block must take the time of so many round trips, no more and no less."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    yield
    took = loop.time() - began
    assert count * 2 * DELAY - 1e-6 <= took < count * 2 * DELAY + SLACK, f"{took / (2 * DELAY):.3f} round trips"


async def warm(desk: Desk, guest: Guest) -> Card:
    """A connected card that is in use already, as for the second program in a row."""
    first = await guest.open(BOB)
    await first.connect(READER, SHARED, ANY)
    context = await guest.open(ALICE, 1.0)
    return await context.connect(READER, SHARED, ANY)


async def test_a_transaction_of_n_apdus_costs_n_round_trips() -> None:
    async with Desk(delay=DELAY) as desk:
        card = await warm(desk, await desk.guest())
        with round_trips(5):
            await card.begin()
            for number in range(1, 6):
                assert await card.transmit(COUNT, T1) == number.to_bytes(4, "big") + b"\x90\0"
            await card.end(LEAVE)


async def test_transactions_in_a_row_cost_their_apdus() -> None:
    async with Desk(delay=DELAY) as desk:
        card = await warm(desk, await desk.guest())
        with round_trips(10):
            for _ in range(10):
                await card.begin()
                await card.transmit(COUNT, T1)
                await card.end(LEAVE)
        assert desk.card.count == 10


async def test_a_look_around_costs_nothing() -> None:
    """What ``opensc-tool -a`` does with the readers, once somebody has asked for their features."""
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        with round_trips(1):
            context = await guest.open(ALICE, 1.0)
            card = await context.connect(READER, DIRECT, ANY)
            await card.control(GET_FEATURE_REQUEST, b"", 256)
            await card.disconnect(LEAVE)
            await context.close()
        other = await desk.guest()
        for second in (guest, other):
            with round_trips(0):
                context = await second.open(ALICE, 1.0)
                card = await context.connect(READER, DIRECT, ANY)
                await card.control(GET_FEATURE_REQUEST, b"", 256)
                await card.disconnect(LEAVE)
                assert second.snapshot.readers[0].atr == desk.card.atr
                await context.close()


async def test_what_programs_ask_after_a_connect_comes_with_it() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        context = await guest.open(ALICE, 1.0)
        with round_trips(1):
            card = await context.connect(READER, SHARED, ANY)
            assert await card.control(GET_FEATURE_REQUEST, b"", 256) == b""
            assert await card.attribute(Attribute.VENDOR_NAME) == b"cardferry\0"
            await card.attribute(Attribute.VENDOR_IFD_VERSION)


async def test_a_guest_that_is_near_asks_for_what_it_wants() -> None:
    async with Desk(delay=0.001) as desk:
        guest = await desk.guest()
        card = await (await guest.open(ALICE, 1.0)).connect(READER, SHARED, ANY)
        trips = guest.counters.round_trips
        await card.control(GET_FEATURE_REQUEST, b"", 256)
        assert guest.counters.round_trips == trips + 1


async def test_the_first_connect_powers_the_card_and_the_next_ones_cost_nothing() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        context = await guest.open(ALICE, 1.0)
        with round_trips(1):
            card = await context.connect(READER, SHARED, ANY)
        with round_trips(0):
            await card.status()
            await card.disconnect(LEAVE)
            for _ in range(5):
                card = await context.connect(READER, SHARED, ANY)
                await card.status()
                await card.begin()
                await card.end(LEAVE)
                await card.disconnect(LEAVE)
            await context.close()


async def test_static_attributes_cost_once() -> None:
    async with Desk(delay=DELAY) as desk:
        card = await warm(desk, await desk.guest())
        with round_trips(1):
            vendor = await card.attribute(Attribute.CHANNEL_ID)
        with round_trips(0):
            assert await card.attribute(Attribute.CHANNEL_ID) == vendor
        for _ in range(2):
            with round_trips(1):
                assert await card.attribute(Attribute.ICC_PRESENCE) == b"\x02"
        with round_trips(1), raises(ReturnCode.E_UNSUPPORTED_FEATURE):
            await card.attribute(0x12345)
        with round_trips(1), raises(ReturnCode.E_UNSUPPORTED_FEATURE):
            await card.attribute(0x12345)
        with round_trips(1), raises(ReturnCode.E_UNSUPPORTED_FEATURE):
            await card.attribute(Attribute.VENDOR_IFD_SERIAL_NO)
        with round_trips(0), raises(ReturnCode.E_UNSUPPORTED_FEATURE):
            await card.attribute(Attribute.VENDOR_IFD_SERIAL_NO)


async def test_what_is_known_of_a_reader_ends_with_it() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        card = await warm(desk, guest)
        await card.attribute(Attribute.CHANNEL_ID)
        serial = guest.snapshot.serial
        desk.source.add_reader("Another 00 00")
        await guest.changed(serial)
        with round_trips(1):
            await card.attribute(Attribute.CHANNEL_ID)


@pytest.mark.parametrize("disposition", [RESET, UNPOWER])
async def test_what_can_fail_is_waited_for(disposition: Disposition) -> None:
    async with Desk(delay=DELAY) as desk:
        card = await warm(desk, await desk.guest())
        await card.begin()
        with round_trips(1):
            await card.end(disposition)
        with round_trips(1), raises(ReturnCode.W_RESET_CARD):
            await card.begin()
        with round_trips(1):
            await card.reconnect(SHARED, ANY, LEAVE)
        with round_trips(1):
            await card.disconnect(disposition)


async def test_exclusive_connections_are_waited_for() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        context = await guest.open(ALICE, 1.0)
        with round_trips(1):
            card = await context.connect(READER, EXCLUSIVE, ANY)
        with round_trips(2):
            await card.transmit(COUNT, T1)
            await card.transmit(COUNT, T1)
            await card.disconnect(LEAVE)


async def test_a_reader_that_is_not_there_is_refused_at_once() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        context = await guest.open(ALICE, 1.0)
        with round_trips(0), raises(ReturnCode.E_UNKNOWN_READER):
            await context.connect("No such reader", SHARED, ANY)
        serial = guest.snapshot.serial
        desk.reader.remove()
        await guest.changed(serial)
        with round_trips(0), raises(ReturnCode.E_NO_SMARTCARD):
            await context.connect(READER, SHARED, ANY)


async def test_one_slow_call_delays_nobody_else() -> None:
    async with Desk(delay=DELAY) as desk:
        slow = desk.source.add_reader("Slow 00 00", 5.0)
        slow.insert(type(desk.card)())
        guest = await desk.guest()
        sleeper = await (await guest.open(BOB, 1.0)).connect("Slow 00 00", SHARED, ANY)
        card = await warm(desk, guest)
        sleeping = desk.start(sleeper.transmit(COUNT, T1))
        with round_trips(20):
            for _ in range(20):
                await card.transmit(COUNT, T1)
        assert not sleeping.done()
        await sleeping


async def test_messages_travel_in_company() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        card = await warm(desk, guest)
        await asyncio.sleep(0.5)
        writes: list[int] = []
        near, _ = desk.roads[0].pipes[-1]
        original = near.write

        def write(data: bytes) -> None:
            writes.append(len(data))
            original(data)

        near.write = write  # type: ignore[method-assign]
        for _ in range(10):
            await card.begin()
            await card.transmit(COUNT, T1)
            await card.end(LEAVE)
        assert len(writes) <= 11
