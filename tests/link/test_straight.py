"""Begin, end and transmit go straight through both ends: when, in which order, and that nothing is left over.

"At once" is what `Reply.done` says right after the call: then the guest has not waited for the host.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from cardferry.link import Guest
from cardferry.link.guest_card import GuestCard
from cardferry.link.guest_session import GuestSession
from cardferry.link.host_card import HostCard
from cardferry.link.host_session import HostSession
from cardferry.pcsc.constants import Disposition, Protocol
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.reply import Reply, failed
from cardferry.wire.link.session import Bounds
from tests.link.cards import COUNT, FileCard
from tests.link.desk import ALICE, ANY, BOB, LEAVE, READER, RESET, SHARED, T1, UNPOWER, Desk, raises

DELAY = 0.025
GET = bytes.fromhex("00ca000000")
GET_RESPONSE = bytes.fromhex("00c0000064")


async def connected(guest: Guest, patience: float | None = 1.0) -> GuestCard:
    """A program's handle, known to be in order; it has sent two commands."""
    card = await (await guest.open(ALICE, patience)).connect(READER, SHARED, ANY)
    await card.begin()
    await card.transmit(COUNT, T1)
    await card.end(LEAVE)
    await asyncio.sleep(4 * DELAY)
    await card.transmit(COUNT, T1)
    return card


def answer(number: int) -> bytes:
    """What a card says to its command of that number."""
    return number.to_bytes(4, "big") + b"\x90\0"


def at_once(reply: Reply[None]) -> bool:
    """Whether a call is over without waiting. One that is not is taken back."""
    if reply.done():
        reply.result()
        return True
    reply.cancel()
    return False


def session_of(guest: Guest) -> GuestSession:
    session = guest.session
    assert session is not None
    return session


def host_session(desk: Desk) -> HostSession:
    (session,) = desk.host._sessions.values()
    return session


def host_card(desk: Desk) -> HostCard:
    """The first handle, as the host has it."""
    (card, _), *_ = host_session(desk)._cards.values()
    return card


def holder(desk: Desk) -> str:
    """Who has the card."""
    return desk.manager.status.readers[0].holder or ""


def nothing_under_way(desk: Desk, guest: Guest) -> bool:
    """Whether neither end believes that there is a call."""
    there, near = host_session(desk), session_of(guest)
    counts = (there._jobs, there._job_bytes, len(near._calls), near._call_bytes)
    return counts == (0, 0, 0, 0)


def reader_fails(desk: Desk, code: ReturnCode) -> None:
    desk.reader.transmit = lambda apdu, protocol: failed(PcscError(code))  # type: ignore[method-assign]


# the guest's end


async def test_a_transaction_without_waiting() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        card = await connected(guest)
        tasks = asyncio.all_tasks()
        assert card.begin().done()
        command = card.transmit(COUNT, T1)
        assert session_of(guest).unseen == 1
        assert await command == answer(3)
        assert session_of(guest).unseen == 0, "what came before the answer has been carried out"
        assert card.end(LEAVE).done()
        await asyncio.sleep(1)
        assert asyncio.all_tasks() == tasks, "neither end has made a task that stays"
        assert nothing_under_way(desk, guest)
        assert not holder(desk)
        with raises(ReturnCode.E_NOT_TRANSACTED):
            await card.end(LEAVE)


async def test_no_end_makes_a_task_for_a_transaction() -> None:
    async with Desk(delay=DELAY) as desk:
        card = await connected(await desk.guest())
        made: list[object] = []
        loop = asyncio.get_running_loop()

        def make(loop: asyncio.AbstractEventLoop, work: Any, **named: Any) -> asyncio.Task[Any]:
            made.append(work)
            return asyncio.Task(work, loop=loop, **named)

        loop.set_task_factory(make)
        try:
            assert card.begin().done()
            command = card.transmit(COUNT, T1)
            assert card.end(LEAVE).done()
            assert await command == answer(3)
        finally:
            loop.set_task_factory(None)
        assert made == []


