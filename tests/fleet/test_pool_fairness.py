"""What a pool is for: its cards work all the time, and nobody gets more of them than others. In virtual time."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from cardferry.app.hosts.pool_host import GRACE
from cardferry.fleet import Member, Union
from cardferry.fleet.pool import MOST_ASKED, Pool
from cardferry.link import Timing
from tests.fleet.queues import POOL, Reach, Served, all_use, guests, jain
from tests.link.desk import ALICE, ANY, SHARED, Desk

CARD = 0.02
GUESTS, SECONDS = 20, 4.0


class Hosts:
    """Hosts with a card of 20 ms each, and guests with a link to every one."""

    def __init__(self, stack: AsyncExitStack, desks: list[Desk]) -> None:
        self._stack = stack
        self.desks = desks

    @classmethod
    async def of(cls, stack: AsyncExitStack, count: int, delay: float) -> Hosts:
        timing = Timing(grace=GRACE)
        desks = [Desk(card_delay=CARD, delay=delay, timing=timing, remember=False) for _ in range(count)]
        return cls(stack, [await stack.enter_async_context(desk) for desk in desks])

    async def pool(self) -> Pool:
        members = [Member(f"host{number}", await desk.guest()) for number, desk in enumerate(self.desks)]
        for member in members:
            member.known.set()
        union = await self._stack.enter_async_context(Union(members))
        await union.ready()
        return Pool(POOL, union)

    async def rate(self, seconds: float = SECONDS) -> tuple[float, list[list[float]]]:
        """Turns in a s of all guests together; and the waits of each."""
        waits = await all_use([await self.pool() for _ in range(GUESTS)], seconds)
        return sum(len(one) for one in waits) / seconds, waits


@pytest.mark.parametrize("delay", [0.0002, 0.002])
async def test_four_cards_give_twenty_guests_nearly_four_times_as_much_as_one_and_each_the_same(delay: float) -> None:
    async with AsyncExitStack() as stack:
        one, _ = await (await Hosts.of(stack, 1, delay)).rate()
        four, waits = await (await Hosts.of(stack, 4, delay)).rate()
    assert four >= 3.8 * one
    assert jain([len(each) for each in waits]) >= 0.98


async def test_when_one_of_four_dies_nobody_waits_more_than_three_seconds_longer() -> None:
    async with AsyncExitStack() as stack:
        hosts = await Hosts.of(stack, 4, 0.0002)
        _, before = await hosts.rate(1.0)

        async def die() -> None:
            await asyncio.sleep(1.0)
            for road in hosts.desks[0].roads:
                road.open = False
                road.cut()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(die())
            _, waits = await hosts.rate(6.0)
    longest = max(map(max, before))
    assert max(map(max, waits)) <= longest + 3.0
    assert jain([len(each) for each in waits]) >= 0.9  # who was at the card that died has lost two seconds


# --- thousands


@pytest.mark.parametrize(
    ("count", "many", "trip", "seconds"),
    [
        (20, 200, 0.01, 3.0),
        pytest.param(40, 400, 0.0004, 4.0, marks=pytest.mark.slow),
        pytest.param(200, 4000, 0.01, 4.0, marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
async def test_hundreds_of_guests_do_not_all_run_to_the_same_cards(
    count: int, many: int, trip: float, seconds: float
) -> None:
    cards = {f"Reader {number}": Served(CARD) for number in range(count)}
    pools = guests(cards, many, trip)
    waits = await all_use(pools, seconds)
    served = [card.served for card in cards.values()]
    assert sum(served) >= 0.95 * count * seconds / CARD
    assert jain([len(each) for each in waits]) >= 0.98
    full_round = many / count * CARD
    assert max(map(max, waits)) <= 2.5 * full_round
    turns = sum(map(len, waits))
    reached = [pool._manager for pool in pools]
    assert sum(each.asked for each in reached if isinstance(each, Reach)) <= MOST_ASKED * (turns + many)


async def test_programs_that_keep_their_handle_are_spread_too() -> None:
    cards = {f"Reader {number}": Served(CARD) for number in range(4)}
    for pool in guests(cards, 20):
        context = await pool.open(ALICE)
        card = await context.connect(POOL, SHARED, ANY)
        await card.begin()
        cards[card._card.reader].leave(card._card)  # type: ignore[attr-defined]
    assert [len(card.handles) for card in cards.values()] == [5, 5, 5, 5]
