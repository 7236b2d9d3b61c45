"""Begin tells the truth when it matters: it waits for the host while somebody else can be in the way, and else not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import cast

import pytest

from cardferry.link import Guest
from cardferry.link.guest_card import RECENT
from cardferry.link.host_readers import ALONE_DELAY, SHARING_DELAY
from cardferry.link.messages import Readers
from cardferry.manager import Settings
from cardferry.pcsc.applications import Applications
from cardferry.pcsc.caller import Caller, Principal
from cardferry.pcsc.constants import Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.interface import Card, Context, ResourceManager
from cardferry.pcsc.reader_state import Snapshot
from cardferry.pcsc.reply import failed
from tests.link.cards import COUNT
from tests.link.desk import ALICE, ANY, BOB, DIRECT, EXCLUSIVE, LEAVE, READER, RESET, SHARED, T1, UNPOWER, Desk, raises
from tests.link.test_round_trips import DELAY, round_trips

#: s after which everything has arrived, and has been told.
SETTLED = SHARING_DELAY + 4 * DELAY


async def program(guest: Guest, patience: float | None = None) -> tuple[Context, Card]:
    """A context with a handle, of which everybody knows."""
    context = await guest.open(ALICE, patience)
    card = await context.connect(READER, SHARED, ANY)
    await asyncio.sleep(SETTLED)
    return context, card


async def two(desk: Desk, *, of_one_guest: bool) -> tuple[Guest, Card, Context, Card]:
    """A guest and its program's handle; another program, at the same guest or at another one, and its handle."""
    guest = await desk.guest()
    _, card = await program(guest)
    context, other = await program(guest if of_one_guest else await desk.guest())
    return guest, card, context, other


async def outcome(call: Awaitable[object]) -> ReturnCode:
    """How a call ends; for calls that run beside the test."""
    try:
        await call
    except PcscError as error:
        return error.code
    return ReturnCode.S_SUCCESS


at_one_and_at_two_guests = pytest.mark.parametrize("of_one_guest", [True, False], ids=["one guest", "two guests"])


@at_one_and_at_two_guests
@pytest.mark.parametrize("disposition", [RESET, UNPOWER])
async def test_begin_says_that_the_card_was_reset_before_its_turn(of_one_guest: bool, disposition: Disposition) -> None:
    async with Desk(delay=DELAY) as desk:
        _, card, _, other = await two(desk, of_one_guest=of_one_guest)
        await other.begin()
        await asyncio.sleep(SETTLED)
        waiting = desk.start(outcome(card.begin()))
        await asyncio.sleep(SETTLED)
        assert not waiting.done()
        await other.end(disposition)
        assert await waiting is ReturnCode.W_RESET_CARD
        await card.reconnect(SHARED, ANY, LEAVE)
        await card.begin()
        await card.transmit(COUNT, T1)
        await card.end(LEAVE)


@at_one_and_at_two_guests
async def test_begin_blocks_until_the_other_transaction_ends(of_one_guest: bool) -> None:
    """Upstream's ``SCardBeginTransaction_SharedMode.py`` and ``SCardBlockingBehaviourTest.py``."""
    async with Desk(delay=DELAY) as desk:
        _, card, _, other = await two(desk, of_one_guest=of_one_guest)
        await other.begin()
        waiting = desk.start(outcome(card.begin()))
        await asyncio.sleep(5)
        assert not waiting.done()
        await other.end(LEAVE)
        assert await waiting is ReturnCode.S_SUCCESS
        await card.transmit(COUNT, T1)
        await card.end(LEAVE)


async def test_a_connect_waits_for_another_program_of_the_same_guest_and_not_for_its_own() -> None:
    """Upstream's ``SCardBlockingBehaviourTest.py`` as well."""
    async with Desk(delay=DELAY) as desk:
        guest, card, context, other = await two(desk, of_one_guest=True)
        await other.begin()
        with round_trips(0):
            second = await context.connect(READER, SHARED, ANY)
        third = await guest.open(BOB, None)
        waiting = desk.start(outcome(third.connect(READER, SHARED, ANY)))
        await asyncio.sleep(SETTLED)
        assert not waiting.done()
        await second.disconnect(LEAVE)
        await other.end(LEAVE)
        assert await waiting is ReturnCode.S_SUCCESS
        await card.status()


