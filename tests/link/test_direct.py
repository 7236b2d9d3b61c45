"""A link that moves to a connection of its own and back: nothing that a program could see, whatever breaks."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from cardferry.link import Guest, LinkState, Timing
from cardferry.link import messages as m
from cardferry.link.guest_direct import Ask
from cardferry.link.host_direct import ALONE_TIME
from cardferry.pcsc.errors import ReturnCode
from cardferry.transports.base import Pipe
from cardferry.transports.memory import MemoryPipe, memory_pipe
from cardferry.wire.link.frames import Kind, encode
from cardferry.wire.link.session import Phase
from tests.link.cards import COUNT, CountingCard
from tests.link.desk import ALICE, ANY, READER, SHARED, T1, BrittlePipe, Desk, Road, SlowPipe, raises
from tests.link.test_breaks import count_in_transactions

DELAY = 0.005
GRACE = Timing().grace


class Direct:
    """The guest's own connections to a host, as ssh and TLS would make them: host's and guest's side of it.

    Attributes:
        allowed: whether the host takes them.
        open: whether they come through.
        pipes: the guest's ends of all, as they were made.
        wrap: as of a `Road`.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.allowed = self.open = True
        self.attempts = 0
        self.pipes: list[MemoryPipe] = []
        self.wrap: Callable[[Pipe, Pipe], tuple[Pipe, Pipe]] = lambda near, far: (near, far)
        self._offers: dict[bytes, Callable[[Pipe], Awaitable[None]]] = {}

    async def introduce(self, certificate: bytes, serve: Callable[[Pipe], Awaitable[None]]) -> m.Introduction:
        self._offers = {certificate: serve}
        return m.Introduction("10.0.0.1", 4000, b"the host's")

    async def dial(self, ask: Ask) -> Pipe:
        self.attempts += 1
        certificate = random.randbytes(8)
        found = await ask(certificate)
        assert (found.address, found.port, found.certificate) == ("10.0.0.1", 4000, b"the host's")
        await asyncio.sleep(DELAY)
        if not self.open:
            raise ConnectionRefusedError("nobody answers at 10.0.0.1")
        near, far = memory_pipe("direct")
        self.pipes.append(near)
        one, two = self.wrap(SlowPipe(near, DELAY), SlowPipe(far, DELAY))
        self.desk.start(self._offers.pop(certificate)(two))
        return one


async def linked(desk: Desk, direct: Direct) -> Guest:
    road = Road(desk, DELAY)
    desk.roads.append(road)
    road.introducer = direct if direct.allowed else None
    return await desk.guest(road, direct=direct.dial)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(900):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(DELAY)


def over_direct(desk: Desk, guest: Guest) -> bool:
    """Whether both ends agree that the link runs there."""
    sessions = desk.host.status.guests
    return bool(sessions) and sessions[0].direct and guest.status.direct


async def test_it_moves_in_the_middle_of_calls_and_the_first_pipe_stays() -> None:
    async with Desk(delay=DELAY, card_delay=0.004) as desk:
        direct = Direct(desk)
        guest = await linked(desk, direct)
        states = {guest.state}
        answers: list[int] = []
        work = desk.start(count_in_transactions(guest, 40, answers))
        await until(lambda: over_direct(desk, guest))
        states.add(guest.state)
        await work
        assert answers == list(range(1, 121))
        assert states == {LinkState.UP}
        assert desk.roads[0].dials == 1
        assert (guest.status.sessions, guest.status.resumes) == (1, 1)
        session = guest.session
        assert session is not None
        assert session.channel.spare is not None
        sent = desk.roads[0].pipes[0][0]
        assert isinstance(sent, MemoryPipe)


async def test_when_it_breaks_the_session_is_back_on_the_first_pipe_within_a_round_trip() -> None:
    async with Desk(delay=DELAY) as desk:
        direct = Direct(desk)
        guest = await linked(desk, direct)
        card = await (await guest.open(ALICE, None)).connect(READER, SHARED, ANY)
        await until(lambda: over_direct(desk, guest))
        direct.open = False
        direct.pipes[-1].abort()
        began = asyncio.get_running_loop().time()
        assert await card.transmit(COUNT, T1) == b"\0\0\0\1\x90\0"
        assert asyncio.get_running_loop().time() - began < 10 * DELAY
        assert guest.state is LinkState.UP
        assert not guest.status.direct
        assert desk.roads[0].dials == 1


