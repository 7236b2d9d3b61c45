"""What broken pipes do: nothing that a program could see, until the host has been away for too long."""

from __future__ import annotations

import asyncio
import logging
import random
from itertools import pairwise

import pytest

from cardferry.link import Guest, LinkState, Timing
from cardferry.pcsc.errors import ReturnCode
from cardferry.pcsc.interface import Card
from cardferry.transports.base import Pipe
from tests.link.cards import COUNT, CountingCard
from tests.link.desk import (
    ALICE,
    ANY,
    BOB,
    LEAVE,
    READER,
    SHARED,
    T1,
    BrittlePipe,
    Desk,
    Road,
    becomes,
    raises,
)

DELAY = 0.005
GRACE = Timing().grace
SILENCE = Timing().silence
DEAD = Timing().dead


async def connected(desk: Desk, guest: Guest, patience: float | None = 1.0) -> Card:
    return await (await guest.open(ALICE, patience)).connect(READER, SHARED, ANY)


def break_at_random(road: Road, chance: random.Random, longest: int) -> None:
    """Every pipe of this road breaks after some bytes in either direction, in one of two ways."""

    def wrap(near: Pipe, far: Pipe) -> tuple[Pipe, Pipe]:
        return (
            BrittlePipe(near, chance.randint(1, longest), torn=chance.random() < 0.5),
            BrittlePipe(far, chance.randint(1, longest), torn=chance.random() < 0.5),
        )

    road.wrap = wrap


def hold_together(road: Road) -> None:
    road.wrap = lambda near, far: (near, far)


async def count_in_transactions(guest: Guest, rounds: int, answers: list[int]) -> None:
    """A program that works in transactions, and must see each of its answers once and in order."""
    context = await guest.open(ALICE, None)
    card = await context.connect(READER, SHARED, ANY)
    for number in range(rounds):
        await card.begin()
        inside = []
        for _ in range(3):
            response = await card.transmit(COUNT, T1)
            assert response[4:] == b"\x90\0"
            inside.append(int.from_bytes(response[:4], "big"))
        assert [later - earlier for earlier, later in pairwise(inside)] == [1, 1], "somebody came in between"
        answers += inside
        await card.end(LEAVE)
        if number % 7 == 0:
            await card.disconnect(LEAVE)
            card = await context.connect(READER, SHARED, ANY)
            await card.status()
    await context.close()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("longest", "rounds", "breaks"), [(1500, 60, 100), (6000, 120, 50)])
async def test_exactly_once_across_breaks_at_any_byte(seed: int, longest: int, rounds: int, breaks: int) -> None:
    await work_while_pipes_break(seed, longest, rounds, breaks)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
async def test_exactly_once_across_a_thousand_breaks(seed: int) -> None:
    await work_while_pipes_break(seed, 1500, 600, 1000)


async def work_while_pipes_break(seed: int, longest: int, rounds: int, breaks: int) -> None:
    """Eight programs work, and every pipe breaks after at most ``longest`` bytes."""
    chance = random.Random(seed)
    card = CountingCard()
    async with Desk(card, delay=DELAY, card_delay=0.001) as desk:
        guest = await desk.guest()
        road = desk.roads[0]
        break_at_random(road, chance, longest)
        road.cut()
        per_program: list[list[int]] = [[] for _ in range(8)]
        async with asyncio.TaskGroup() as programs:
            for answers in per_program:
                programs.create_task(count_in_transactions(guest, rounds, answers))
        hold_together(road)
        answers = [answer for one in per_program for answer in one]
        assert all(one == sorted(one) for one in per_program)
        assert sorted(answers) == list(range(1, 8 * 3 * rounds + 1))
        assert card.count == len(answers)
        assert card.resets == 0
        assert guest.status.resumes >= breaks, guest.status
        assert guest.status.sessions == 1
        session = guest.session
        assert session is not None
        assert session.channel.session.kept[0] < 100