@pytest.mark.parametrize("disposition", [RESET, UNPOWER])
async def test_an_end_that_resets_waits_for_the_host(disposition: Disposition) -> None:
    async with Desk(delay=DELAY) as desk:
        card = await connected(await desk.guest())
        assert card.begin().done()
        ending = card.end(disposition)
        assert not ending.done()
        await ending
        assert desk.card.resets + (disposition is UNPOWER) == 1
        assert not holder(desk)


async def test_a_handle_in_doubt_does_nothing_without_waiting() -> None:
    async with Desk(delay=DELAY) as desk:
        card = await connected(await desk.guest())
        assert card.begin().done()
        desk.reader.remove()
        desk.reader.insert(desk.card)
        with raises(ReturnCode.W_REMOVED_CARD):
            await card.transmit(COUNT, T1)
        assert not at_once(card.end(LEAVE))
        assert not at_once(card.begin())
        await card.reconnect(SHARED, ANY, LEAVE)
        assert card.begin().done()
        assert card.end(LEAVE).done()


async def test_an_error_that_says_nothing_about_the_handle_leaves_it_in_order() -> None:
    async with Desk(delay=DELAY) as desk:
        card = await connected(await desk.guest())
        with raises(ReturnCode.E_PROTO_MISMATCH):
            await card.transmit(COUNT, Protocol.T0)
        assert card.begin().done()
        assert card.end(LEAVE).done()


async def test_after_an_error_of_the_reader_the_handle_is_in_doubt() -> None:
    async with Desk(delay=DELAY) as desk:
        card = await connected(await desk.guest())
        reader_fails(desk, ReturnCode.F_COMM_ERROR)
        with raises(ReturnCode.F_COMM_ERROR):
            await card.transmit(COUNT, T1)
        assert not at_once(card.begin())
        await card.status()
        del desk.reader.transmit
        await card.transmit(COUNT, T1)
        assert card.begin().done()
        assert card.end(LEAVE).done()


async def test_a_closed_handle_and_one_whose_context_is_closed() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        closed = await connected(guest)
        context = await guest.open(BOB, 1.0)
        freed = await context.connect(READER, SHARED, ANY)
        await closed.disconnect(LEAVE)
        await context.close()
        before = desk.card.count
        for card in (closed, freed):
            for call in (card.begin(), card.transmit(COUNT, T1), card.end(LEAVE)):
                with raises(ReturnCode.E_INVALID_HANDLE):
                    call.result()
        await asyncio.sleep(1)
        assert desk.card.count == before
        assert nothing_under_way(desk, guest)


async def test_while_the_host_does_not_keep_up_calls_wait_in_order() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest(bounds=Bounds(full_frames=2))
        card = await connected(guest)
        assert card.begin().done()
        assert card.begin().done()
        assert session_of(guest).full
        calls: list[Reply[bytes] | Reply[None]] = [card.begin(), card.transmit(COUNT, T1)]
        assert [call.done() for call in calls] == [False, False]
        assert not session_of(guest)._calls, "nothing has been said"
        assert await calls[1] == answer(3)
        assert calls[0].done()
        for _ in range(3):
            await card.end(LEAVE)
        await asyncio.sleep(1)
        assert not holder(desk)
        assert nothing_under_way(desk, guest)


async def test_a_transaction_that_would_wait_for_ourselves_is_for_the_host_to_refuse() -> None:
    async with Desk(delay=DELAY) as desk:
        context = await (await desk.guest()).open(ALICE, 1.0)
        one = await context.connect(READER, SHARED, ANY)
        two = await context.connect(READER, SHARED, ANY)
        await one.status()
        await two.status()
        assert one.begin().done()
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await two.begin()
        assert one.end(LEAVE).done()
        assert two.begin().done()
        assert two.end(LEAVE).done()