async def test_it_is_tried_again_with_longer_and_longer_pauses(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with Desk(delay=DELAY) as desk:
        direct = Direct(desk)
        direct.open = False
        guest = await linked(desk, direct)
        await asyncio.sleep(3600)
        assert 10 < direct.attempts < 25
        said = [line for line in caplog.messages if "direct" in line]
        assert said == ["host: no direct connection: nobody answers at 10.0.0.1; it goes on over ssh"]
        direct.open = True
        await until(lambda: over_direct(desk, guest))
        await until(lambda: "host: direct connection; ssh is kept beside it" in caplog.messages)


async def test_a_host_that_does_not_offer_it_is_not_asked(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with Desk(delay=DELAY) as desk:
        direct = Direct(desk)
        direct.allowed = False
        guest = await linked(desk, direct)
        await asyncio.sleep(3600)
        assert direct.attempts == 0
        assert guest.state is LinkState.UP
        assert sum("no direct connection: the host does not allow it" in line for line in caplog.messages) == 1


async def test_who_asks_without_being_allowed_is_told_no() -> None:
    async with Desk(delay=DELAY) as desk:
        direct = Direct(desk)
        direct.allowed = False
        guest = await linked(desk, direct)
        session = guest.session
        assert session is not None
        assert "does not allow" in (await session.introduce(b"any")).refusal
        assert guest.state is LinkState.UP


async def test_a_session_moves_to_its_own_connection_only() -> None:
    """Whoever holds the key of one introduction cannot bring another session with it."""
    async with Desk(delay=DELAY) as desk:
        one, other = Direct(desk), Direct(desk)
        mine, _ = await linked(desk, one), await linked(desk, other)
        await until(lambda: all(guest.direct for guest in desk.host.status.guests))
        session = mine.session
        assert session is not None
        stranger = next(
            s for s in desk.host._own.values() if s.channel.session.identity != session.channel.session.identity
        )
        near, far = memory_pipe()
        desk.start(desk.host._serve_directly(stranger, far))
        told = Told()
        near.start(told)
        near.write(encode(Kind.HELLO, 0, 0, session.channel.session.hello.encode()))
        await until(lambda: told.lost_it)
        assert b"this connection is for another session" in told.data
        assert len(desk.host.status.guests) == 2
        assert all(guest.connected and guest.direct for guest in desk.host.status.guests)


class Told:
    """What a pipe says."""

    def __init__(self) -> None:
        self.data = b""
        self.lost_it = False

    def received(self, data: bytes) -> None:
        self.data += data

    def congested(self, congested: bool) -> None:
        pass

    def lost(self, error: Exception | None) -> None:
        self.lost_it = True


async def test_when_the_first_pipe_is_lost_the_link_goes_on_and_gets_another_one() -> None:
    async with Desk(delay=DELAY) as desk:
        direct = Direct(desk)
        guest = await linked(desk, direct)
        card = await (await guest.open(ALICE, None)).connect(READER, SHARED, ANY)
        await until(lambda: over_direct(desk, guest))
        desk.roads[0].open = False
        desk.roads[0].cut()
        await asyncio.sleep(5)
        assert over_direct(desk, guest)
        assert await card.transmit(COUNT, T1) == b"\0\0\0\1\x90\0"
        assert guest.state is LinkState.UP
        desk.roads[0].open = True
        await until(
            lambda: desk.roads[0].dials > 1 and guest.session is not None and guest.session.channel.spare is not None
        )
        await until(lambda: over_direct(desk, guest))
        assert await card.transmit(COUNT, T1) == b"\0\0\0\2\x90\0"
        assert guest.status.sessions == 1


async def test_who_cannot_come_in_the_first_way_any_more_is_out_after_a_while() -> None:
    async with Desk(delay=DELAY) as desk:
        direct = Direct(desk)
        guest = await linked(desk, direct)
        card = await (await guest.open(ALICE, None)).connect(READER, SHARED, ANY)
        await until(lambda: over_direct(desk, guest))
        desk.roads[0].open = False
        desk.roads[0].cut()
        await asyncio.sleep(ALONE_TIME - 1)
        assert over_direct(desk, guest)
        await asyncio.sleep(GRACE + 3)
        assert not desk.host.status.guests
        with raises(ReturnCode.E_READER_UNAVAILABLE):
            await card.transmit(COUNT, T1)


async def test_who_asks_over_its_own_connection_for_another_one_gets_no_more_time() -> None:
    """A guest that may not log in any more, and introduces itself."""
    async with Desk(delay=DELAY) as desk:
        direct = Direct(desk)
        guest = await linked(desk, direct)
        await until(lambda: over_direct(desk, guest))
        desk.roads[0].open = False
        desk.roads[0].cut()
        attempts = direct.attempts
        session = guest.session
        assert session is not None
        await asyncio.sleep(1)
        for _ in range(12):
            await asyncio.sleep(5)
            if not session.channel.ended:
                with suppress(Exception):
                    session.channel.attach(await direct.dial(session.introduce), spares=True)
        assert direct.attempts > attempts
        await asyncio.sleep(GRACE + 5)
        assert not desk.host.status.guests


async def test_a_connection_that_goes_black_is_given_up_and_so_is_a_first_pipe_that_does_not_answer() -> None:
    async with Desk(delay=DELAY) as desk:
        direct = Direct(desk)
        guest = await linked(desk, direct)
        card = await (await guest.open(ALICE, None)).connect(READER, SHARED, ANY)
        await until(lambda: over_direct(desk, guest))
        direct.open = False
        for end in (direct.pipes[-1], direct.pipes[-1]._other):
            end.write = lambda data: None  # type: ignore[method-assign]
        desk.roads[0].go_black()
        began = asyncio.get_running_loop().time()
        assert await card.transmit(COUNT, T1) == b"\0\0\0\1\x90\0"
        assert asyncio.get_running_loop().time() - began < Timing().dead + 3 * Timing().silence
        assert guest.status.sessions == 1


async def test_a_guest_that_comes_back_before_the_host_has_heard_of_the_other_connection() -> None:
    """The hello on the other connection is lost: on the first pipe the host hears hello once more."""
    async with Desk(delay=DELAY) as desk:
        direct = Direct(desk)
        broken: list[BrittlePipe] = []

        def wrap(near: Pipe, far: Pipe) -> tuple[Pipe, Pipe]:
            if broken:
                return near, far
            broken.append(BrittlePipe(near, 10, torn=True))
            return broken[0], far

        direct.wrap = wrap
        guest = await linked(desk, direct)
        card = await (await guest.open(ALICE, None)).connect(READER, SHARED, ANY)
        for number in range(1, 50):
            assert int.from_bytes((await card.transmit(COUNT, T1))[:4], "big") == number
        await until(lambda: over_direct(desk, guest))
        assert guest.status.sessions == 1
        assert desk.roads[0].dials == 1


@pytest.mark.parametrize("seed", range(6))
async def test_exactly_once_while_either_way_and_both_break_at_any_byte(seed: int) -> None:
    chance = random.Random(seed)
    card = CountingCard()

    def wrap(near: Pipe, far: Pipe) -> tuple[Pipe, Pipe]:
        return (
            BrittlePipe(near, chance.randint(1, 4000), torn=chance.random() < 0.5),
            BrittlePipe(far, chance.randint(1, 4000), torn=chance.random() < 0.5),
        )

    async with Desk(card, delay=DELAY, card_delay=0.001) as desk:
        direct = Direct(desk)
        direct.wrap = wrap
        guest = await linked(desk, direct)
        road = desk.roads[0]
        if seed % 2:
            road.wrap = wrap
        road.cut()
        moves = 0

        async def watch() -> None:
            nonlocal moves
            before = False
            while True:
                now = over_direct(desk, guest)
                moves += now and not before
                before = now
                await asyncio.sleep(DELAY)

        watching = desk.start(watch())
        per_program: list[list[int]] = [[] for _ in range(4)]
        async with asyncio.TaskGroup() as programs:
            for answers in per_program:
                programs.create_task(count_in_transactions(guest, 150, answers))
        watching.cancel()
        direct.wrap = road.wrap = lambda near, far: (near, far)
        assert all(one == sorted(one) for one in per_program)
        assert sorted(answer for one in per_program for answer in one) == list(range(1, 4 * 3 * 150 + 1))
        assert card.count == 4 * 3 * 150
        assert moves > 2
        assert guest.status.sessions == 1


async def test_what_had_come_through_the_first_pipe_is_read_past_when_the_session_comes_back() -> None:
    """Half a frame is on its way there when the session moves."""
    async with Desk(delay=DELAY) as desk:
        direct = Direct(desk)
        guest = await linked(desk, direct)
        program = await guest.open(ALICE, None)
        card = await program.connect(READER, SHARED, ANY)
        session = guest.session
        assert session is not None
        for _ in range(5):
            await until(lambda: over_direct(desk, guest))
            spare = session.channel.spare
            assert spare is not None
            assert session.channel.session.phase is Phase.CONNECTED
            calls = [card.transmit(COUNT, T1) for _ in range(20)]
            direct.pipes[-1].abort()
            for call in calls:
                await call
        assert desk.roads[0].dials == 1
        assert guest.status.sessions == 1
