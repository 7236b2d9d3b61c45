"""Which error a program sees where, when calls were sent that nobody waited for."""

from __future__ import annotations

import asyncio

import pytest

from cardferry.link import Limits
from cardferry.link.host_readers import SHARING_DELAY
from cardferry.manager import Settings
from cardferry.manager.card import LocalCard
from cardferry.pcsc.constants import Protocol
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.reply import Reply, failed
from tests.link.cards import COUNT, CountingCard
from tests.link.desk import ALICE, ANY, BOB, EXCLUSIVE, LEAVE, READER, RESET, SHARED, T1, Desk, raises
from tests.virtual_time import quiet

#: Long enough that what happens at the host is not known to the guest yet.
DELAY = 0.025


async def test_the_card_went_while_a_connect_was_on_its_way() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        context = await guest.open(ALICE, 1.0)
        await context.connect(READER, SHARED, ANY)
        desk.reader.remove()
        card = await context.connect(READER, SHARED, ANY)
        await card.begin()
        with raises(ReturnCode.W_REMOVED_CARD):
            await card.transmit(COUNT, T1)
        with raises(ReturnCode.W_REMOVED_CARD):
            await card.status()
        with raises(ReturnCode.E_NO_SMARTCARD):
            await card.reconnect(SHARED, ANY, LEAVE)
        fresh = CountingCard()
        desk.reader.insert(fresh)
        await card.reconnect(SHARED, ANY, LEAVE)
        assert await card.transmit(COUNT, T1) == b"\0\0\0\1\x90\0"
        await card.disconnect(LEAVE)
        assert fresh.count == 1


async def test_the_reader_went_while_a_connect_was_on_its_way() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        context = await guest.open(ALICE, 1.0)
        await context.connect(READER, SHARED, ANY)
        desk.source.remove_reader(desk.reader)
        card = await context.connect(READER, SHARED, ANY)
        with raises(ReturnCode.E_READER_UNAVAILABLE):
            await card.transmit(COUNT, T1)
        await card.disconnect(LEAVE)


async def test_somebody_took_the_card_for_himself_while_a_connect_was_on_its_way() -> None:
    """The program is told what it would be told had he come right after: the library would repeat anything else."""
    settings = Settings(connect_patience=5.0)
    async with Desk(delay=DELAY, settings=settings) as desk:
        guest = await desk.guest()
        context = await guest.open(ALICE, 1.0)
        await context.connect(READER, SHARED, ANY)
        await context.close()
        context = await guest.open(ALICE, 1.0)
        await asyncio.sleep(0.5)
        bob = await desk.manager.open(BOB)
        his = await bob.connect(READER, EXCLUSIVE, ANY)
        card = await context.connect(READER, SHARED, ANY)
        with raises(ReturnCode.W_RESET_CARD):
            await card.transmit(COUNT, T1)
        await his.disconnect(LEAVE)
        await card.reconnect(SHARED, ANY, LEAVE)
        assert await card.transmit(COUNT, T1) == b"\0\0\0\1\x90\0"


async def test_nothing_is_done_with_a_card_whose_begin_has_failed() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        context = await guest.open(ALICE, 1.0)
        card = await context.connect(READER, SHARED, ANY)
        bob = await (await desk.manager.open(BOB)).connect(READER, SHARED, ANY)
        await bob.begin()
        await bob.end(RESET)
        await card.begin()
        for _ in range(2):
            with raises(ReturnCode.W_RESET_CARD):
                await card.transmit(COUNT, T1)
        with raises(ReturnCode.W_RESET_CARD):
            await card.begin()
        with raises(ReturnCode.W_RESET_CARD):
            await card.end(LEAVE)
        with raises(ReturnCode.W_RESET_CARD):
            await card.status()
        await card.reconnect(SHARED, ANY, LEAVE)
        await card.begin()
        assert await card.transmit(COUNT, T1) == b"\0\0\0\1\x90\0"
        await card.end(LEAVE)
        await card.status()