async def test_more_calls_than_the_host_allows() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        cards = [await connected(guest) for _ in range(3)]
        before = desk.card.count
        session = session_of(guest)
        welcome = session.welcome
        session._welcome = type(welcome)(welcome.contexts, welcome.handles, 64, len(COUNT) * 2)
        commands = [card.transmit(COUNT, T1) for card in cards[:2]]
        assert session._call_bytes == 2 * len(COUNT)
        with raises(ReturnCode.E_NO_MEMORY):  # too many bytes
            cards[2].transmit(COUNT, T1).result()
        for command in commands:
            await command
        assert session._call_bytes == 0
        session._welcome = type(welcome)(welcome.contexts, welcome.handles, 1, 1000)
        command = cards[0].transmit(COUNT, T1)
        with raises(ReturnCode.E_NO_MEMORY):  # too many calls
            cards[1].transmit(COUNT, T1).result()
        await command
        assert desk.card.count == before + 3
        assert nothing_under_way(desk, guest)


async def test_what_has_come_ahead_is_used_and_the_card_is_asked_once_for_it() -> None:
    async with Desk(FileCard(bytes(range(200)), 100), delay=DELAY, card_delay=0.001) as desk:
        card = await (await (await desk.guest()).open(ALICE, 1.0)).connect(READER, SHARED, ANY)
        await card.begin()
        assert (await card.transmit(GET, T1))[-2] == 0x61
        assert card.foreseen.origin
        rest = card.transmit(GET_RESPONSE, T1)
        assert await rest == bytes(range(100, 200)) + b"\x90\0"
        assert cast(FileCard, desk.card).seen.count(GET_RESPONSE) == 1
        assert card.foreseen.hits == 1
        await card.end(LEAVE)


async def test_the_session_ends_with_a_command_under_way() -> None:
    async with Desk(delay=DELAY, card_delay=5) as desk:
        guest = await desk.guest()
        card = await (await guest.open(ALICE, 1.0)).connect(READER, SHARED, ANY)
        await card.status()
        answers: list[object] = []
        command = card.transmit(COUNT, T1).then(answers.append)
        await asyncio.sleep(1)
        road = desk.roads[-1]
        road.open = False
        road.cut()
        with raises(ReturnCode.E_READER_UNAVAILABLE):
            await command
        await asyncio.sleep(10)
        assert len(answers) == 1
        for call in (card.transmit(COUNT, T1), card.begin()):
            with raises(ReturnCode.E_READER_UNAVAILABLE):
                call.result()
        assert desk.card.count == 1


async def test_a_pipe_that_breaks_with_a_command_under_way() -> None:
    async with Desk(delay=DELAY, card_delay=0.1) as desk:
        guest = await desk.guest()
        card = await connected(guest)
        command = card.transmit(COUNT, T1)
        await asyncio.sleep(0.05)
        desk.roads[-1].cut()
        assert await command == answer(3)
        await asyncio.sleep(1)
        assert nothing_under_way(desk, guest)


async def test_a_command_that_may_not_be_kept_ends_the_session_after_the_call_has_begun() -> None:
    bounds = Bounds(full_frames=1000, full_bytes=1 << 20, most_bytes=2000)
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest(bounds=bounds)
        card = await (await guest.open(ALICE, 1.0)).connect(READER, SHARED, ANY)
        await card.status()
        await asyncio.sleep(1)
        command = card.transmit(bytes(3000), T1)
        assert not command.done()
        with raises(ReturnCode.E_READER_UNAVAILABLE):
            await command


# the host's end


async def test_for_a_guest_that_takes_no_answers_no_more_commands_are_carried_out() -> None:
    async with Desk(bounds=Bounds(full_frames=3)) as desk:
        guest = await desk.guest()
        cards = [await connected(guest) for _ in range(6)]
        await asyncio.sleep(1)  # what the guest is told of that takes room, too
        before = desk.card.count
        near, _ = desk.roads[0].pipes[-1]
        near.pause_reading()
        commands = []
        for card in cards:
            commands.append(card.transmit(COUNT, T1))
            await asyncio.sleep(0.1)
        assert desk.card.count == before + 3, "as many as there is room for answers"
        near.resume_reading()
        assert sorted([await command for command in commands]) == [answer(before + n) for n in range(1, 7)]
        await asyncio.sleep(1)
        assert nothing_under_way(desk, guest)


