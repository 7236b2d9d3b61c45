"""What one guest can make the host do and keep: constant for each message, bounded between two turns of the loop, and
bounded for all guests together."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import pytest

from cardferry.link import Limits
from cardferry.link import messages as m
from cardferry.link.channel import SLICE
from cardferry.link.host_budget import CONTEXT, Budget
from cardferry.link.host_card import HostCard
from cardferry.link.host_lane import Lane
from cardferry.link.host_pace import CALL, Pace
from cardferry.link.host_queue import Job, JobQueue
from cardferry.pcsc.errors import ReturnCode
from cardferry.pcsc.reply import Reply, Start
from cardferry.transports.memory import memory_pipe
from cardferry.wire.link.frames import HEADER_SIZE, Kind
from cardferry.wire.link.frames import encode as frame
from cardferry.wire.link.greeting import Bye, Reason, Role
from tests.link.cards import COUNT
from tests.link.desk import ALICE, ANY, READER, SHARED, T1, Desk
from tests.link.test_channel import channel
from tests.link.test_hostile import Peer, guest_of
from tests.virtual_time import quiet


class Passes:
    """Counts what is done in each pass of the event loop, as long as anything is."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self._loop = asyncio.get_running_loop()
        self._pass = 0
        self._scheduled = False

    def count(self) -> None:
        self.counts[self._pass] += 1
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._next)

    def _next(self) -> None:
        self._scheduled = False
        self._pass += 1

    @property
    def most(self) -> int:
        return max(self.counts.values())


def answers(peer: Peer) -> list[m.Answer]:
    said = [m.decode_from_host(got.payload) for got in peer.frames if got.kind is Kind.DATA]
    return [one for one in said if isinstance(one, m.Answer)]


# --- each message costs the same


async def test_a_flood_of_cancels_looks_at_no_context_but_the_one_that_is_meant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[Job] = []
    monkeypatch.setattr(Lane, "cancel", lambda lane, job: looked.append(job))
    async with Desk() as desk:
        peer = await guest_of(desk)
        for number in range(1, 1001):
            peer.say(m.Open(number, "mallory", None, None, None))
        peer.say(m.Connect(0, 1, 1, READER, int(SHARED), 3, 2))
        peer.say(m.Connect(0, 2, 2, READER, int(SHARED), 3, 2))
        peer.say(m.Begin(1, 1))
        await quiet()
        peer.say(m.Begin(2, 2))  # waits
        for number in range(5000):
            peer.say(m.Cancel(number))
        await quiet()
        assert [job.message for job in looked] == [m.Begin(2, 2)], "and not a thousand contexts each time"
        assert peer.bye is None
        peer.pipe.close()
        await asyncio.sleep(11)


async def test_thousands_of_waiting_calls_are_cancelled_one_by_one_in_any_order() -> None:
    async with Desk() as desk:
        peer = await guest_of(desk)
        peer.say(m.Open(1, "mallory", None, None, None))
        peer.say(m.Open(2, "mallory", None, None, 600.0))
        for handle in (1, 2, 3):
            peer.say(m.Connect(0, min(handle, 2), handle, READER, int(SHARED), 3, 2))
        peer.say(m.Begin(1, 1))
        last = 8001
        for call in range(2, last + 1):
            peer.say(m.Transmit(call, 2 + call % 2, COUNT, 2))
        for call in range(last, 1, -1):
            peer.say(m.Cancel(call))
        await quiet()
        codes = Counter(answer.code for answer in answers(peer))
        assert codes == {0: 1, int(ReturnCode.E_CANCELLED): last - 1}
        (guest,) = desk.host.status.guests
        assert guest.waiting == 2, "the connects, for which nobody waits"
        peer.pipe.write(frame(Kind.BYE, 0, 0, Bye(Reason.CLOSED).encode()))
        await quiet()


