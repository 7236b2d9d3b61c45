"""What guests and hosts do without a task: when, in which order, and that nothing is left over, whatever happens.

That it is the same as what the coroutines do is what all other tests in this folder see to, which run in both forms.
"""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from cardferry.link import Guest
from cardferry.link.guest_card import GuestCard
from cardferry.link.guest_session import GuestSession
from cardferry.link.host_session import HostSession
from cardferry.manager.card import LocalCard
from cardferry.pcsc.constants import MAX_APDU_SIZE, Protocol
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.wire.link.session import Bounds
from tests.link.cards import COUNT, FileCard
from tests.link.desk import ALICE, ANY, BOB, LEAVE, READER, RESET, SHARED, T1, UNPOWER, Desk, raises
from tests.link.forms import AT_ONCE, FORMS, Sent, at_once_at_both_ends, readers_at_once

DELAY = 0.025
GET = bytes.fromhex("00ca000000")


@pytest.fixture(autouse=True)
def form() -> None:
    """These tests choose the form themselves."""


@pytest.fixture
def host_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's readers do at once what they can."""
    readers_at_once(monkeypatch)


async def connected(guest: Guest, patience: float | None = 1.0) -> GuestCard:
    """A program's handle, known to be in order."""
    card = await (await guest.open(ALICE, patience)).connect(READER, SHARED, ANY)
    await card.begin()
    await card.transmit(COUNT, T1)
    await card.end(LEAVE)
    await card.transmit(COUNT, T1)
    await asyncio.sleep(4 * DELAY)
    return card


def sent(card: GuestCard, apdu: bytes = COUNT) -> Sent:
    """A command that leaves at once."""
    command = Sent()
    assert command.off(card, apdu, T1)
    return command


def leaves(card: GuestCard, apdu: bytes = COUNT) -> bool:
    """Whether a command would leave now; it must not."""
    return Sent().off(card, apdu, T1)


def session_of(guest: Guest) -> GuestSession:
    session = guest.session
    assert session is not None
    return session


def host_session(desk: Desk) -> HostSession:
    (session,) = desk.host._sessions.values()
    return session


def holder(desk: Desk) -> str:
    """Who has the card."""
    return desk.manager.status.readers[0].holder or ""


def nothing_under_way(desk: Desk, guest: Guest) -> bool:
    """Whether neither end believes that there is a call."""
    there, near = host_session(desk), session_of(guest)
    counts = (there._jobs, there._job_bytes, len(near._calls), near._call_bytes)
    return counts == (0, 0, 0, 0)