async def test_a_begin_that_is_still_waiting_is_in_the_way_of_the_next_one() -> None:
    async with Desk(delay=DELAY) as desk:
        guest, first, _, second = await two(desk, of_one_guest=True)
        _, third = await program(guest)
        await first.begin()
        waiting = desk.start(outcome(second.begin()))
        await asyncio.sleep(0)
        await first.end(LEAVE)
        last = desk.start(outcome(third.begin()))
        assert await waiting is ReturnCode.S_SUCCESS
        await asyncio.sleep(SETTLED)
        assert not last.done()
        await second.end(RESET)
        assert await last is ReturnCode.W_RESET_CARD


def _end(context: Context, card: Card) -> Awaitable[object]:
    return card.end(RESET)


def _disconnect(context: Context, card: Card) -> Awaitable[object]:
    return card.disconnect(RESET)


def _reconnect(context: Context, card: Card) -> Awaitable[object]:
    return card.reconnect(SHARED, ANY, RESET)


def _vanish(context: Context, card: Card) -> Awaitable[object]:
    return context.close()


@pytest.mark.parametrize("reset", [_end, _disconnect, _reconnect, _vanish])
@pytest.mark.parametrize("begun", [True, False])
async def test_a_reset_by_the_same_guest_is_known_before_the_host_tells(
    reset: Callable[[Context, Card], Awaitable[object]], begun: bool
) -> None:
    async with Desk(delay=DELAY) as desk:
        _, card, context, other = await two(desk, of_one_guest=True)
        if begun or reset in (_end, _vanish):
            await other.begin()
            await asyncio.sleep(SETTLED)
        resetting = desk.start(outcome(reset(context, other)))
        await asyncio.sleep(DELAY / 2)
        with raises(ReturnCode.W_RESET_CARD):
            await card.begin()
        assert await resetting is ReturnCode.S_SUCCESS


async def test_the_reset_of_a_program_that_dies_is_known_also_after_a_look_at_the_handle() -> None:
    async with Desk(delay=DELAY) as desk:
        _, card, context, other = await two(desk, of_one_guest=True)
        await other.begin()
        await asyncio.sleep(SETTLED)
        await context.close()
        with raises(ReturnCode.W_RESET_CARD):
            await card.status()


async def test_begin_costs_a_round_trip_while_another_guest_is_on_the_reader() -> None:
    async with Desk(delay=DELAY) as desk:
        _, card, _, other = await two(desk, of_one_guest=False)
        for _ in range(3):
            with round_trips(2):
                await card.begin()
                await card.transmit(COUNT, T1)
                await card.end(LEAVE)
        await other.disconnect(LEAVE)
        await asyncio.sleep(SETTLED)
        await card.transmit(COUNT, T1)
        with round_trips(1):
            await card.begin()
            await card.transmit(COUNT, T1)
            await card.end(LEAVE)


async def test_begin_costs_a_round_trip_after_a_pause_in_which_the_hosts_own_programs_may_have_come() -> None:
    async with Desk(delay=DELAY) as desk:
        _, card = await program(await desk.guest())
        await asyncio.sleep(1.1 * RECENT)
        for pause, trips in (0.0, 0), (1.1 * RECENT, 0), (0.9 * RECENT, 0), (1.1 * RECENT, 1), (0.0, 0):
            await asyncio.sleep(pause)
            with round_trips(trips):
                await card.begin()
                await card.end(LEAVE)
            if pause:
                await card.transmit(COUNT, T1)  # nobody has used the card before, so nobody could lose anything


async def test_nobody_can_have_come_in_the_middle_of_a_transaction() -> None:
    async with Desk(delay=DELAY) as desk:
        _, card = await program(await desk.guest())
        await card.begin()
        await card.transmit(COUNT, T1)
        await asyncio.sleep(1.1 * RECENT)
        with round_trips(0):
            await card.end(LEAVE)
            await card.begin()
            await card.end(LEAVE)