async def test_what_runs_ahead_for_one_card_goes_before_the_next_call_of_the_context() -> None:
    async with Desk(FileCard(bytes(range(200)), 100), delay=DELAY, card_delay=0.5) as desk:
        context = await (await desk.guest()).open(ALICE, 1.0)
        other = FileCard()
        desk.source.add_reader("Reader 01 00", 0.01).insert(other)
        await asyncio.sleep(1)
        near_it = await context.connect("Reader 01 00", SHARED, ANY)
        await near_it.transmit(COUNT, T1)
        card = await context.connect(READER, SHARED, ANY)
        await card.begin()
        await card.transmit(COUNT, T1)
        assert (await card.transmit(GET, T1))[-2] == 0x61
        command = near_it.transmit(COUNT, T1)
        await asyncio.sleep(0.4)
        assert not command.done()
        assert len(other.seen) == 1, "the rest of the response is being fetched"
        await command
        assert len(cast(FileCard, desk.card).seen) == 3
        assert len(other.seen) == 2
        await card.end(LEAVE)


async def test_the_context_closes_with_a_command_under_way() -> None:
    async with Desk(delay=DELAY, card_delay=1.0) as desk:
        guest = await desk.guest()
        context = await guest.open(ALICE, 1.0)
        card = await context.connect(READER, SHARED, ANY)
        await card.begin()
        await card.transmit(COUNT, T1)
        answers: list[object] = []
        card.transmit(COUNT, T1).then(answers.append)
        await asyncio.sleep(0.5)
        await context.close()
        await asyncio.sleep(2)
        assert len(answers) == 1
        assert nothing_under_way(desk, guest)
        assert desk.card.resets == 1
        assert not desk.manager.contexts


async def test_calls_of_one_context_are_carried_out_in_their_order() -> None:
    """Some on one handle, some on another one."""
    async with Desk(delay=DELAY, card_delay=0.01) as desk:
        guest = await desk.guest()
        context = await guest.open(ALICE, None)
        one = await context.connect(READER, SHARED, ANY)
        two = await context.connect(READER, SHARED, ANY)
        seen: list[bytes] = []
        process = desk.card.process

        def recorded(apdu: bytes) -> bytes:
            seen.append(apdu)
            return process(apdu)

        desk.card.process = recorded  # type: ignore[method-assign]
        expected = [b"\x80" + number.to_bytes(4, "big") for number in range(20)]
        commands = [(two if number % 3 else one).transmit(apdu, T1) for number, apdu in enumerate(expected)]
        answers = [await command for command in commands]
        assert seen == expected
        assert answers == sorted(answers)
        await asyncio.sleep(1)
        assert nothing_under_way(desk, guest)


async def test_who_waits_behind_a_command_gets_its_turn_and_its_patience() -> None:
    async with Desk(delay=DELAY, card_delay=0.5) as desk:
        guest = await desk.guest()
        context = await guest.open(ALICE, 0.2)
        one = await context.connect(READER, SHARED, ANY)
        two = await context.connect(READER, SHARED, ANY)
        await one.transmit(COUNT, T1)
        first, second = one.transmit(COUNT, T1), two.transmit(COUNT, T1)
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await second
        assert await first == answer(2)
        await asyncio.sleep(1)
        assert nothing_under_way(desk, guest)
        assert desk.card.count == 2
        assert await two.transmit(COUNT, T1) == answer(3)


async def test_how_long_the_card_takes_is_measured() -> None:
    async with Desk(delay=DELAY, card_delay=0.01) as desk:
        await connected(await desk.guest())
        assert host_card(desk).seconds == pytest.approx(0.01, abs=0.001)


# transactions that are owed


async def test_a_transaction_that_waits_its_turn_comes_before_the_command() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        card = await connected(guest, None)
        bob = await (await desk.manager.open(BOB)).connect(READER, SHARED, ANY)
        await bob.begin()
        assert card.begin().done()
        command = card.transmit(COUNT, T1)
        await asyncio.sleep(1)
        assert not command.done()
        await bob.transmit(COUNT, T1)
        await bob.end(LEAVE)
        assert await command == answer(4)
        assert holder(desk)
        assert card.end(LEAVE).done()
        await asyncio.sleep(1)
        assert not holder(desk)
        assert nothing_under_way(desk, guest)