async def test_a_reset_is_known_without_asking() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        context = await guest.open(ALICE, 1.0)
        card = await context.connect(READER, SHARED, ANY)
        trips = guest.counters.round_trips
        await card.status()
        assert guest.counters.round_trips == trips
        bob = await (await desk.manager.open(BOB)).connect(READER, SHARED, ANY)
        await bob.reconnect(SHARED, ANY, RESET)
        await asyncio.sleep(DELAY * 1.5)
        with raises(ReturnCode.W_RESET_CARD):
            await card.status()
        await card.reconnect(SHARED, ANY, LEAVE)
        await bob.disconnect(LEAVE)
        await asyncio.sleep(SHARING_DELAY + 2 * DELAY)
        trips = guest.counters.round_trips
        await card.status()
        assert guest.counters.round_trips == trips


async def test_begin_waits_for_its_turn_at_the_host() -> None:
    """Each command is carried out once, whatever the patience of the front and the retries of the library."""
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        card = await (await guest.open(ALICE, 1.0)).connect(READER, SHARED, ANY)
        bob = await (await desk.manager.open(BOB)).connect(READER, SHARED, ANY)
        await bob.begin()
        await card.begin()
        refused = 0

        async def library() -> bytes:
            nonlocal refused
            while True:
                try:
                    return await card.transmit(COUNT, T1)
                except PcscError as error:
                    if error.code is not ReturnCode.E_SHARING_VIOLATION:
                        raise
                    refused += 1
                    await asyncio.sleep(0.1)

        transmitting = desk.start(library())
        for number in range(1, 36):
            await asyncio.sleep(0.1)
            assert await bob.transmit(COUNT, T1) == number.to_bytes(4, "big") + b"\x90\0"
        assert not transmitting.done()
        assert 2 <= refused <= 4
        await bob.end(LEAVE)
        assert await transmitting == (36).to_bytes(4, "big") + b"\x90\0"
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await (await desk.manager.open(BOB, 0.01)).connect(READER, EXCLUSIVE, ANY)
        await card.end(LEAVE)
        assert desk.card.count == 36


async def test_the_place_in_the_queue_is_kept_across_refusals() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        card = await (await guest.open(ALICE, 1.0)).connect(READER, SHARED, ANY)
        bob = await (await desk.manager.open(BOB)).connect(READER, SHARED, ANY)
        late = await (await desk.manager.open(BOB)).connect(READER, SHARED, ANY)
        await bob.begin()
        await card.begin()
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await card.transmit(COUNT, T1)
        waiting = desk.start(late.begin())
        again = desk.start(card.transmit(COUNT, T1))
        await asyncio.sleep(0.2)
        await bob.end(LEAVE)
        assert await again == b"\0\0\0\1\x90\0"
        assert not waiting.done()
        await card.end(LEAVE)
        await waiting
        await late.end(LEAVE)


async def test_a_call_behind_a_waiting_connect_waits_with_it() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        context = await guest.open(ALICE, 1.0)
        bob = await (await desk.manager.open(BOB)).connect(READER, SHARED, ANY)
        await bob.begin()
        await asyncio.sleep(0.5)
        card = await context.connect(READER, SHARED, ANY)
        transmitting = desk.start(card.transmit(COUNT, T1))
        await asyncio.sleep(3.0)
        assert not transmitting.done()
        await bob.end(LEAVE)
        assert await transmitting == b"\0\0\0\1\x90\0"


async def test_calls_that_no_library_repeats_wait_for_their_transaction() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        card = await (await guest.open(ALICE, 1.0)).connect(READER, SHARED, ANY)
        bob = await (await desk.manager.open(BOB)).connect(READER, SHARED, ANY)
        await bob.begin()
        await card.begin()
        asking = desk.start(card.attribute(0x00090300))
        await asyncio.sleep(4.0)
        assert not asking.done()
        await bob.end(LEAVE)
        assert await asking == b"\x02"
        await card.end(LEAVE)


