"""Deadlines: a healthy link never breaks by itself, whatever the loop's timers are like, and one that does says so."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from cardferry.link import Guest, LinkServer
from cardferry.link.channel import Channel
from cardferry.link.guest_flapping import FEW, Flapping
from cardferry.manager import LocalManager
from cardferry.pcsc.errors import CardferryError
from cardferry.readers.virtual import VirtualReaderSource
from cardferry.transports.base import Pipe
from cardferry.transports.memory import memory_pipe
from cardferry.transports.unix import adopt
from cardferry.wire.link.greeting import Role
from cardferry.wire.link.session import Session, Timing
from tests.callers import TESTER
from tests.link.cards import COUNT, CountingCard
from tests.link.desk import ALICE, ANY, LEAVE, READER, SHARED, T1, Desk, SlowPipe
from tests.link.test_channel import Owner, channel
from tests.virtual_time import VirtualTimeLoop, quiet


@pytest.fixture(autouse=True)
def form() -> str:
    """Which form calls have makes no difference here, so the tests run once."""
    return ""


def test_a_deadline_nearer_than_a_tick_of_the_loop_does_not_break_the_pipe() -> None:
    """uvloop gives a plain handle, which knows no deadline, for what is due within half a millisecond."""

    async def whole() -> None:
        loop = asyncio.get_running_loop()
        assert not isinstance(loop.call_at(loop.time() + 1e-4, print), asyncio.TimerHandle), "why this test is there"
        ends: list[Channel] = []
        owners = [Owner(), Owner()]
        for role, owner in zip((Role.GUEST, Role.HOST), owners, strict=True):
            ends.append(Channel(Session(role, bytes(16), loop.time(), timing=Timing(ack_delay=1e-4)), owner))
        for end, pipe in zip(ends, memory_pipe(), strict=True):
            end.attach(pipe)
        while owners[0].heard != ["connected"] or owners[1].heard != ["connected"]:  # noqa: ASYNC110
            await asyncio.sleep(0)
        for number in range(100):  # two pieces in one pass: the second meets the timer that the first has set
            ends[0].send(b"%d" % number, urgent=True)
            ends[0].send(b"and", urgent=True)
            await asyncio.sleep(0)
        while len(owners[1].heard) < 201:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert owners[0].heard == ["connected"]
        assert owners[1].heard[-1] == b"and"

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        problems: list[object] = []
        runner.get_loop().set_exception_handler(lambda _, context: problems.append(context))
        runner.run(asyncio.wait_for(whole(), 20))
        assert problems == []


class _EarlyLoop(VirtualTimeLoop):
    """Its timers come a little early, as those of a loop do that counts in ms."""

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: object = None
    ) -> asyncio.TimerHandle:
        del context
        return super().call_at(when - min(0.0004, (when - self.time()) / 2), callback, *args)


def test_a_timer_that_comes_early_is_on_time_and_not_set_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks: list[float] = []
    tick = Session.tick

    def counted(session: Session, now: float) -> object:
        ticks.append(now)
        return tick(session, now)

    monkeypatch.setattr(Session, "tick", counted)

    async def whole() -> None:
        guest, owner = channel(Role.GUEST)
        host, _ = channel(Role.HOST)
        for end, pipe in zip((guest, host), memory_pipe(), strict=True):
            end.attach(pipe)
        await asyncio.sleep(10)
        assert owner.heard == ["connected"]
        assert not host.ended

    with asyncio.Runner(loop_factory=_EarlyLoop) as runner:
        runner.run(whole())
    assert len(ticks) <= 2 * 10 + 4, "each end looks once a second of silence"


# --- for real


async def _healthy(seconds: float, programs: int) -> None:
    """Links over 2 ms each way, begun at different moments between two ticks of the clock, and a program on each."""
    source = VirtualReaderSource()
    async with asyncio.TaskGroup() as tasks, LocalManager([source]) as manager, LinkServer(manager) as host:

        async def dial() -> Pipe:
            near, far = socket.socketpair()
            tasks.create_task(host.serve(SlowPipe(await adopt(far, "guest"), 0.002), TESTER))
            return SlowPipe(await adopt(near, "host"), 0.002)

        async def program(number: int) -> None:
            source.add_reader(f"{READER} {number}").insert(CountingCard())
            await asyncio.sleep(number * 0.00037)
            async with Guest(dial) as guest:
                await guest.ready()
                while guest.snapshot.find(f"{READER} {number}") is None:
                    await guest.changed(guest.snapshot.serial)
                card = await (await guest.open(ALICE)).connect(f"{READER} {number}", SHARED, ANY)
                until = asyncio.get_running_loop().time() + seconds
                done = 0
                while asyncio.get_running_loop().time() < until:
                    await card.begin()
                    for _ in range(3):
                        done += 1
                        assert await card.transmit(COUNT, T1) == done.to_bytes(4, "big") + b"\x90\0"
                    await card.end(LEAVE)
                status = guest.status
                assert (status.sessions, status.resumes, status.unexplained) == (1, 0, 0)

        async with asyncio.TaskGroup() as all_of_them:
            for number in range(programs):
                all_of_them.create_task(program(number))


def _run_healthy(seconds: float) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        problems: list[object] = []
        runner.get_loop().set_exception_handler(lambda _, context: problems.append(context))
        runner.run(_healthy(seconds, 4))
        assert problems == []


def test_an_honest_link_never_breaks() -> None:
    _run_healthy(10.0)


@pytest.mark.slow
def test_an_honest_link_never_breaks_for_a_minute() -> None:
    _run_healthy(60.0)


# --- a link that does


def test_mends_are_counted_over_an_hour_and_told_once() -> None:
    flapping = Flapping()
    assert [flapping.resumed(None, float(minute)) for minute in range(0, 3 * 60, 60)] == [False] * FEW
    assert flapping.resumed(AttributeError("no when"), 200.0)
    assert not flapping.resumed(None, 300.0)
    assert flapping.recent(300.0) == FEW + 2
    assert flapping.recent(3600.0 + 60) == FEW
    assert flapping.recent(4000.0) == 0
    assert [flapping.resumed(None, 4000.0 + minute) for minute in range(4)] == [False, False, False, True]


@pytest.mark.parametrize("error", [ConnectionResetError(), TimeoutError(), CardferryError("ssh says")])
def test_what_the_network_does_is_not_counted(error: Exception) -> None:
    flapping = Flapping()
    assert not any(flapping.resumed(error, float(number)) for number in range(10))
    assert flapping.recent(10.0) == 0


@pytest.mark.parametrize(("error", "said"), [(None, 1), (ConnectionResetError("by peer"), 0)])
async def test_a_link_that_is_mended_too_often_says_so(
    error: Exception | None, said: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with Desk() as desk:
        guest = await desk.guest()
        for number in range(8):
            assert guest.session is not None
            guest.session.channel.drop(error)
            while guest.status.resumes <= number:
                await guest._changes.wait()
            await asyncio.sleep(60)
        warnings = [record for record in caplog.records if "not because of the network" in record.message]
        assert len(warnings) == said
        assert all(record.levelno == logging.WARNING for record in warnings)
        assert guest.status.unexplained == (8 if said else 0)
        await quiet()
        assert guest.status.sessions == 1