def _drained(size: int, cards: list[HostCard]) -> float:
    """s for each call of a queue that is filled, and emptied from both its ends; the best of some tries."""
    best = float("inf")
    for _ in range(5):
        jobs = [Job(cards[number % 2], m.Status(number, 1), 0) for number in range(size)]
        queue = JobQueue()
        began = time.process_time()
        for job in jobs:
            queue.put(job)
        for job in jobs[: size // 2 : -1]:
            assert job in queue
            queue.remove(job)
        while queue:
            assert queue.has(queue.take().card) or len(queue) < 2
        best = min(best, (time.process_time() - began) / size)
    return best


def test_a_step_of_a_long_queue_costs_what_one_of_a_short_queue_costs() -> None:
    async def nothing() -> Any:
        raise AssertionError

    cards = [HostCard(number, READER, nothing, SHARED) for number in (1, 2)]
    assert _drained(16_000, cards) < 10 * _drained(250, cards), "64 times as long"


async def test_a_call_number_is_used_once() -> None:
    async with Desk() as desk:
        peer = await guest_of(desk)
        peer.say(m.Open(1, "mallory", None, None, None))
        peer.say(m.Connect(1, 1, 1, READER, int(SHARED), 3))
        peer.say(m.Status(1, 1))
        await quiet()
        assert peer.bye is not None
        assert (peer.bye.reason, peer.bye.text) == (Reason.PROTOCOL, "call 1 was made before")


# --- between two turns of the loop


async def test_of_what_comes_in_one_piece_a_little_is_dealt_with_in_each_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host, heard = channel(Role.HOST)
    guest, _ = channel(Role.GUEST)
    for end, pipe in zip((guest, host), memory_pipe(), strict=True):
        end.attach(pipe)
    await quiet()
    passes = Passes()
    monkeypatch.setattr(heard, "message", lambda payload: passes.count())
    everything = b"".join(frame(Kind.DATA, number, 0, b"x") for number in range(1, 5001))
    host.received(everything[:100_000])
    host.received(everything[100_000:])
    assert host.unread > 0
    guest.drop()
    await quiet()
    assert sum(passes.counts.values()) == 5000, "all of it, although the pipe is lost meanwhile"
    assert passes.most <= SLICE // (HEADER_SIZE + 1) + 1
    assert host.unread == 0
    host.close(Bye(Reason.CLOSED))


async def test_a_large_message_is_dealt_with_at_once() -> None:
    host, heard = channel(Role.HOST)
    guest, _ = channel(Role.GUEST)
    for end, pipe in zip((guest, host), memory_pipe(), strict=True):
        end.attach(pipe)
    await quiet()
    host.received(frame(Kind.DATA, 1, 0, bytes(70_000)))
    assert heard.heard[-1] == bytes(70_000)
    for end in (guest, host):
        end.close(Bye(Reason.CLOSED))


async def test_calls_of_many_contexts_are_carried_out_a_few_in_each_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Desk() as desk:
        peer = await guest_of(desk)
        passes, closes = Passes(), Passes()
        perform, close = HostCard.perform, Lane.close

        def counted(card: HostCard, message: m.Call, start: Start) -> Reply[Any]:
            passes.count()
            return perform(card, message, start)

        def closing(lane: Lane) -> None:
            closes.count()
            close(lane)

        monkeypatch.setattr(HostCard, "perform", counted)
        monkeypatch.setattr(Lane, "close", closing)
        for number in range(1, 1001):
            peer.say(m.Open(number, "mallory", None, None, None))
            peer.say(m.Connect(number, number, number, READER, int(SHARED), 3))
        await quiet()
        assert len(answers(peer)) == 1000
        assert passes.most <= 64 // CALL
        peer.pipe.write(frame(Kind.BYE, 0, 0, Bye(Reason.CLOSED).encode()))
        await quiet()
        assert sum(closes.counts.values()) == 1000
        assert closes.most <= 64 // CALL
        assert not desk.manager.contexts


async def test_who_waits_for_its_pace_goes_on_in_order() -> None:
    pace, done = Pace(), []

    async def one(number: int) -> None:
        await pace.step(CALL)
        done.append(number)

    async with asyncio.TaskGroup() as tasks:
        made = [tasks.create_task(one(number)) for number in range(100)]
        await asyncio.sleep(0)
        made[50].cancel()
    assert done == [number for number in range(100) if number != 50]


# --- memory, for all guests together


async def test_the_guest_that_makes_the_host_keep_most_has_to_go_when_it_is_too_much_for_all_together() -> None:
    async with Desk(limits=Limits(memory=200 * CONTEXT)) as desk:
        honest = await desk.guest()
        card = await (await honest.open(ALICE, 1.0)).connect(READER, SHARED, ANY)
        greedy = await guest_of(desk)
        for number in range(1, 180):
            greedy.say(m.Open(number, "mallory", None, None, None))
        await quiet()
        assert not greedy.is_lost
        for number in range(180, 300):
            greedy.say(m.Open(number, "mallory", None, None, None))
        await quiet()
        assert greedy.bye is not None
        assert greedy.bye.reason is Reason.LIMIT
        assert "for all guests together" in greedy.bye.text
        assert await card.transmit(COUNT, T1) == b"\0\0\0\1\x90\0"
        assert len(desk.host.status.guests) == 1
        assert desk.host.budget.total < 10 * CONTEXT


async def test_answers_that_nobody_reads_count(caplog: pytest.LogCaptureFixture) -> None:
    async with Desk(limits=Limits(memory=1 << 20)) as desk:
        honest = await desk.guest()
        card = await (await honest.open(ALICE, 1.0)).connect(READER, SHARED, ANY)
        peer = await guest_of(desk)
        peer.say(m.Open(1, "mallory", None, None, None))
        peer.say(m.Connect(0, 1, 1, READER, int(SHARED), 3, 2))
        peer.pipe.pause_reading()
        for call in range(1, 8000):
            peer.say(m.Status(call, 1))
        await asyncio.sleep(0.5)
        assert len(desk.host.status.guests) == 1
        assert "for all guests together" in caplog.text
        assert await card.transmit(COUNT, T1) == b"\0\0\0\1\x90\0"


class Keeper:
    def __init__(self) -> None:
        self.memory = 0
        self.told: list[int] = []

    def exceeded(self, most: int) -> None:
        self.told.append(most)


def test_accounts_are_brought_up_to_date_before_anybody_has_to_go() -> None:
    budget, keepers = Budget(100), [Keeper() for _ in range(3)]
    for keeper in keepers:
        budget.open(keeper)
    keepers[0].memory = 90
    budget.update(keepers[0])
    keepers[0].memory, keepers[1].memory, keepers[2].memory = 10, 60, 20
    budget.update(keepers[1])
    assert budget.total == 90
    keepers[2].memory = 40
    budget.update(keepers[2])
    assert [keeper.told for keeper in keepers] == [[], [100], []]
    assert budget.total == 50
    budget.update(keepers[1])
    budget.close(keepers[1])
    assert budget.total == 50
    for keeper in keepers:
        budget.close(keeper)
    assert budget.total == 0


async def test_no_account_is_left_when_everybody_has_gone() -> None:
    async with Desk() as desk:
        peer = await guest_of(desk)
        for number in range(1, 101):
            peer.say(m.Open(number, "mallory", None, None, None))
            peer.say(m.Connect(0, number, number, READER, int(SHARED), 3, 2))
        await quiet()
        assert desk.host.budget.total > 90 * CONTEXT
        peer.pipe.abort()
        await asyncio.sleep(11)
        await quiet()
        assert desk.host.budget.total == 0