async def test_a_transaction_that_never_had_its_turn_ends_like_any_other() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        card = await (await guest.open(ALICE, 1.0)).connect(READER, SHARED, ANY)
        bob = await (await desk.manager.open(BOB)).connect(READER, SHARED, ANY)
        await bob.begin()
        await card.begin()
        await asyncio.sleep(2)
        await card.end(LEAVE)
        await bob.end(LEAVE)
        await card.begin()
        assert await card.transmit(COUNT, T1) == b"\0\0\0\1\x90\0"
        await card.end(LEAVE)
        await bob.begin()
        await bob.end(LEAVE)


async def test_two_handles_of_one_context_do_not_wait_for_each_other() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        context = await guest.open(ALICE, 1.0)
        one = await context.connect(READER, SHARED, ANY)
        two = await context.connect(READER, SHARED, ANY)
        await one.begin()
        loop = asyncio.get_running_loop()
        began = loop.time()
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await two.begin()
        assert loop.time() - began < 0.1
        await one.end(LEAVE)
        await two.begin()
        await two.end(LEAVE)


async def test_closing_a_context_frees_what_it_waits_for_and_what_it_holds() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        holder, waiter = await guest.open(ALICE, 1.0), await guest.open(BOB, None)
        held = await holder.connect(READER, SHARED, ANY)
        waiting = await waiter.connect(READER, SHARED, ANY)
        await held.begin()
        await held.transmit(COUNT, T1)

        async def get_stuck() -> None:
            with raises(ReturnCode.E_CANCELLED):
                await waiting.begin()

        stuck = desk.start(get_stuck())
        await asyncio.sleep(0.2)
        await waiter.close()
        await stuck
        resets = desk.card.resets
        await holder.close()
        await asyncio.sleep(0.2)
        assert desk.card.resets == resets + 1
        assert not desk.manager.contexts


async def test_an_orderly_end_does_not_reset_the_card() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        for _ in range(3):
            context = await guest.open(ALICE, 1.0)
            card = await context.connect(READER, SHARED, ANY)
            await card.begin()
            await card.transmit(COUNT, T1)
            await card.end(LEAVE)
            await card.begin()
            await card.end(LEAVE)
            await card.disconnect(LEAVE)
            await context.close()
        await asyncio.sleep(0.2)
        assert desk.card.resets == 0
        assert not desk.manager.contexts


async def test_a_call_that_is_given_up_gives_up_its_place() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        card = await (await guest.open(ALICE, None)).connect(READER, SHARED, ANY)
        bob = await (await desk.manager.open(BOB)).connect(READER, SHARED, ANY)
        await bob.begin()
        transmitting = desk.start(card.transmit(COUNT, T1))
        await asyncio.sleep(0.2)
        transmitting.cancel()
        await asyncio.sleep(0.2)
        assert not desk.manager.status.readers[0].waiters
        await bob.end(LEAVE)
        await asyncio.sleep(0.2)
        assert desk.card.count == 0
        assert await card.transmit(COUNT, T1) == b"\0\0\0\1\x90\0"


async def test_a_connect_that_is_given_up_leaves_nothing() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        for moment in (0.0, DELAY / 2, DELAY * 1.5):
            context = await guest.open(ALICE, None)
            connecting = desk.start(context.connect(READER, EXCLUSIVE, ANY))
            await asyncio.sleep(moment)
            connecting.cancel()
            await asyncio.sleep(0.2)
            assert desk.manager.snapshot.readers[0].sharing == 0
            await context.close()


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (Limits(contexts=2), ReturnCode.E_NO_MEMORY),
        (Limits(handles=2), ReturnCode.E_NO_MEMORY),
        (Limits(calls=4), ReturnCode.E_NO_MEMORY),
        (Limits(call_bytes=20), ReturnCode.E_NO_MEMORY),
    ],
    ids=["contexts", "handles", "calls", "call_bytes"],
)
async def test_each_limit_has_its_error(limits: Limits, code: ReturnCode) -> None:
    async with Desk(delay=DELAY, limits=limits, card_delay=1.0) as desk:
        guest = await desk.guest()
        outcomes = []

        async def program() -> None:
            context = await guest.open(ALICE, None)
            try:
                card = await context.connect(READER, SHARED, ANY)
                await card.transmit(COUNT, T1)
                outcomes.append(ReturnCode.S_SUCCESS)
            except PcscError as error:
                outcomes.append(error.code)
            finally:
                await context.close()

        async with asyncio.TaskGroup() as programs:
            for _ in range(10):
                programs.create_task(program())
        assert set(outcomes) == {ReturnCode.S_SUCCESS, code}
        assert desk.host.status.guests[0].messages_received
        await program()
        assert outcomes[-1] is ReturnCode.S_SUCCESS