async def test_a_begin_that_ran_out_of_patience_is_made_up_for_by_the_command() -> None:
    async with Desk(delay=DELAY) as desk:
        card = await connected(await desk.guest(), 0.2)
        bob = await (await desk.manager.open(BOB)).connect(READER, SHARED, ANY)
        await bob.begin()
        assert card.begin().done()
        await asyncio.sleep(1)
        await bob.end(LEAVE)
        await asyncio.sleep(1)
        assert not holder(desk), "and no place in the queue is kept any more"
        known = host_card(desk)
        assert card.begin().done()
        await asyncio.sleep(1)
        assert (known.depth, known.owed) == (0, 2), "what is owed comes first"
        await card.transmit(COUNT, T1)
        assert (known.depth, known.owed) == (2, 0)
        assert holder(desk), "the transaction that was owed"
        assert card.end(LEAVE).done()
        assert card.end(LEAVE).done()
        await asyncio.sleep(1)
        assert not holder(desk)


async def test_an_owed_transaction_that_ends_is_not_begun() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        card = await connected(guest, 0.2)
        bob = await (await desk.manager.open(BOB)).connect(READER, SHARED, ANY)
        await bob.begin()
        assert card.begin().done()
        await asyncio.sleep(1)
        assert card.end(LEAVE).done()
        await asyncio.sleep(1)
        assert not desk.manager.status.readers[0].waiters
        await bob.end(LEAVE)
        await asyncio.sleep(1)
        assert not holder(desk)
        await bob.disconnect(LEAVE)
        await asyncio.sleep(1)
        await card.transmit(COUNT, T1)
        assert card.begin().done()
        assert card.end(LEAVE).done()
        await card.transmit(COUNT, T1)
        await asyncio.sleep(1)
        assert nothing_under_way(desk, guest)


@pytest.mark.parametrize("lost_by", ["the card is taken out", "the reader says that it was reset"])
async def test_a_transaction_that_was_lost_is_not_counted_any_more(lost_by: str) -> None:
    async with Desk(delay=DELAY) as desk:
        card = await connected(await desk.guest())
        assert card.begin().done()
        await card.transmit(COUNT, T1)
        known = host_card(desk)
        assert (known.depth, known.owed) == (1, 0)
        if lost_by == "the card is taken out":
            desk.reader.remove()
        else:
            reader_fails(desk, ReturnCode.W_RESET_CARD)
        with pytest.raises(PcscError):
            await card.transmit(COUNT, T1)
        assert (known.depth, known.owed) == (0, 0)


# a broken handle


async def test_nothing_is_done_through_a_handle_whose_connect_has_failed() -> None:
    """The program was told that it succeeded."""
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        await connected(guest)
        before = desk.card.count
        context = await guest.open(ALICE, 0.2)
        desk.reader.remove()
        card = await context.connect(READER, SHARED, ANY)
        begun, command = card.begin(), card.transmit(COUNT, T1)
        assert begun.done()
        with raises(ReturnCode.W_REMOVED_CARD):
            await command
        desk.reader.insert(desk.card)
        await asyncio.sleep(1)
        with raises(ReturnCode.W_REMOVED_CARD):
            await card.transmit(COUNT, T1)
        assert desk.card.count == before


async def test_a_begin_behind_one_that_failed_does_nothing() -> None:
    async with Desk(delay=DELAY) as desk:
        card = await connected(await desk.guest())
        before = desk.card.count

        def fail(*, alone: bool = False) -> Reply[bool]:
            del desk.reader.claim
            return failed(PcscError(ReturnCode.F_COMM_ERROR))

        desk.reader.claim = fail  # type: ignore[method-assign]
        assert card.begin().done()
        await asyncio.sleep(0.002)  # so long it waits for company
        assert card.begin().done()
        await asyncio.sleep(1)
        known = host_card(desk)
        assert (known.depth, known.owed) == (0, 0)
        assert known.broken is not None
        assert not holder(desk)
        with raises(ReturnCode.F_COMM_ERROR):
            await card.transmit(COUNT, T1)
        assert desk.card.count == before