async def test_begin_says_that_a_program_on_the_host_has_come_reset_the_card_and_gone() -> None:
    async with Desk(delay=DELAY) as desk:
        _, card = await program(await desk.guest())
        await card.transmit(COUNT, T1)
        await asyncio.sleep(1.1 * RECENT)
        claim = desk.reader.claim
        desk.reader.claim = lambda **_: failed(PcscError(ReturnCode.W_RESET_CARD))  # type: ignore[method-assign]
        with raises(ReturnCode.W_RESET_CARD):
            await card.begin()
        desk.reader.claim = claim  # type: ignore[method-assign]
        await card.reconnect(SHARED, ANY, LEAVE)
        await card.begin()
        assert await card.transmit(COUNT, T1) == b"\0\0\0\2\x90\0"
        await card.end(LEAVE)


async def test_programs_on_the_host_count_as_others() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        _, card = await program(guest)
        desk.manager.outsiders(desk.reader, True)
        await asyncio.sleep(1.1 * DELAY)  # it is told at once
        assert guest.readers.others(READER) == 1
        with round_trips(1):
            await card.begin()
        await card.end(LEAVE)
        desk.manager.outsiders(desk.reader, False)
        await asyncio.sleep(SETTLED)
        with round_trips(0):
            await card.begin()
            await card.end(LEAVE)


async def test_a_transaction_inside_ones_own_is_nobodys_business() -> None:
    async with Desk(delay=DELAY) as desk:
        _, card, _, _ = await two(desk, of_one_guest=False)
        await card.begin()
        with round_trips(1):
            await card.begin()
            await card.transmit(COUNT, T1)
            await card.end(LEAVE)
            await card.end(LEAVE)


async def test_a_program_that_has_just_connected_knows_of_those_before_it() -> None:
    async with Desk(delay=DELAY) as desk:
        guest, card, _, other = await two(desk, of_one_guest=False)
        await card.disconnect(LEAVE)
        await other.begin()
        await asyncio.sleep(SETTLED)
        context = await guest.open(BOB, None)
        await other.end(LEAVE)
        await asyncio.sleep(SETTLED)
        with round_trips(1):
            card = await context.connect(READER, SHARED, ANY)
            await card.begin()
        await card.end(LEAVE)


async def test_that_somebody_has_come_is_told_at_once() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        _, card = await program(guest)
        other = await (await desk.manager.open(BOB)).connect(READER, SHARED, ANY)
        await other.begin()
        await asyncio.sleep(1.1 * DELAY)
        waiting = desk.start(outcome(card.begin()))
        await asyncio.sleep(SETTLED)
        assert not waiting.done()
        await other.end(LEAVE)
        assert await waiting is ReturnCode.S_SUCCESS
        await card.end(LEAVE)


async def test_one_who_comes_while_one_of_ours_goes_is_not_taken_for_ours() -> None:
    """How many share the reader is the same before and after."""
    async with Desk(delay=DELAY) as desk:
        guest, card, _, ours = await two(desk, of_one_guest=True)
        bob = await desk.manager.open(BOB)
        (session,) = desk.host._sessions.values()
        done = session.done

        def come_before(*args: object, **options: object) -> None:
            other = bob.connect(READER, SHARED, ANY)
            with pytest.raises(StopIteration):
                other.send(None)
            done(*args, **options)  # type: ignore[arg-type]

        await ours.disconnect(LEAVE)
        session.done = come_before  # type: ignore[method-assign]
        await asyncio.sleep(1.1 * DELAY)
        session.done = done  # type: ignore[method-assign]
        assert desk.manager.snapshot.readers[0].sharing == 2
        await asyncio.sleep(1.1 * DELAY)
        with round_trips(1):
            await card.begin()
        await card.end(LEAVE)
        assert guest.snapshot.readers[0].sharing == 2


