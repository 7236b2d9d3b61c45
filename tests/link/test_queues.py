"""How long a reader's queue is: asked of the host, at the moment when somebody wants to know."""

from __future__ import annotations

import pytest

from cardferry.link import LinkState
from cardferry.link import messages as m
from cardferry.link.guest_session import GuestSession
from cardferry.link.host_session import HostSession
from cardferry.pcsc.errors import ReturnCode
from cardferry.pcsc.interface import ResourceManager
from cardferry.pcsc.reader_state import Queue
from cardferry.pcsc.reply import running
from tests.link.cards import COUNT
from tests.link.desk import ALICE, ANY, BOB, LEAVE, READER, SHARED, T1, Desk, becomes, raises
from tests.virtual_time import quiet


async def length(manager: ResourceManager) -> Queue:
    """Of the reader."""
    (reader,) = manager.snapshot.readers
    assert reader.queue is not None
    return await reader.queue()


@pytest.mark.parametrize("far", [False, True])
async def test_it_counts_who_has_the_card_who_waits_and_who_has_just_come(far: bool) -> None:
    async with Desk(delay=0.01) as desk:
        here: ResourceManager = await desk.guest() if far else desk.manager
        assert await length(here) == Queue(0, 0)
        cards = [await (await desk.manager.open(who)).connect(READER, SHARED, ANY) for who in (ALICE, BOB, ALICE)]
        assert await length(here) == Queue(3, 3)
        await cards[0].transmit(COUNT, T1)
        assert await length(here) == Queue(2, 3)  # it has done something, and wants nothing now
        await cards[0].begin()
        waiting = cards[1].begin()
        await quiet()
        assert await length(here) == Queue(3, 3)
        await cards[0].end(LEAVE)
        await waiting
        await cards[1].end(LEAVE)
        for card in cards:
            await card.disconnect(LEAVE)
        assert await length(here) == Queue(0, 0)


async def test_of_a_reader_that_has_gone_nobody_knows() -> None:
    async with Desk() as desk:
        guest = await desk.guest()
        with raises(ReturnCode.E_READER_UNAVAILABLE):
            await guest.queue("Another reader")


async def test_a_question_that_is_given_up_disturbs_nobody() -> None:
    async with Desk(delay=0.01) as desk:
        guest = await desk.guest()
        question = guest.queue(READER)
        question.cancel()
        assert await guest.queue(READER) == Queue(0, 0)


async def test_an_older_host_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    welcomed = GuestSession._welcomed

    def as_before(session: GuestSession, message: m.Welcome) -> None:
        most = message.contexts, message.handles, message.calls, message.call_bytes
        welcomed(session, m.Welcome(*most, message.memory))

    monkeypatch.setitem(GuestSession._HANDLERS, m.Welcome, as_before)
    monkeypatch.delitem(HostSession._HANDLERS, m.AskQueue)
    async with Desk() as desk:
        guest = await desk.guest()
        await (await desk.manager.open(BOB)).connect(READER, SHARED, ANY)
        while not guest.snapshot.readers[0].sharing:
            await guest.changed(guest.snapshot.serial)
        assert await guest.queue(READER) == Queue(0, 1)
        with raises(ReturnCode.E_READER_UNAVAILABLE):
            await guest.queue("Another reader")


@pytest.mark.parametrize(
    "message", [m.QueueLength(1, 0), m.QueueLength(99, None)], ids=["a call that asked for another thing", "no call"]
)
async def test_an_answer_that_nobody_has_asked_for_ends_the_session(message: m.QueueLength) -> None:
    async with Desk() as desk:
        guest = await desk.guest()
        session = guest.session
        assert session is not None
        context = await guest.open(ALICE)
        connecting = running(context.connect(READER, SHARED, ANY))
        (host,) = desk.host._sessions.values()
        host._post(message, now=True)
        await becomes(guest, LinkState.DOWN)
        assert session.dead
        connecting.cancel()