async def test_nobody_floods_the_host_with_calls_that_nobody_waits_for() -> None:
    async with Desk(delay=DELAY, limits=Limits(calls=50)) as desk:
        guest = await desk.guest()
        card = await (await guest.open(ALICE, 1.0)).connect(READER, SHARED, ANY)
        for _ in range(1000):
            await card.begin()
            await card.end(LEAVE)
        assert guest.counters.round_trips > 10
        assert guest.status.sessions == 1


async def test_the_manager_is_left_clean() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        for _ in range(20):
            context = await guest.open(ALICE, 1.0)
            await context.connect(READER, SHARED, ANY)
            await context.close()
        await asyncio.sleep(1)
        await quiet()
        status = desk.host.status.guests[0]
        assert (status.contexts, status.handles, status.waiting) == (0, 0, 0)
        assert guest.session is not None
        assert not guest.session._cards
        assert (len(guest.session._contexts), guest.session.unseen) == (0, 0)


class OtherCard(CountingCard):
    """Speaks T=0."""

    def __init__(self) -> None:
        super().__init__()
        self.atr = bytes.fromhex("3b00")

    def power_on(self) -> bytes:
        return self.atr

    def reset(self) -> bytes:
        return self.atr


async def test_another_card_came_while_a_connect_was_on_its_way() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        context = await guest.open(ALICE, 1.0)
        await context.connect(READER, SHARED, ANY)
        desk.reader.remove()
        desk.reader.insert(OtherCard())
        card = await context.connect(READER, SHARED, ANY)
        assert card.protocol == T1
        await card.begin()
        with raises(ReturnCode.W_RESET_CARD):
            await card.transmit(COUNT, T1)
        assert await card.reconnect(SHARED, ANY, LEAVE) == Protocol.T0
        assert card.protocol == Protocol.T0
        assert await card.transmit(COUNT, Protocol.T0) == b"\0\0\0\1\x90\0"
        assert desk.manager.snapshot.readers[0].sharing == 2


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[ReturnCode]:
    """The next begin at the host fails with the code that is put in here."""
    codes: list[ReturnCode] = []
    begin = LocalCard.begin

    def fail(card: LocalCard) -> Reply[None]:
        return failed(PcscError(codes.pop())) if codes else begin(card)

    monkeypatch.setattr(LocalCard, "begin", fail)
    return codes


async def test_a_begin_that_fails_for_another_reason_is_mended_by_the_end(failing: list[ReturnCode]) -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        card = await (await guest.open(ALICE, 1.0)).connect(READER, SHARED, ANY)
        failing.append(ReturnCode.F_COMM_ERROR)
        await card.begin()
        for call in (card.transmit(COUNT, T1), card.status(), card.attribute(0x90303), card.control(1, b"", 9)):
            with raises(ReturnCode.F_COMM_ERROR):
                await call
        with raises(ReturnCode.F_COMM_ERROR):
            await card.end(LEAVE)
        await card.begin()
        assert await card.transmit(COUNT, T1) == b"\0\0\0\1\x90\0"
        await card.end(LEAVE)