class Leisurely:
    """A resource manager between whose steps the loop has time for other things."""

    def __init__(self, manager: ResourceManager) -> None:
        self._manager = manager
        self.changed = manager.changed

    @property
    def snapshot(self) -> Snapshot:
        return self._manager.snapshot

    def seen_by(self, principal: Principal) -> Leisurely:
        return self

    def may_read(self, reader: str, applications: Applications, apdu: bytes) -> bool:
        return self._manager.may_read(reader, applications, apdu)

    async def open(self, caller: Caller, patience: float | None = None) -> Context:
        context = await self._manager.open(caller, patience)
        connect, close = context.connect, context.close

        async def connect_slowly(reader: str, share: ShareMode, protocols: Protocol) -> Card:
            card = await connect(reader, share, protocols)
            await asyncio.sleep(0.01)
            return card

        async def close_slowly() -> None:
            await asyncio.sleep(0.01)
            await close()

        return cast("Context", SimpleNamespace(connect=connect_slowly, close=close_slowly))


@pytest.mark.parametrize("closing", ["disconnect", "close"])
async def test_ones_own_handles_that_come_and_go_are_nobody_elses(closing: str) -> None:
    async with Desk(delay=DELAY, around=Leisurely) as desk:
        guest = await desk.guest()
        others: list[int] = []
        receive = guest.readers.receive

        def watched(news: Readers, now: float) -> bool:
            came_or_went = receive(news, now)
            others.append(guest.readers.others(READER))
            return came_or_went

        guest.readers.receive = watched  # type: ignore[method-assign,assignment]
        (session,) = desk.host._sessions.values()

        async def news() -> None:
            while True:
                await asyncio.sleep(0.001)
                session._tell_readers()

        telling = desk.start(news())
        for _ in range(3):
            context, card = await program(guest)
            await card.begin()
            if closing == "disconnect":
                await card.disconnect(LEAVE)
            await context.close()
            await asyncio.sleep(SETTLED)
        telling.cancel()
        assert len(others) > 3
        assert not any(others)


async def test_a_guest_hears_soon_that_it_is_alone_again() -> None:
    async with Desk(delay=DELAY) as desk:
        guest, _, _, other = await two(desk, of_one_guest=False)
        assert guest.readers.others(READER) == 1
        await other.disconnect(LEAVE)
        await asyncio.sleep(ALONE_DELAY + 2.2 * DELAY)
        assert guest.readers.others(READER) == 0


async def test_a_dispossessed_handle_of_ours_hides_nobody() -> None:
    """It does not count as connected any more, so it must not be subtracted either."""
    async with Desk(delay=DELAY, settings=Settings(max_idle=1.0)) as desk:
        guest = await desk.guest()
        await (await guest.open(ALICE, None)).connect(READER, EXCLUSIVE, ANY)
        other = await (await desk.manager.open(BOB)).connect(READER, SHARED, ANY)
        await asyncio.sleep(SETTLED)
        assert guest.readers.others(READER) == 1
        await program(guest)
        assert guest.readers.others(READER) == 1
        await other.disconnect(LEAVE)
        await asyncio.sleep(SETTLED)
        assert guest.readers.others(READER) == 0


async def test_a_handle_on_a_reader_that_has_gone_hides_nobody() -> None:
    async with Desk(delay=DELAY) as desk:
        guest, _, _, _ = await two(desk, of_one_guest=True)
        desk.source.remove_reader(desk.reader)
        desk.source.add_reader(READER).insert(desk.card)
        other = await (await desk.manager.open(BOB)).connect(READER, SHARED, ANY)
        await program(guest)
        assert guest.readers.others(READER) == 1
        await other.disconnect(LEAVE)


async def test_a_handle_that_is_being_closed_is_not_taken_for_somebody_elses() -> None:
    """As yubico-piv-tool does, again and again."""
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        context, card = await program(guest)
        for _ in range(3):
            with round_trips(2):
                await card.begin()
                await card.transmit(COUNT, T1)
                await card.end(LEAVE)
                await card.disconnect(RESET)
            with round_trips(0):
                card = await context.connect(READER, SHARED, ANY)


async def test_a_guest_with_very_many_handles_waits() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        context, card = await program(guest)
        many = [await context.connect(READER, DIRECT, ANY) for _ in range(63)]
        await asyncio.sleep(SETTLED)
        await card.transmit(COUNT, T1)
        with round_trips(0):
            await card.begin()
            await card.end(LEAVE)
        many.append(await context.connect(READER, DIRECT, ANY))
        await asyncio.sleep(SETTLED)
        with round_trips(1):
            await card.begin()
        await card.end(LEAVE)
        for one in many:
            await one.disconnect(LEAVE)
        await asyncio.sleep(SETTLED)
        await card.transmit(COUNT, T1)  # more calls in a row than may go unanswered
        with round_trips(0):
            await card.begin()
            await card.end(LEAVE)