@pytest.mark.parametrize("chosen", FORMS)
async def test_the_form_is_the_one_that_was_chosen(chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    count = {"begin_at_once": 0, "end_at_once": 0, "transmit_at_once": 0}
    for kind in (GuestCard, LocalCard):
        for name in count:

            def counted(card: object, *args: object, name: str = name, call: object = getattr(kind, name)) -> bool:
                done: bool = call(card, *args)  # type: ignore[operator]
                count[name] += done
                return done

            monkeypatch.setattr(kind, name, counted)
    if chosen == AT_ONCE:
        at_once_at_both_ends(monkeypatch)
    async with Desk(delay=DELAY) as desk:
        await connected(await desk.guest())
        for name in count:
            count[name] = 0
        card = await connected(await desk.guest())
        assert card.protocol == T1
    if chosen == AT_ONCE:
        assert all(count.values())
    else:
        assert count["transmit_at_once"] == 0


# the guest's end


async def test_a_transaction_without_waiting(host_at_once: None) -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        card = await connected(guest)
        assert card.begin_at_once()
        command = sent(card)
        assert session_of(guest).unseen == 1
        assert await command.answer == b"\0\0\0\3\x90\0"
        assert session_of(guest).unseen == 0, "what came before the answer has been carried out"
        assert card.end_at_once(LEAVE)
        assert not card.end_at_once(LEAVE), "it has ended"
        await asyncio.sleep(1)
        assert nothing_under_way(desk, guest)
        assert not holder(desk)


@pytest.mark.parametrize("disposition", [RESET, UNPOWER])
async def test_an_end_that_resets_waits_for_the_host(disposition: object) -> None:
    async with Desk(delay=DELAY) as desk:
        card = await connected(await desk.guest())
        assert card.begin_at_once()
        assert not card.end_at_once(disposition)  # type: ignore[arg-type]
        assert card.end_at_once(LEAVE)


async def test_a_handle_in_doubt_does_nothing_without_waiting() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        card = await connected(guest)
        assert card.begin_at_once()
        desk.reader.remove()
        desk.reader.insert(desk.card)
        command = sent(card)
        with raises(ReturnCode.W_REMOVED_CARD):
            await command.answer
        assert not card.begin_at_once()
        assert not card.end_at_once(LEAVE)
        await card.reconnect(SHARED, ANY, LEAVE)
        assert card.begin_at_once()
        assert card.end_at_once(LEAVE)


async def test_an_error_that_says_nothing_about_the_handle_leaves_it_in_order() -> None:
    async with Desk(delay=DELAY) as desk:
        card = await connected(await desk.guest())
        command = Sent()
        assert command.off(card, COUNT, Protocol.T0)
        with raises(ReturnCode.E_PROTO_MISMATCH):
            await command.answer
        assert card.begin_at_once()
        assert card.end_at_once(LEAVE)


async def test_after_an_error_of_the_reader_the_handle_is_in_doubt(host_at_once: None) -> None:
    async with Desk(delay=DELAY) as desk:
        card = await connected(await desk.guest())

        async def broken(apdu: bytes, protocol: object) -> bytes:
            raise PcscError(ReturnCode.F_COMM_ERROR)

        desk.reader.transmit = broken  # type: ignore[method-assign]
        with raises(ReturnCode.F_COMM_ERROR):
            await sent(card).answer
        assert not card.begin_at_once()
        await card.status()
        assert card.begin_at_once()
        assert card.end_at_once(LEAVE)


async def test_a_closed_handle_and_one_whose_context_is_closed() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        closed, freed = await connected(guest), await connected(guest)
        assert closed.begin_at_once()
        await closed.disconnect(LEAVE)
        await freed._context.close()
        for card in (closed, freed):
            assert not leaves(card)
            assert not card.begin_at_once()
            assert not card.end_at_once(LEAVE)


async def test_what_is_too_long_does_not_leave() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        card = await connected(guest)
        assert not leaves(card, bytes(MAX_APDU_SIZE + 1))
        assert nothing_under_way(desk, guest)


async def test_while_the_host_does_not_keep_up_nothing_is_done_without_waiting() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest(bounds=Bounds(full_frames=2))
        card = await connected(guest)
        assert card.begin_at_once()
        assert card.begin_at_once()
        assert session_of(guest).crowded
        assert not leaves(card)
        assert not card.begin_at_once()
        assert not card.end_at_once(LEAVE)
        await asyncio.sleep(1)
        assert card.end_at_once(LEAVE)
        assert card.end_at_once(LEAVE)


async def test_a_transaction_that_waits_for_ourselves_is_not_begun() -> None:
    async with Desk(delay=DELAY) as desk:
        context = await (await desk.guest()).open(ALICE, 1.0)
        one = await context.connect(READER, SHARED, ANY)
        two = await context.connect(READER, SHARED, ANY)
        await one.status()
        await two.status()
        assert one.begin_at_once()
        assert not two.begin_at_once()
        assert one.end_at_once(LEAVE)
        assert two.begin_at_once()
        assert two.end_at_once(LEAVE)


async def test_more_calls_than_the_host_allows_do_not_leave() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        cards = [await connected(guest) for _ in range(3)]
        session = session_of(guest)
        welcome = session.welcome
        session._welcome = type(welcome)(welcome.contexts, welcome.handles, 64, len(COUNT) * 2)
        commands = [sent(card) for card in cards[:2]]
        assert session._call_bytes == 2 * len(COUNT)
        assert not leaves(cards[2]), "too many bytes"
        for command in commands:
            await command.answer
        assert session._call_bytes == 0
        session._welcome = type(welcome)(welcome.contexts, welcome.handles, 1, 1000)
        command = sent(cards[0])
        assert not leaves(cards[1]), "too many calls"
        await command.answer
        assert nothing_under_way(desk, guest)


async def test_while_responses_may_come_ahead_the_coroutine_is_the_way(host_at_once: None) -> None:
    async with Desk(FileCard(bytes(range(200)), 100), delay=DELAY, card_delay=0.001) as desk:
        card = await (await (await desk.guest()).open(ALICE, 1.0)).connect(READER, SHARED, ANY)
        await card.begin()
        await card.transmit(COUNT, T1)
        command = sent(card, GET)
        assert (await command.answer)[-2] == 0x61
        assert card.foreseen.origin
        assert not leaves(card)
        # What has come ahead is used, and the card was asked once for it.
        rest = await card.transmit(bytes.fromhex("00c0000064"), T1)
        assert rest == bytes(range(100, 200)) + b"\x90\0"
        assert cast(FileCard, desk.card).seen.count(bytes.fromhex("00c0000064")) == 1
        assert card.foreseen.hits == 1
        await card.end(LEAVE)


async def test_the_session_ends_with_a_command_under_way() -> None:
    async with Desk(delay=DELAY, card_delay=5) as desk:
        guest = await desk.guest()
        card = await (await guest.open(ALICE, 1.0)).connect(READER, SHARED, ANY)
        await card.status()
        command = sent(card)
        await asyncio.sleep(1)
        road = desk.roads[-1]
        road.open = False
        road.cut()
        with raises(ReturnCode.E_READER_UNAVAILABLE):
            await command.answer
        await asyncio.sleep(10)
        assert command.answers == 1
        assert not leaves(card)
        assert not card.begin_at_once()
        assert desk.card.count == 1


async def test_a_pipe_that_breaks_with_a_command_under_way(host_at_once: None) -> None:
    async with Desk(delay=DELAY, card_delay=0.1) as desk:
        guest = await desk.guest()
        card = await connected(guest)
        command = sent(card)
        await asyncio.sleep(0.05)
        desk.roads[-1].cut()
        assert await command.answer == b"\0\0\0\3\x90\0"
        await asyncio.sleep(1)
        assert nothing_under_way(desk, guest)


async def test_when_the_host_does_not_keep_up_the_session_ends_after_the_call_has_begun() -> None:
    bounds = Bounds(full_frames=1000, full_bytes=1 << 20, most_bytes=2000)
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest(bounds=bounds)
        card = await (await guest.open(ALICE, 1.0)).connect(READER, SHARED, ANY)
        await card.status()
        await asyncio.sleep(1)
        command = sent(card, bytes(3000))
        assert not command.has_ended()
        with raises(ReturnCode.E_READER_UNAVAILABLE):
            await command.answer
        assert command.answers == 1


async def test_for_a_guest_that_takes_no_answers_no_more_commands_are_carried_out(host_at_once: None) -> None:
    async with Desk(bounds=Bounds(full_frames=3)) as desk:
        guest = await desk.guest()
        cards = [await connected(guest) for _ in range(6)]
        before = desk.card.count
        near, _ = desk.roads[0].pipes[-1]
        near.pause_reading()
        commands = []
        for card in cards:
            commands.append(sent(card))
            await asyncio.sleep(0.1)
        assert desk.card.count == before + 3, "as many as there is room for answers"
        near.resume_reading()
        answers = [await command.answer for command in commands]
        assert sorted(answers) == [count.to_bytes(4, "big") + b"\x90\0" for count in range(before + 1, before + 7)]
        await asyncio.sleep(1)
        assert nothing_under_way(desk, guest)


async def test_what_runs_ahead_for_one_card_goes_before_the_next_call_of_the_context(host_at_once: None) -> None:
    content = bytes(range(200))
    async with Desk(FileCard(content, 100), delay=DELAY, card_delay=0.5) as desk:
        context = await (await desk.guest()).open(ALICE, 1.0)
        other = FileCard()
        desk.source.add_reader("Reader 01 00", 0.01).insert(other)
        await asyncio.sleep(1)
        near_it = await context.connect("Reader 01 00", SHARED, ANY)
        await near_it.transmit(COUNT, T1)
        card = await context.connect(READER, SHARED, ANY)
        await card.begin()
        await card.transmit(COUNT, T1)
        assert (await sent(card, GET).answer)[-2] == 0x61
        command = sent(near_it)
        await asyncio.sleep(0.4)
        assert not command.has_ended()
        assert len(other.seen) == 1, "the rest of the response is being fetched"
        await command.answer
        assert len(cast(FileCard, desk.card).seen) == 3
        assert len(other.seen) == 2
        await card.end(LEAVE)


async def test_the_context_closes_with_a_command_under_way(host_at_once: None) -> None:
    async with Desk(delay=DELAY, card_delay=1.0) as desk:
        guest = await desk.guest()
        context = await guest.open(ALICE, 1.0)
        card = await context.connect(READER, SHARED, ANY)
        await card.begin()
        await card.transmit(COUNT, T1)
        command = sent(card)
        await asyncio.sleep(0.5)
        await context.close()
        await asyncio.sleep(2)
        assert command.answers == 1
        assert nothing_under_way(desk, guest)
        assert desk.card.resets == 1
        assert not desk.manager.contexts


# the host's end


async def test_calls_of_one_context_are_carried_out_in_their_order(host_at_once: None) -> None:
    """Some at once, some not; some on one handle, some on another one."""
    async with Desk(delay=DELAY, card_delay=0.01) as desk:
        guest = await desk.guest()
        context = await guest.open(ALICE, None)
        one = await context.connect(READER, SHARED, ANY)
        two = await context.connect(READER, SHARED, ANY)
        for card in (one, two):
            await card.status()
        await asyncio.sleep(1)
        seen: list[bytes] = []
        process = desk.card.process

        def recorded(apdu: bytes) -> bytes:
            seen.append(apdu)
            return process(apdu)

        desk.card.process = recorded  # type: ignore[method-assign]
        expected = []
        commands = []
        for number in range(20):
            apdu = b"\x80" + number.to_bytes(4, "big")
            expected.append(apdu)
            commands.append(sent((one, two)[number % 3 == 0], apdu))
        answers = [await command.answer for command in commands]
        assert seen == expected
        assert answers == sorted(answers)
        await asyncio.sleep(1)
        assert nothing_under_way(desk, guest)


async def test_a_transaction_that_waits_its_turn_is_owed_and_comes_before_the_command(host_at_once: None) -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        card = await connected(guest, None)
        bob = await (await desk.manager.open(BOB)).connect(READER, SHARED, ANY)
        await bob.begin()
        assert card.begin_at_once()
        command = sent(card)
        await asyncio.sleep(1)
        assert not command.has_ended()
        await bob.transmit(COUNT, T1)
        await bob.end(LEAVE)
        assert await command.answer == b"\0\0\0\4\x90\0"
        assert holder(desk)
        assert card.end_at_once(LEAVE)
        await asyncio.sleep(1)
        assert not holder(desk)
        assert nothing_under_way(desk, guest)


async def test_a_begin_that_ran_out_of_patience_is_made_up_for_by_the_command(host_at_once: None) -> None:
    async with Desk(delay=DELAY) as desk:
        card = await connected(await desk.guest(), 0.2)
        bob = await (await desk.manager.open(BOB)).connect(READER, SHARED, ANY)
        await bob.begin()
        assert card.begin_at_once()
        await asyncio.sleep(1)
        await bob.end(LEAVE)
        await asyncio.sleep(1)
        assert not holder(desk), "and no place in the queue is kept any more"
        (known, _), *_ = host_session(desk)._cards.values()
        assert card.begin_at_once()
        await asyncio.sleep(1)
        assert (known.depth, known.owed) == (0, 2), "what is owed comes first"
        command = sent(card)
        await command.answer
        assert (known.depth, known.owed) == (2, 0)
        assert holder(desk), "the transaction that was owed"
        assert card.end_at_once(LEAVE)
        assert card.end_at_once(LEAVE)
        await asyncio.sleep(1)
        assert not holder(desk)


async def test_an_owed_transaction_that_ends_is_not_begun(host_at_once: None) -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        card = await connected(guest, 0.2)
        bob = await (await desk.manager.open(BOB)).connect(READER, SHARED, ANY)
        await bob.begin()
        assert card.begin_at_once()
        await asyncio.sleep(1)
        assert card.end_at_once(LEAVE)
        await asyncio.sleep(1)
        assert not desk.manager.status.readers[0].waiters
        await bob.end(LEAVE)
        await asyncio.sleep(1)
        assert not holder(desk)
        assert card.begin_at_once()
        assert card.end_at_once(LEAVE)
        await card.transmit(COUNT, T1)
        await asyncio.sleep(1)
        assert nothing_under_way(desk, guest)


async def test_nothing_is_done_at_once_through_a_broken_handle(host_at_once: None) -> None:
    """The program was told that its connect succeeded; it did not."""
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        await connected(guest)
        context = await guest.open(ALICE, 0.2)
        desk.reader.remove()
        card = await context.connect(READER, SHARED, ANY)
        assert card.begin_at_once()
        command = sent(card)
        with raises(ReturnCode.W_REMOVED_CARD):
            await command.answer
        desk.reader.insert(desk.card)
        await asyncio.sleep(1)
        again = sent(card)
        with raises(ReturnCode.W_REMOVED_CARD):
            await again.answer


async def test_a_begin_behind_one_that_failed_does_nothing(host_at_once: None) -> None:
    async with Desk(delay=DELAY) as desk:
        card = await connected(await desk.guest())
        (known, _), *_ = host_session(desk)._cards.values()

        async def fail(*, alone: bool = False) -> bool:
            del desk.reader.claim
            raise PcscError(ReturnCode.F_COMM_ERROR)

        desk.reader.claim = fail  # type: ignore[method-assign]
        assert card.begin_at_once()
        await asyncio.sleep(0.002)  # so long it waits for company
        assert card.begin_at_once()
        await asyncio.sleep(1)
        assert (known.depth, known.owed) == (0, 0)
        assert known.broken is not None
        assert not holder(desk)
        with raises(ReturnCode.F_COMM_ERROR):
            await sent(card).answer


async def test_a_transaction_that_was_lost_is_not_counted_any_more(host_at_once: None) -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        card = await connected(guest)
        assert card.begin_at_once()
        await sent(card).answer
        (known, _), *_ = host_session(desk)._cards.values()
        assert (known.depth, known.owed) == (1, 0)
        desk.reader.remove()
        with raises(ReturnCode.W_REMOVED_CARD):
            await sent(card).answer
        assert (known.depth, known.owed) == (0, 0)


async def test_a_reset_error_from_the_card_ends_the_count(host_at_once: None) -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        card = await connected(guest)
        assert card.begin_at_once()
        await sent(card).answer
        (known, _), *_ = host_session(desk)._cards.values()

        async def reset(apdu: bytes, protocol: object) -> bytes:
            raise PcscError(ReturnCode.W_RESET_CARD)

        desk.reader.transmit = reset  # type: ignore[method-assign]
        with raises(ReturnCode.W_RESET_CARD):
            await sent(card).answer
        assert known.depth == 0


async def test_a_card_that_is_slow_at_once_is_no_reason_to_run_ahead_less(host_at_once: None) -> None:
    async with Desk(delay=DELAY, card_delay=0.01) as desk:
        guest = await desk.guest()
        card = await connected(guest)
        await sent(card).answer
        (known, _), *_ = host_session(desk)._cards.values()
        assert known.seconds == pytest.approx(0.01, abs=0.001)


async def test_who_waits_behind_a_command_at_once_gets_its_turn_and_its_patience(host_at_once: None) -> None:
    async with Desk(delay=DELAY, card_delay=0.5) as desk:
        guest = await desk.guest()
        context = await guest.open(ALICE, 0.2)
        one = await context.connect(READER, SHARED, ANY)
        two = await context.connect(READER, SHARED, ANY)
        await one.transmit(COUNT, T1)
        for card in (one, two):
            await card.status()
        first, second = sent(one), sent(two)
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await second.answer
        assert await first.answer == b"\0\0\0\2\x90\0"
        await asyncio.sleep(1)
        assert nothing_under_way(desk, guest)
        assert desk.card.count == 2
        assert await sent(two).answer == b"\0\0\0\3\x90\0"