async def test_or_by_another_begin(failing: list[ReturnCode]) -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        card = await (await guest.open(ALICE, 1.0)).connect(READER, SHARED, ANY)
        failing.append(ReturnCode.F_COMM_ERROR)
        await card.begin()
        await card.begin()
        await asyncio.sleep(0.2)
        await card.begin()
        assert await card.transmit(COUNT, T1) == b"\0\0\0\1\x90\0"
        await card.end(LEAVE)


async def test_or_by_reconnect(failing: list[ReturnCode]) -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        card = await (await guest.open(ALICE, 1.0)).connect(READER, SHARED, ANY)
        failing.append(ReturnCode.F_COMM_ERROR)
        await card.begin()
        await asyncio.sleep(0.2)
        await card.reconnect(SHARED, ANY, RESET)
        assert await card.transmit(COUNT, T1) == b"\0\0\0\1\x90\0"
        assert desk.card.resets == 1


async def test_a_connect_that_failed_is_made_by_a_reconnect_that_resets() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        context = await guest.open(ALICE, 1.0)
        await context.connect(READER, SHARED, ANY)
        desk.reader.remove()
        card = await context.connect(READER, SHARED, ANY)
        with raises(ReturnCode.W_REMOVED_CARD):
            await card.transmit(COUNT, T1)
        desk.reader.insert(desk.card)
        await card.reconnect(SHARED, ANY, RESET)
        assert desk.card.resets == 1
        await card.status()


async def test_what_is_owed_comes_first() -> None:
    """Before a reset at the end of a transaction, and before a reconnect, the turn must have come."""
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        card = await (await guest.open(ALICE, 0.5)).connect(READER, SHARED, ANY)
        bob = await (await desk.manager.open(BOB)).connect(READER, SHARED, ANY)
        await bob.begin()
        await card.begin()
        await asyncio.sleep(1)
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await card.reconnect(SHARED, ANY, LEAVE)
        ending = desk.start(card.end(RESET))
        await asyncio.sleep(3)
        assert not ending.done()
        assert desk.card.resets == 0
        await bob.end(LEAVE)
        await ending
        assert desk.card.resets == 1
        with raises(ReturnCode.W_RESET_CARD):
            await bob.status()


async def test_nested_transactions_are_owed_together() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        card = await (await guest.open(ALICE, 0.5)).connect(READER, SHARED, ANY)
        bob = await (await desk.manager.open(BOB)).connect(READER, SHARED, ANY)
        await bob.begin()
        await card.begin()
        await card.begin()
        await asyncio.sleep(1)
        await card.begin()
        await card.end(LEAVE)
        await bob.end(LEAVE)
        assert await card.transmit(COUNT, T1) == b"\0\0\0\1\x90\0"
        for _ in range(2):
            assert desk.manager.status.readers[0].holder is not None
            await card.end(LEAVE)
            await asyncio.sleep(0.1)
        assert desk.manager.status.readers[0].holder is None
        with raises(ReturnCode.E_NOT_TRANSACTED):
            await card.end(LEAVE)


async def test_calls_that_are_too_large_do_not_travel() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        card = await (await guest.open(ALICE, 1.0)).connect(READER, SHARED, ANY)
        trips = guest.counters.round_trips
        for call in (
            card.transmit(bytes(70_000), T1),
            card.control(1, bytes(70_000), 9),
            card.set_attribute(1, bytes(300)),
        ):
            with raises(ReturnCode.E_INSUFFICIENT_BUFFER):
                await call
        assert guest.counters.round_trips == trips
        with raises(ReturnCode.E_UNSUPPORTED_FEATURE):
            await card.set_attribute(1, b"x")


async def test_a_handle_that_is_closed_is_none() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        context = await guest.open(ALICE, -1.0)
        card = await context.connect(READER, SHARED, ANY)
        await card.disconnect(LEAVE)
        for call in (card.status(), card.disconnect(LEAVE), card.begin(), card.transmit(COUNT, T1)):
            with raises(ReturnCode.E_INVALID_HANDLE):
                await call
        await context.close()
        await context.close()
        with raises(ReturnCode.E_INVALID_HANDLE):
            await context.connect(READER, SHARED, ANY)
