"""Several readers as one: what is shown, where connects go, and what becomes of handles."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import AsyncMock

import pytest

from cardferry.fleet import Member, Union
from cardferry.fleet.pool import ANSWER_TIME, Pool
from cardferry.link import LinkState, Timing
from cardferry.pcsc.constants import CardState, Protocol
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.interface import Card, ResourceManager
from cardferry.pcsc.reader_state import Queue, ReaderState
from cardferry.pcsc.reply import Reply, answered, failed, running
from cardferry.pcsc.trouble import Cause, Trouble
from tests.fleet.hosts import Said
from tests.fleet.queues import POOL, Reach, Served
from tests.link.cards import ATR, COUNT, SELECT, CountingCard, FileCard
from tests.link.desk import ALICE, ANY, BOB, DIRECT, EXCLUSIVE, LEAVE, READER, SHARED, T1, Desk, becomes, raises
from tests.virtual_time import quiet

CARD = CardState.PRESENT | CardState.POWERED
READ = bytes.fromhex("00b0000004")


def here(name: str, *, events: int = 1, queue: Any = None, **more: Any) -> ReaderState:
    """A reader with a card."""
    state = ReaderState(name, events, CARD, 0, ATR, T1, queue=None if queue is None else lambda: queue)
    return replace(state, **more)


def only(pool: Pool) -> ReaderState:
    """The one reader that is shown."""
    (reader,) = pool.snapshot.readers
    return reader


@asynccontextmanager
async def desks(*cards: CountingCard, **options: Any) -> AsyncIterator[tuple[Pool, list[Desk]]]:
    """A guest of hosts with these cards."""
    timing = Timing(grace=1.0)
    async with AsyncExitStack() as stack:
        there = [await stack.enter_async_context(Desk(card, timing=timing, **options)) for card in cards]
        members = [Member(f"host{number}", await desk.guest()) for number, desk in enumerate(there)]
        for member in members:
            member.known.set()
        union = await stack.enter_async_context(Union(members))
        await union.ready()
        yield Pool(POOL, union, chance=random.Random(1)), there


async def connected(pool: ResourceManager) -> Card:
    return await (await pool.open(ALICE)).connect(POOL, SHARED, ANY)


def at(card: Card) -> str:
    """The member at which a handle is."""
    return card._card.reader  # type: ignore[attr-defined, no-any-return]


# --- what is shown


async def test_one_reader_is_shown_while_there_are_members_and_has_a_card_while_any_has_one() -> None:
    said = Said()
    pool = Pool(POOL, said, lambda reader: reader.name != "Other")
    assert pool.snapshot.readers == ()
    said.become("Other")
    assert pool.snapshot.readers == ()
    said.become("Other", "First", "Second")
    assert (only(pool).name, only(pool).state, only(pool).atr) == (POOL, CardState.ABSENT, b"")
    said.become("Other", "First", here("Second"))
    assert (only(pool).state, only(pool).atr, only(pool).protocol) == (CARD, ATR, T1)
    said.become("Other", here("Second"))
    assert only(pool).atr == ATR
    said.become("Other")
    assert pool.snapshot.readers == ()


async def test_a_card_comes_and_goes_for_programs_only_when_the_first_comes_and_the_last_goes() -> None:
    said = Said("First", "Second")
    pool = Pool(POOL, said)
    counts = [only(pool).event_counter]
    for readers in (
        (here("First"), "Second"),
        (here("First"), here("Second")),
        ("First", here("Second")),
        (here("First", events=3), here("Second")),
        ("First", "Second"),
    ):
        said.become(*readers)
        counts.append(only(pool).event_counter)
    assert counts == [0, 1, 1, 1, 1, 2]


async def test_a_card_that_was_the_only_one_and_is_another_one_now_has_come_and_gone() -> None:
    said = Said("First")
    pool = Pool(POOL, said)
    said.become(here("First", events=1))
    before = only(pool).event_counter
    said.become(here("First", events=3))
    assert only(pool).event_counter == before + 2


async def test_it_is_exclusive_when_all_are_and_what_keeps_readers_away_is_told() -> None:
    said = Said()
    pool = Pool(POOL, said)
    trouble = Trouble(Cause.DOWN, "/run/pcscd/pcscd.comm", host="lab1")
    said.become(here("First", sharing=-1), here("Second", sharing=2), "Empty", troubles=(trouble,))
    assert (only(pool).sharing, pool.snapshot.troubles) == (2, (trouble,))
    said.become(here("First", sharing=-1), here("Second", sharing=-1), "Empty")
    assert (only(pool).sharing, pool.snapshot.troubles) == (-1, ())


async def test_who_waits_for_news_is_told() -> None:
    said = Said("First")
    pool = Pool(POOL, said)
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(pool.changed(pool.snapshot.serial))
        await quiet()
        said.become("First", "Second")  # nothing that can be seen
        await quiet()
        assert not waiting.done()
        said.become(here("First"), "Second")
    assert waiting.result().readers[0].atr == ATR


async def test_who_is_a_member_can_change_without_news_of_the_readers() -> None:
    said, wanted = Said(), {"First"}
    said.become(here("First"), "Second")
    pool = Pool(POOL, said, lambda reader: reader.name in wanted)
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(pool.changed(pool.snapshot.serial))
        await quiet()
        wanted.clear()
        pool.choose_again()
    assert waiting.result().readers == ()


# --- where connects go


async def test_a_connect_goes_to_the_shortest_queue_and_of_equal_ones_to_the_fewest_handles() -> None:
    for lengths, expected in (
        ({"A": (2, 2), "B": (1, 9), "C": (3, 3)}, "B"),
        ({"A": (1, 5), "B": (1, 4), "C": (1, 6)}, "B"),
        ({"A": (1, 1), "B": (0, 7), "C": (0, 0)}, "C"),
    ):
        said = Said()
        said.become(*(here(name, queue=answered(Queue(*length))) for name, length in lengths.items()))
        place = await Pool(POOL, said).choose(SHARED, ())
        assert place is not None
        assert place.name == expected


async def test_equal_queues_are_decided_at_random() -> None:
    said = Said()
    said.become(*(here(name, queue=answered(Queue(1, 1))) for name in "ABCDEF"))
    pool = Pool(POOL, said, chance=random.Random(2))
    assert {(await pool.choose(SHARED, ())).name for _ in range(60)} == set("ABCDEF")  # type: ignore[union-attr]


async def test_where_nobody_can_be_asked_the_snapshot_tells() -> None:
    said = Said()
    said.become(here("A", sharing=3), here("B", sharing=1), here("C", sharing=2))
    assert (await Pool(POOL, said).choose(SHARED, ())).name == "B"  # type: ignore[union-attr]


async def test_our_own_programs_that_are_on_their_way_are_counted() -> None:
    cards = {name: Served(0.02) for name in "ABCD"}
    reach = Reach(cards, 0.1)
    pool = Pool(POOL, reach, chance=random.Random(3))
    context = await pool.open(ALICE)
    handles = await asyncio.gather(*(context.connect(POOL, SHARED, ANY) for _ in range(4)))
    assert sorted(map(at, handles)) != ["A"] * 4
    assert max(len(card.handles) for card in cards.values()) <= 2


async def test_an_exclusive_connect_goes_where_nobody_is_and_a_shared_one_where_it_is_not_exclusive() -> None:
    async with desks(CountingCard(), CountingCard(), CountingCard()) as (pool, _):
        context = await pool.open(ALICE)
        one = await context.connect(POOL, EXCLUSIVE, ANY)
        shared = [await context.connect(POOL, SHARED, ANY) for _ in range(2)]
        assert at(one) not in {at(card) for card in shared}
        two = await context.connect(POOL, SHARED, ANY)
        assert at(two) != at(one)
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await (await pool.open(BOB, 0.0)).connect(POOL, EXCLUSIVE, ANY)


@pytest.mark.parametrize(
    "code", [ReturnCode.E_NO_SMARTCARD, ReturnCode.E_READER_UNAVAILABLE, ReturnCode.W_UNRESPONSIVE_CARD]
)
async def test_a_connect_that_fails_at_one_member_is_made_at_another_one(code: ReturnCode) -> None:
    said = Said()
    said.become(here("A", queue=answered(Queue(0, 0))), here("B", queue=answered(Queue(5, 5))))
    said.context.connect = AsyncMock(side_effect=lambda name, *_: _raise(code) if name == "A" else name)
    (await (await Pool(POOL, said).open(ALICE)).connect(POOL, SHARED, ANY))
    assert [call.args[0] for call in said.context.connect.await_args_list] == ["A", "B"]


def _raise(code: ReturnCode) -> None:
    raise PcscError(code)


async def test_what_is_wrong_with_the_program_is_not_tried_again() -> None:
    said = Said()
    said.become(here("A"), here("B"))
    said.context.connect = AsyncMock(side_effect=PcscError(ReturnCode.E_PROTO_MISMATCH))
    with raises(ReturnCode.E_PROTO_MISMATCH):
        await connected(Pool(POOL, said))
    assert said.context.connect.await_count == 1


async def test_when_all_fail_the_first_error_is_told() -> None:
    said = Said()
    said.become(here("A", queue=answered(Queue(0, 0))), here("B", queue=answered(Queue(5, 5))))
    codes = {"A": ReturnCode.W_UNRESPONSIVE_CARD, "B": ReturnCode.E_NO_SMARTCARD}
    said.context.connect = AsyncMock(side_effect=lambda name, *_: _raise(codes[name]))
    with raises(ReturnCode.W_UNRESPONSIVE_CARD):
        await connected(Pool(POOL, said))


async def test_without_a_card_there_is_none_and_other_names_are_unknown() -> None:
    said = Said("A", "B")
    pool = Pool(POOL, said)
    context = await pool.open(ALICE)
    with raises(ReturnCode.E_NO_SMARTCARD):
        await context.connect(POOL, SHARED, ANY)
    with raises(ReturnCode.E_UNKNOWN_READER):
        await context.connect("A", SHARED, ANY)
    said.become()
    with raises(ReturnCode.E_UNKNOWN_READER):
        await context.connect(POOL, SHARED, ANY)
    said.become("A")
    said.context.connect = AsyncMock(return_value="direct")
    await context.connect(POOL, DIRECT, Protocol.UNDEFINED)
    await context.close()
    with raises(ReturnCode.E_INVALID_HANDLE):
        await context.connect(POOL, SHARED, ANY)


async def test_a_member_that_does_not_answer_is_waited_for_once_and_used_again_when_it_has_answered() -> None:
    asked: list[Reply[Queue]] = []

    def silent() -> Reply[Queue]:
        asked.append(Reply())
        return asked[-1]

    said = Said()
    slow = ReaderState("A", 1, CARD, 0, ATR, queue=silent)
    said.become(
        slow,
        here("B", queue=answered(Queue(7, 7))),
        here("C", queue=failed(PcscError(ReturnCode.E_READER_UNAVAILABLE))),
    )
    pool, loop = Pool(POOL, said), asyncio.get_running_loop()
    for waited in (ANSWER_TIME, 0.0, 0.0):
        began = loop.time()
        assert (await pool.choose(SHARED, ())).name == "B"  # type: ignore[union-attr]
        assert loop.time() - began == pytest.approx(waited)
    asked[0].resolve(Queue(0, 0))
    choosing = running(pool.choose(SHARED, ()))
    await quiet()
    asked[1].resolve(Queue(1, 1))
    assert (await choosing).name == "A"  # type: ignore[union-attr]
    assert len(asked) == 2


# --- handles


async def test_a_handle_stays_where_it_was_opened_whatever_the_queues_are() -> None:
    first, second = CountingCard(), CountingCard()
    async with desks(first, second) as (pool, _):
        card = await connected(pool)
        own = first if at(card) == READER else second
        others = [await connected(pool) for _ in range(6)]
        for other in others:
            if at(other) == at(card):
                await other.disconnect(LEAVE)
        for number in range(1, 6):
            await card.begin()
            assert await card.transmit(COUNT, T1) == number.to_bytes(4, "big") + b"\x90\x00"
            await card.end(LEAVE)
        assert (own.count, first.count + second.count) == (5, 5)
        await card.status()
        assert (card.reader, card.protocol, card.counted) == (POOL, T1, True)


async def test_a_member_that_dies_takes_its_handles_along_and_the_next_connect_is_elsewhere_at_once() -> None:
    async with desks(CountingCard(), CountingCard()) as (pool, (first, second)):
        card, there = await connected(pool), await connected(pool)
        assert at(card) != at(there)
        dies, lives = (first, second) if at(card) == READER else (second, first)
        before = only(pool).event_counter
        dies.roads[0].open = False
        dies.roads[0].cut()
        await quiet()
        loop = asyncio.get_running_loop()
        began = loop.time()
        other = await connected(pool)
        assert at(other) == at(there)
        assert loop.time() - began < 0.1
        with raises(ReturnCode.W_REMOVED_CARD):
            await card.transmit(COUNT, T1)
        assert loop.time() - began <= 2.1
        # It is as if its card had been taken out and another one inserted.
        assert (only(pool).event_counter, only(pool).atr) == (before + 2, ATR)
        for call in (card.begin, lambda: card.transmit(COUNT, T1), card.status, lambda: card.control(1, b"", 9)):
            with raises(ReturnCode.W_REMOVED_CARD):
                await call()
        assert await there.transmit(COUNT, T1) == b"\0\0\0\1\x90\0"
        assert lives.card.count == 1
        await card.disconnect(LEAVE)
        with raises(ReturnCode.E_INVALID_HANDLE):
            await card.disconnect(LEAVE)


async def test_a_member_that_nobody_uses_goes_without_a_word() -> None:
    async with desks(CountingCard(), CountingCard()) as (pool, hosts):
        card = await connected(pool)
        idle = hosts[1] if at(card) == READER else hosts[0]
        before = only(pool).event_counter
        idle.roads[0].open = False
        idle.roads[0].cut()
        while len(pool.members) > 1:
            await pool._manager.changed(pool._manager.snapshot.serial)
        assert only(pool).event_counter == before
        assert await card.transmit(COUNT, T1) == b"\0\0\0\1\x90\0"


async def test_a_program_that_reconnects_goes_on_at_another_member() -> None:
    async with desks(CountingCard(), CountingCard()) as (pool, hosts):
        card = await connected(pool)
        old = at(card)
        dies = hosts[0] if old == READER else hosts[1]
        dies.roads[0].open = False
        dies.roads[0].cut()
        with raises(ReturnCode.W_REMOVED_CARD):
            await card.transmit(COUNT, T1)
        assert await card.reconnect(SHARED, ANY, LEAVE) == T1
        assert at(card) != old
        await card.begin()
        assert await card.transmit(COUNT, T1) == b"\0\0\0\1\x90\0"
        await card.end(LEAVE)
        await card.disconnect(LEAVE)
        assert all(pool.place_of(member.name) == 0 for member in pool.members)


async def test_a_host_that_comes_back_in_time_has_lost_nothing() -> None:
    async with desks(CountingCard(), CountingCard()) as (pool, hosts):
        card = await connected(pool)
        await card.begin()
        own = hosts[0] if at(card) == READER else hosts[1]
        own.roads[0].cut()
        assert await card.transmit(COUNT, T1) == b"\0\0\0\1\x90\0"
        await card.end(LEAVE)


async def test_what_a_card_has_said_is_remembered_of_that_card_alone() -> None:
    first, second = FileCard(b"1111"), FileCard(b"2222")
    async with desks(first, second, delay=0.01) as (pool, _):
        seen = set()
        for _ in range(3):
            cards = [await connected(pool), await connected(pool)]
            assert at(cards[0]) != at(cards[1])
            for card in cards:
                await card.begin()
                await card.transmit(SELECT, T1)
                seen.add((at(card), await card.transmit(READ, T1)))
                await card.end(LEAVE)
                await card.disconnect(LEAVE)
                await asyncio.sleep(0.2)
        assert len(seen) == 2
        assert {answer for _, answer in seen} == {b"1111\x90\0", b"2222\x90\0"}


async def test_all_handles_are_freed_with_the_context() -> None:
    async with desks(CountingCard(), CountingCard()) as (pool, hosts):
        context = await pool.open(ALICE)
        for _ in range(4):
            await context.connect(POOL, SHARED, ANY)
        assert sum(pool.place_of(member.name) for member in pool.members) == 4
        await context.close()
        assert sum(pool.place_of(member.name) for member in pool.members) == 0
        for desk in hosts:
            while (snapshot := desk.manager.snapshot).readers[0].sharing:
                await desk.manager.changed(snapshot.serial)


async def test_an_attribute_is_asked_of_the_member() -> None:
    async with desks(CountingCard()) as (pool, _):
        card = await connected(pool)
        with raises(ReturnCode.E_UNSUPPORTED_FEATURE):
            await card.attribute(0xFFFF)
        with raises(ReturnCode.E_UNSUPPORTED_FEATURE):
            await card.set_attribute(0xFFFF, b"")


async def test_a_guest_that_is_out_of_reach_says_so_at_once() -> None:
    async with Desk(timing=Timing(grace=1.0)) as desk:
        guest = await desk.guest()
        reader = guest.snapshot.readers[0]
        assert reader.queue is not None
        assert await reader.queue() == Queue(0, 0)
        desk.roads[0].open = False
        desk.roads[0].cut()
        await becomes(guest, LinkState.BROKEN)
        with raises(ReturnCode.E_READER_UNAVAILABLE):
            await reader.queue()