async def test_a_transaction_that_may_have_survived_a_reconnect_is_in_the_way() -> None:
    async with Desk(delay=DELAY) as desk:
        guest, card, _, other = await two(desk, of_one_guest=True)
        context, third = await program(guest)
        await other.begin()
        giving_up = desk.start(outcome(third.begin()))
        await asyncio.sleep(SETTLED)
        await context.close()  # for all that is known here, its turn has come, and the card will be reset
        await other.reconnect(SHARED, ANY, LEAVE)
        assert await giving_up is ReturnCode.E_CANCELLED
        waiting = desk.start(outcome(card.begin()))
        await asyncio.sleep(SETTLED)
        assert not waiting.done()
        await other.end(LEAVE)
        assert await waiting is ReturnCode.S_SUCCESS
        await card.end(LEAVE)
        with round_trips(0):
            await card.begin()
            await card.end(LEAVE)


@pytest.mark.parametrize("call", ["status", "begin", "end", "transmit", "reconnect"])
async def test_a_reader_that_comes_again_is_another_one(call: str) -> None:
    """Also when it goes and comes in one moment, which no guest can see, and when as much has happened to it."""
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        _, card = await program(guest)
        desk.source.remove_reader(desk.reader)
        desk.source.add_reader(READER).insert(desk.card)
        await asyncio.sleep(SETTLED)
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "status": card.status,
            "begin": card.begin,
            "end": lambda: card.end(LEAVE),
            "transmit": lambda: card.transmit(COUNT, T1),
            "reconnect": lambda: card.reconnect(SHARED, ANY, LEAVE),
        }
        for _ in range(2):
            with raises(ReturnCode.E_READER_UNAVAILABLE):
                await calls[call]()
        await card.disconnect(LEAVE)
        _, card = await program(guest)
        await card.begin()
        assert await card.transmit(COUNT, T1) == b"\0\0\0\1\x90\0"
        await card.end(LEAVE)


async def test_a_connect_to_a_reader_that_had_gone_is_not_made_up_for_at_the_next_one() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        context, _ = await program(guest)
        desk.source.remove_reader(desk.reader)
        card = await context.connect(READER, SHARED, ANY)
        await asyncio.sleep(SETTLED)
        desk.source.add_reader(READER).insert(desk.card)
        for _ in range(2):
            with raises(ReturnCode.E_READER_UNAVAILABLE):
                await card.reconnect(SHARED, ANY, LEAVE)
        await card.disconnect(LEAVE)


@at_one_and_at_two_guests
async def test_status_waits_while_somebody_has_the_card(of_one_guest: bool) -> None:
    """Upstream's ``SCardBlockingBehaviourTest.py``."""
    async with Desk(delay=DELAY) as desk:
        _, card, _, other = await two(desk, of_one_guest=of_one_guest)
        await other.begin()
        await asyncio.sleep(SETTLED)
        waiting = desk.start(outcome(card.status()))
        await asyncio.sleep(5)
        assert not waiting.done()
        await other.status()  # its own transaction is in nobody's way
        await other.end(RESET)
        assert await waiting is ReturnCode.S_SUCCESS
        with raises(ReturnCode.W_RESET_CARD):
            await card.begin()
        await card.reconnect(SHARED, ANY, LEAVE)
        await other.disconnect(LEAVE)
        await asyncio.sleep(SETTLED)
        with round_trips(0):
            await card.status()


async def test_the_end_of_a_transaction_with_eject() -> None:
    async with Desk(delay=DELAY) as desk:
        _, card, _, other = await two(desk, of_one_guest=True)
        await card.begin()
        with raises(ReturnCode.E_UNSUPPORTED_FEATURE):
            await card.end(Disposition.EJECT)
        await other.begin()
        await other.transmit(COUNT, T1)
        await other.end(LEAVE)
        with raises(ReturnCode.E_NOT_TRANSACTED):
            await card.end(LEAVE)