async def test_a_host_that_is_away_is_told_once_and_then_rarely(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with Desk(delay=DELAY) as desk:
        await desk.guest()
        desk.roads[0].open = False
        desk.roads[0].cut()
        await asyncio.sleep(1500)
        assert sum("host cannot be reached" in message for message in caplog.messages) == 3


async def test_a_patient_guest_tries_once_a_minute_and_tells_it_hourly(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with Desk(delay=DELAY) as desk:
        await desk.guest(timing=Timing(patient=True))
        desk.roads[0].open = False
        desk.roads[0].cut()
        before = desk.roads[0].dials
        await asyncio.sleep(2 * 3600 - 60)
        assert sum("host cannot be reached" in message for message in caplog.messages) == 2
        assert desk.roads[0].dials - before < 160


async def test_calls_wait_while_the_host_is_away() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        card = await connected(desk, guest)
        road = desk.roads[0]
        road.open = False
        road.cut()
        await becomes(guest, LinkState.BROKEN)
        assert guest.snapshot.readers
        await card.begin()
        waiting = desk.start(card.transmit(COUNT, T1))
        await asyncio.sleep(GRACE * 0.9)
        assert not waiting.done()
        road.open = True
        assert await waiting == b"\0\0\0\1\x90\0"
        await card.end(LEAVE)
        assert guest.state is LinkState.UP
        assert (guest.status.sessions, guest.status.resumes) == (1, 1)


async def test_a_held_card_is_still_held_after_a_break() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        card = await connected(desk, guest)
        bob = await (await desk.manager.open(BOB)).connect(READER, SHARED, ANY)
        await card.begin()
        await card.transmit(COUNT, T1)
        his = desk.start(bob.transmit(COUNT, T1))
        desk.roads[0].open = False
        desk.roads[0].cut()
        await asyncio.sleep(5)
        desk.roads[0].open = True
        assert await card.transmit(COUNT, T1) == b"\0\0\0\2\x90\0"
        assert not his.done()
        await card.end(LEAVE)
        assert await his == b"\0\0\0\3\x90\0"
        assert desk.card.count == 3


@pytest.mark.parametrize("how", ["cut", "black"])
async def test_after_grace_programs_get_an_error_and_the_next_guest_the_card(how: str) -> None:
    async with Desk(delay=DELAY) as desk:
        guest, other = await desk.guest(), await desk.guest()
        loop = asyncio.get_running_loop()
        card, his = await connected(desk, guest), await connected(desk, other, None)
        await card.begin()
        await card.transmit(COUNT, T1)
        await his.begin()
        granted: list[float] = []

        async def wait_for_the_card() -> None:
            await his.transmit(COUNT, T1)
            granted.append(loop.time())

        next_one = desk.start(wait_for_the_card())
        await asyncio.sleep(1)
        road = desk.roads[0]
        road.open = False
        left = loop.time()
        if how == "cut":
            road.cut()
        else:
            road.go_black()
        with raises(ReturnCode.E_READER_UNAVAILABLE):
            await card.transmit(COUNT, T1)
        failed = loop.time()
        assert GRACE - SILENCE <= failed - left <= GRACE + 2 * SILENCE
        assert guest.snapshot.readers == ()
        assert guest.state is LinkState.DOWN
        await next_one
        assert granted[0] <= failed + 1.0
        assert desk.card.resets == 1
        assert desk.card.count == 2
        await his.end(LEAVE)
        for call in (card.status(), card.begin(), card.end(LEAVE), card.attribute(0x10100), card.control(1, b"", 9)):
            with raises(ReturnCode.E_READER_UNAVAILABLE):
                await call
        await card.disconnect(LEAVE)


async def test_contexts_live_on_in_the_next_session() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        context = await guest.open(ALICE, 1.0)
        old = await context.connect(READER, SHARED, ANY)
        events = guest.snapshot.reader_events
        desk.roads[0].open = False
        desk.roads[0].cut()
        await becomes(guest, LinkState.DOWN)
        with raises(ReturnCode.E_UNKNOWN_READER):
            await context.connect(READER, SHARED, ANY)
        gone = guest.snapshot
        assert gone.reader_events > events
        desk.roads[0].open = True
        await becomes(guest, LinkState.UP)
        if guest.snapshot is gone:
            await guest.changed(gone.serial)
        assert guest.snapshot.reader_events > gone.reader_events
        with raises(ReturnCode.E_READER_UNAVAILABLE):
            await old.transmit(COUNT, T1)
        new = await context.connect(READER, SHARED, ANY)
        assert await new.transmit(COUNT, T1) == b"\0\0\0\1\x90\0"
        assert guest.status.sessions == 2


async def test_a_dead_network_is_noticed_in_time() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        await asyncio.sleep(30)
        assert guest.state is LinkState.UP
        loop = asyncio.get_running_loop()
        went = loop.time()
        desk.roads[0].go_black()
        await becomes(guest, LinkState.BROKEN)
        assert loop.time() - went <= DEAD
        await becomes(guest, LinkState.UP)
        assert guest.status.resumes == 1


async def test_a_broken_pipe_is_replaced_at_once() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        loop = asyncio.get_running_loop()
        broke = loop.time()
        desk.roads[0].cut()
        await becomes(guest, LinkState.BROKEN)
        await becomes(guest, LinkState.UP)
        assert loop.time() - broke <= 0.1


async def test_a_new_pipe_takes_over_before_the_old_one_is_known_to_be_dead() -> None:
    """The guest has noticed that the pipe is dead, the host has not: both must end up on the new one."""
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        card = await connected(desk, guest)
        near, _ = desk.roads[0].pipes[-1]
        near.write = lambda data: None  # type: ignore[method-assign]
        await card.begin()
        waiting = desk.start(card.transmit(COUNT, T1))
        await asyncio.sleep(0.1)
        session = guest.session
        assert session is not None
        old = session.channel.end
        session.channel.drop(ConnectionResetError())
        assert await waiting == b"\0\0\0\1\x90\0"
        assert session.channel.end is not old
        assert len(desk.host.status.guests) == 1
        assert guest.status.resumes == 1


async def test_a_host_that_was_started_anew_is_used_at_once() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        card = await connected(desk, guest)
        desk.host._sessions.clear()
        desk.roads[0].cut()
        with raises(ReturnCode.E_READER_UNAVAILABLE):
            await card.transmit(COUNT, T1)
        await becomes(guest, LinkState.UP)
        assert guest.status.sessions == 2


async def test_a_guest_that_says_good_bye_frees_everything_at_once() -> None:
    async with Desk(delay=DELAY) as desk:
        road = Road(desk, DELAY)
        async with Guest(road.dial) as guest:
            await guest.ready()
            card = await connected(desk, guest)
            await card.begin()
            await card.transmit(COUNT, T1)
        loop = asyncio.get_running_loop()
        left = loop.time()
        bob = await (await desk.manager.open(BOB)).connect(READER, SHARED, ANY)
        assert await bob.transmit(COUNT, T1) == b"\0\0\0\2\x90\0"
        assert loop.time() - left < 0.1
        assert desk.card.resets == 1


async def test_a_host_that_stops_tells_its_guests() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        card = await connected(desk, guest)
        waiting = desk.start(_fails(card))
        await asyncio.sleep(0)
        await desk.host.__aexit__(None, None, None)
        desk.roads[0].open = False
        await waiting
        assert guest.state is LinkState.DOWN


async def _fails(card: Card) -> None:
    with raises(ReturnCode.E_READER_UNAVAILABLE):
        while True:
            await card.transmit(COUNT, T1)


async def test_a_host_that_cannot_be_reached_says_so_and_is_tried_again() -> None:
    async with Desk(delay=DELAY) as desk:
        road = Road(desk, DELAY)
        road.open = False
        async with Guest(road.dial) as guest:
            with pytest.raises(ConnectionRefusedError):
                await guest.ready()
            await asyncio.sleep(60)
            assert 10 < road.dials < 60
            assert guest.snapshot.readers == ()
            road.open = True
            await becomes(guest, LinkState.UP)


async def test_the_state_is_reported() -> None:
    states: list[LinkState] = []
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest(report=states.append)
        desk.roads[0].open = False
        desk.roads[0].cut()
        await becomes(guest, LinkState.DOWN)
        desk.roads[0].open = True
        await becomes(guest, LinkState.UP)
    assert states == [LinkState.UP, LinkState.BROKEN, LinkState.DOWN, LinkState.UP, LinkState.DOWN]
