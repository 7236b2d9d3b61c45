"""Begin, end and transmit without a task: when they may be made so, and that nothing is left over, whatever happens.

That they do the same as the coroutines is what all other tests in this folder see to, which run in both forms.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

import pytest

from cardferry.manager import LocalManager, Settings
from cardferry.manager.card import LocalCard
from cardferry.pcsc.constants import MAX_APDU_SIZE, PROTOCOL_ANY_OLD, Protocol
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.interface import Peer
from cardferry.readers.base import Answered, ReaderObserver
from tests.manager.desk import (
    APDU,
    ATR,
    DIRECT,
    EXCLUSIVE,
    LEAVE,
    OK,
    RESET,
    SHARED,
    T1,
    UNPOWER,
    Client,
    Desk,
    FakeReader,
    quiet,
    raises,
)


@pytest.fixture(autouse=True)
def form() -> None:
    """These tests choose the form themselves."""


class Sent:
    """A command that was sent at once, and how that ended."""

    def __init__(self, card: LocalCard, apdu: bytes = APDU) -> None:
        self.endings: list[tuple[bytes, PcscError | None]] = []
        #: Called with the ending, in the moment when it comes.
        self.then: Callable[[], None] = lambda: None
        self._left = False
        self._ended = asyncio.Event()
        self._left = card.transmit_at_once(apdu, T1, self._done)
        assert self._left

    def _done(self, response: bytes, error: PcscError | None) -> None:
        assert self._left, "answered before it was sent"
        self.endings.append((response, error))
        self._ended.set()
        self.then()

    def under_way(self) -> bool:
        """Whether it has not ended."""
        return not self.endings

    async def code(self) -> ReturnCode:
        """How it ended."""
        await self._ended.wait()
        await quiet()
        ((response, error),) = self.endings
        assert response == (b"" if error else OK)
        return error.code if error else ReturnCode.S_SUCCESS


def refused(response: bytes, error: PcscError | None) -> None:
    raise AssertionError(f"an answer to what was not sent: {response!r} {error!r}")


def leaves(card: LocalCard, apdu: bytes = APDU, protocol: int = T1) -> bool:
    """Whether a command would leave now; it must not."""
    return card.transmit_at_once(apdu, protocol, refused)


def owner(desk: Desk) -> object:
    """Whose turn it is."""
    return desk.slot.turns.owner


def nothing_at_once(client: Client) -> bool:
    """Whether the coroutines are the only way now, for everything."""
    card = client.card
    return not (leaves(card) or card.begin_at_once() or card.end_at_once(LEAVE))


# when


async def test_alone_everything_is_made_at_once() -> None:
    async with Desk() as desk:
        card = (await desk.client()).card
        assert await Sent(card).code() == 0
        assert not desk.reader.held()
        assert card.begin_at_once()
        assert desk.reader.held()
        assert await Sent(card).code() == 0
        assert desk.reader.held()
        assert card.end_at_once(LEAVE)
        assert not desk.reader.held()
        assert desk.reader.at_once == 4
        assert desk.reader.calls[1:] == ["transmit", "claim", "transmit", "release"]
        assert owner(desk) is None


async def test_transactions_are_counted() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        card = alice.card
        assert card.begin_at_once()
        await card.begin()
        assert card.begin_at_once()
        for _ in range(2):
            assert card.end_at_once(LEAVE)
            assert desk.reader.held()
            assert nothing_at_once(bob)
        await card.end(LEAVE)
        assert not desk.reader.held()
        assert not card.end_at_once(LEAVE)
        assert bob.card.begin_at_once()
        assert [call for call in desk.reader.calls if call != "transmit"][1:] == ["claim", "release", "claim"]
        assert bob.card.end_at_once(LEAVE)


async def test_an_exclusive_connection_is_no_transaction() -> None:
    async with Desk() as desk:
        card = (await desk.client(share=EXCLUSIVE)).card
        assert not card.end_at_once(LEAVE)
        assert card.begin_at_once()
        assert await Sent(card).code() == 0
        assert card.end_at_once(LEAVE)
        assert not card.end_at_once(LEAVE)
        assert desk.reader.held()
        assert desk.sharing == -1


@pytest.mark.parametrize("disposition", [RESET, UNPOWER])
async def test_an_end_that_resets_is_not_made_at_once(disposition: object) -> None:
    async with Desk() as desk:
        card = (await desk.client()).card
        assert card.begin_at_once()
        assert not card.end_at_once(disposition)  # type: ignore[arg-type]
        assert desk.reader.held()
        assert card.lock_count == 1


async def test_while_somebody_else_has_the_card_nothing_is_made_at_once() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        second = await alice.context.connect(desk.reader.name, SHARED, Protocol.ANY)
        assert alice.card.begin_at_once()
        for card in (bob.card, second):
            assert nothing_at_once(Client(bob.context, card))
        assert alice.card.end_at_once(LEAVE)


async def test_while_a_command_is_under_way_nothing_is_made_at_once() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        desk.reader.takes["transmit"] = 1
        sent = Sent(alice.card)
        await quiet()
        assert sent.under_way()
        assert nothing_at_once(alice)
        assert nothing_at_once(bob)
        assert await sent.code() == 0
        assert owner(desk) is None


async def test_while_a_coroutine_is_at_the_reader_nothing_is_made_at_once() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        desk.reader.takes["attribute"] = 1  # which needs no turn
        asked = desk.start(alice.card.attribute(1))
        await quiet()
        assert nothing_at_once(bob)
        assert owner(desk) is None
        await asked
        assert bob.card.begin_at_once()
        asked = desk.start(alice.card.attribute(1))
        await quiet()
        assert not leaves(bob.card)
        assert not bob.card.end_at_once(LEAVE)
        assert owner(desk) is bob.card
        await asked
        assert bob.card.end_at_once(LEAVE)


async def test_a_handle_that_must_be_told_something_is_told_by_the_coroutine() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        await alice.card.reconnect(SHARED, Protocol.ANY, RESET)
        assert nothing_at_once(bob)
        assert await Sent(alice.card).code() == 0
        with raises(ReturnCode.W_RESET_CARD):
            await bob.card.begin()
        desk.remove()
        assert nothing_at_once(alice)
        desk.insert()
        assert nothing_at_once(alice)
        with raises(ReturnCode.W_REMOVED_CARD):
            await alice.card.transmit(APDU, T1)


async def test_inside_a_transaction_a_handle_that_must_be_told_something_does_nothing_at_once() -> None:
    async with Desk() as desk:
        client = await desk.client()
        card = client.card
        assert card.begin_at_once()
        desk.reader.reset_by_others = True
        assert await Sent(card).code() is ReturnCode.W_RESET_CARD
        assert card.lock_count == 1
        assert nothing_at_once(client)
        await card.reconnect(SHARED, Protocol.ANY, LEAVE)
        assert await Sent(card).code() == 0
        assert card.end_at_once(LEAVE)


@pytest.mark.parametrize("how", ["disconnected", "closed", "unplugged"])
async def test_a_handle_that_is_no_more_does_nothing(how: str) -> None:
    async with Desk() as desk:
        client = await desk.client()
        if how == "disconnected":
            await client.card.disconnect(LEAVE)
        elif how == "closed":
            await client.context.close()
        else:
            desk.unplug()
            client.card.happened = None
        calls = list(desk.reader.calls)
        assert nothing_at_once(client)
        assert desk.reader.calls == calls


async def test_a_transaction_does_not_nest_or_end_on_a_reader_that_has_gone() -> None:
    async with Desk() as desk:
        client = await desk.client()
        assert client.card.begin_at_once()
        assert client.card.begin_at_once()
        desk.unplug()
        client.card.happened = None
        assert nothing_at_once(client)
        assert client.card.lock_count == 2


@pytest.mark.parametrize("protocol", [Protocol.T0, Protocol.RAW, PROTOCOL_ANY_OLD, Protocol.UNDEFINED, 0x10001])
async def test_only_the_protocol_in_force_is_sent_at_once(protocol: int) -> None:
    async with Desk() as desk:
        card = (await desk.client()).card
        assert not leaves(card, protocol=protocol)
        assert owner(desk) is None


async def test_no_protocol_in_force_nothing_sent() -> None:
    async with Desk(card=False) as desk:
        card = (await desk.client(share=DIRECT)).card
        assert not leaves(card, protocol=Protocol.UNDEFINED)
        assert card.begin_at_once(), "the reader can be held without a card"
        assert card.end_at_once(LEAVE)


async def test_the_longest_command() -> None:
    async with Desk() as desk:
        card = (await desk.client()).card
        assert not leaves(card, bytes(MAX_APDU_SIZE + 1))
        assert await Sent(card, bytes(MAX_APDU_SIZE)).code() == 0


@pytest.mark.parametrize("call", ["claim", "transmit"])
async def test_a_turn_is_not_kept_when_the_reader_cannot(call: str) -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        desk.reader.deliberate.add(call)
        assert not (alice.card.begin_at_once() if call == "claim" else leaves(alice.card))
        assert owner(desk) is None
        assert desk.slot.device.idle
        assert alice.card.lock_count == 0
        desk.reader.deliberate.clear()
        assert bob.card.begin_at_once()
        assert bob.card.end_at_once(LEAVE)


async def test_a_transaction_is_kept_when_the_reader_cannot() -> None:
    async with Desk() as desk:
        card = (await desk.client()).card
        assert card.begin_at_once()
        desk.reader.deliberate |= {"transmit", "release"}
        assert not leaves(card)
        assert not card.end_at_once(LEAVE)
        assert (card.lock_count, owner(desk)) == (1, card)
        await card.end(LEAVE)
        assert owner(desk) is None


# a place in the queue


@pytest.mark.parametrize("call", ["claim", "transmit"])
async def test_a_place_in_the_queue_is_not_lost_by_asking_in_vain(call: str) -> None:
    async with Desk() as desk:
        holder, alice = await desk.client("holder"), await desk.client("alice", patience=0.1)
        bob = await desk.client("bob", patience=0.1)
        await holder.card.begin()
        for waiting in (alice, bob):
            with raises(ReturnCode.E_SHARING_VIOLATION):
                await waiting.card.begin()
        await holder.card.end(LEAVE)
        desk.reader.deliberate.add(call)
        waiting_before = desk.slot.turns.waiting
        assert [place.caller for place in waiting_before] == [alice.card, bob.card]
        assert not (alice.card.begin_at_once() if call == "claim" else leaves(alice.card))
        assert desk.slot.turns.waiting == waiting_before


async def test_a_place_in_the_queue_is_used_up_by_the_turn_it_led_to() -> None:
    async with Desk() as desk:
        holder, alice = await desk.client("holder"), await desk.client("alice", patience=0.1)
        await holder.card.begin()
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await alice.card.begin()
        await holder.card.end(LEAVE)
        if not alice.card.begin_at_once():
            await alice.card.begin()
        assert owner(desk) is alice.card
        assert desk.slot.turns.waiting == []


async def test_who_waits_comes_before_who_has_just_been_answered() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        desk.reader.takes["transmit"] = 0.1
        sent = Sent(alice.card)
        waiting = desk.start(bob.card.begin())
        await quiet()
        again: list[bool] = []
        sent.then = lambda: again.append(leaves(alice.card) or alice.card.begin_at_once())
        assert await sent.code() == 0
        assert again == [False]
        await waiting
        assert owner(desk) is bob.card


async def test_who_waits_for_the_reader_alone_comes_in_between() -> None:
    """An attribute needs no turn: it comes between two commands of somebody who sends them without a pause."""
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        assert alice.card.begin_at_once()
        desk.reader.takes["transmit"] = 0.1
        sent = Sent(alice.card)
        asked = desk.start(bob.card.attribute(1))
        await quiet()
        assert not asked.done
        again: list[bool] = []
        sent.then = lambda: again.append(leaves(alice.card))
        assert await sent.code() == 0
        assert again == [False]
        await asked
        assert await Sent(alice.card).code() == 0
        assert alice.card.end_at_once(LEAVE)


# in the middle of it


Happens = Callable[[Desk, Client], Awaitable[None]]


async def _card_removed(desk: Desk, client: Client) -> None:
    desk.remove()
    desk.insert()


async def _unplugged(desk: Desk, client: Client) -> None:
    desk.unplug()


async def _vanished(desk: Desk, client: Client) -> None:
    await client.context.close()


@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("needs_rest", [False, True])
@pytest.mark.parametrize(
    ("happens", "code"),
    [
        (_card_removed, ReturnCode.E_NO_SMARTCARD),
        (_unplugged, ReturnCode.E_READER_UNAVAILABLE),
        (_vanished, ReturnCode.S_SUCCESS),
    ],
)
async def test_what_happens_in_the_middle_leaves_nothing_over(
    happens: Happens, code: ReturnCode, needs_rest: bool, transaction: bool
) -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        slot = desk.slot
        if transaction:
            assert alice.card.begin_at_once()
        desk.reader.takes["transmit"] = 1
        if needs_rest:
            desk.reader.takes["rest"] = 1
            desk.reader.fails["transmit"] = PcscError(ReturnCode.F_COMM_ERROR)
            code = ReturnCode.E_READER_UNAVAILABLE if happens is _unplugged else ReturnCode.F_COMM_ERROR
        sent = Sent(alice.card)
        waiting = desk.start(bob.card.begin())
        await asyncio.sleep(0.5)
        await happens(desk, alice)
        await quiet()
        assert sent.under_way()
        if happens is _unplugged:
            assert waiting.code is ReturnCode.E_READER_UNAVAILABLE
        assert await sent.code() is code
        await asyncio.sleep(2)
        assert waiting.done
        assert slot.turns.owner is (bob.card if waiting.code == 0 else None)
        if happens is not _unplugged:
            assert slot.device.idle
            desk.reader.takes.clear()
            await bob.context.close()
            await asyncio.sleep(1)
            await desk.check_usable()


@pytest.mark.parametrize("moment", [0.5, 1.5])
async def test_a_transaction_whose_program_vanishes_is_reset_after_its_command(moment: float) -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        assert alice.card.begin_at_once()
        desk.reader.takes.update(transmit=1, rest=1)
        if moment > 1:
            desk.reader.fails["transmit"] = PcscError(ReturnCode.F_COMM_ERROR)
        sent = Sent(alice.card)
        waiting = desk.start(bob.card.begin())
        await asyncio.sleep(moment)
        await alice.context.close()
        assert sent.under_way()
        with raises(ReturnCode.W_RESET_CARD):
            await waiting
        assert not sent.under_way()
        assert desk.reader.calls[-2:] == ["reset RESET", "release"]


async def test_the_rest_belongs_to_the_call() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        desk.reader.takes["rest"] = 1
        desk.reader.fails["transmit"] = PcscError(ReturnCode.F_COMM_ERROR)
        sent = Sent(alice.card)
        await asyncio.sleep(0.5)
        assert nothing_at_once(alice)
        assert nothing_at_once(bob)
        waiting = desk.start(bob.card.attribute(1))
        await quiet()
        assert not waiting.done
        assert await sent.code() is ReturnCode.F_COMM_ERROR
        await waiting
        assert owner(desk) is None


async def test_a_local_program_in_the_way_is_waited_for_and_the_command_repeated_once() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        desk.reader.local_begin()
        sent = Sent(alice.card)
        waiting = desk.start(bob.card.begin())
        await asyncio.sleep(3)
        assert sent.under_way()
        desk.reader.local_end()
        assert await sent.code() == 0
        assert desk.reader.session == [APDU]
        assert [call for call in desk.reader.calls if call in ("claim", "release")] == ["claim", "release", "claim"]
        await waiting
        await bob.card.end(LEAVE)


async def test_a_local_program_in_the_way_for_longer_than_patience() -> None:
    async with Desk() as desk:
        alice = await desk.client("alice", patience=0.5)
        desk.reader.local_begin()
        began = asyncio.get_running_loop().time()
        assert await Sent(alice.card).code() is ReturnCode.E_SHARING_VIOLATION
        assert asyncio.get_running_loop().time() - began == pytest.approx(0.5, abs=0.01)
        desk.reader.local_end()
        assert [place.caller for place in desk.slot.turns.waiting] == [alice.card]
        assert await alice.card.transmit(APDU, T1) == OK
        assert desk.reader.session == [APDU]


async def test_a_program_that_vanishes_while_a_local_program_is_in_its_way() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        desk.reader.local_begin()
        sent = Sent(alice.card)
        await asyncio.sleep(1)
        await alice.context.close()
        assert await sent.code() is ReturnCode.E_CANCELLED
        desk.reader.local_end()
        assert await Sent(bob.card).code() == 0
        assert desk.reader.session == [APDU]


async def test_inside_a_transaction_a_refusal_is_not_answered_by_another_claim() -> None:
    async with Desk() as desk:
        card = (await desk.client()).card
        assert card.begin_at_once()
        desk.reader.fails["transmit"] = PcscError(ReturnCode.E_SHARING_VIOLATION)
        assert await Sent(card).code() is ReturnCode.E_SHARING_VIOLATION
        assert desk.reader.calls.count("claim") == 1
        assert card.end_at_once(LEAVE)


async def test_a_reset_by_others_is_told_to_all() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        desk.reader.reset_by_others = True
        assert await Sent(alice.card).code() is ReturnCode.W_RESET_CARD
        for client in (alice, bob):
            with raises(ReturnCode.W_RESET_CARD):
                await client.card.status()


# idleness


async def test_who_has_a_command_under_way_is_not_idle() -> None:
    async with Desk(Settings(max_idle=5)) as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        assert alice.card.begin_at_once()
        desk.reader.takes["transmit"] = 12
        sent = Sent(alice.card)
        began = asyncio.get_running_loop().time()
        waiting = desk.start(bob.card.begin())
        assert await sent.code() == 0
        assert not waiting.done
        with raises(ReturnCode.W_RESET_CARD):
            await waiting
        assert asyncio.get_running_loop().time() - began == pytest.approx(12 + 5, abs=0.1)
        with raises(ReturnCode.W_RESET_CARD):
            await alice.card.end(LEAVE)


async def test_who_still_has_the_rest_of_a_command_to_do_is_not_idle() -> None:
    async with Desk(Settings(max_idle=5)) as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        assert alice.card.begin_at_once()
        desk.reader.takes["rest"] = 12
        desk.reader.fails["transmit"] = PcscError(ReturnCode.F_COMM_ERROR)
        sent = Sent(alice.card)
        began = asyncio.get_running_loop().time()
        waiting = desk.start(bob.card.begin())
        assert await sent.code() is ReturnCode.F_COMM_ERROR
        with raises(ReturnCode.W_RESET_CARD):
            await waiting
        assert asyncio.get_running_loop().time() - began == pytest.approx(12 + 5, abs=0.1)


async def test_a_turn_that_was_taken_at_once_is_watched_for_idleness() -> None:
    async with Desk(Settings(max_idle=5)) as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob", patience=0.1)
        assert alice.card.begin_at_once()
        for _ in range(6):
            with raises(ReturnCode.E_SHARING_VIOLATION):
                await bob.card.begin()
            await asyncio.sleep(0.8)
        with raises(ReturnCode.W_RESET_CARD):
            await alice.card.end(LEAVE)


# readers with bugs


class Buggy(FakeReader):
    """Raises what no reader may raise, at once only."""

    def claim_at_once(self) -> bool:
        raise ZeroDivisionError

    def release_at_once(self) -> bool:
        raise ZeroDivisionError

    def transmit_at_once(self, apdu: bytes, protocol: Protocol, answered: Answered) -> bool:
        raise ZeroDivisionError


async def test_a_bug_in_a_reader_stops_at_the_reader(caplog: pytest.LogCaptureFixture) -> None:
    async with Desk() as desk:
        desk.reader.__class__ = Buggy
        client = await desk.client()
        with caplog.at_level(logging.ERROR):
            assert not client.card.begin_at_once()
            assert not leaves(client.card)
            await client.card.begin()
            assert not leaves(client.card)
            assert not client.card.end_at_once(LEAVE)
        assert caplog.text.count("a bug in the reader") == 4
        assert await client.card.transmit(APDU, T1) == OK
        await client.card.end(LEAVE)


async def test_a_bug_in_the_rest_is_the_readers_failure(caplog: pytest.LogCaptureFixture) -> None:
    async with Desk() as desk:
        card = (await desk.client()).card
        desk.reader.fails["transmit"] = ZeroDivisionError()
        with caplog.at_level(logging.ERROR):
            assert await Sent(card).code() is ReturnCode.F_INTERNAL_ERROR
        assert "a bug in the reader" in caplog.text
        assert await Sent(card).code() == 0


# the manager stops


class Wired(FakeReader):
    """Answers when its wire is cut, and not before."""

    answered: Answered | None = None

    def transmit_at_once(self, apdu: bytes, protocol: Protocol, answered: Answered) -> bool:
        self.answered = answered
        return True

    def cut(self) -> None:
        async def rest() -> bytes:
            raise PcscError(ReturnCode.E_READER_UNAVAILABLE, "cut")

        if self.answered is not None:
            self.answered(b"", rest)


class Source:
    """Has one reader, and cuts its wire in the end, as a pcscd's source does."""

    def __init__(self) -> None:
        self.reader = Wired()
        self.stopped = False

    async def run(self, observer: ReaderObserver) -> None:
        observer.reader_added(self.reader)
        self.reader.empty = False
        observer.card_inserted(self.reader, ATR)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.reader.cut()
            self.stopped = True


@pytest.mark.parametrize("how", ["leaves", "is cancelled"])
@pytest.mark.parametrize("transaction", [False, True])
async def test_the_manager_stops_with_a_command_under_way(how: str, transaction: bool) -> None:
    source = Source()
    manager = LocalManager([source], Settings(farewell=1))
    sent: Sent | None = None
    with contextlib.suppress(asyncio.CancelledError):
        async with manager:
            await quiet()
            context = await manager.open(Peer("alice"))
            card = await context.connect(source.reader.name, SHARED, Protocol.ANY)
            if transaction:
                assert card.begin_at_once()
            sent = Sent(card)
            if how == "is cancelled":
                raise asyncio.CancelledError
    assert source.stopped
    assert sent is not None
    assert await sent.code() is ReturnCode.E_READER_UNAVAILABLE


async def test_the_manager_stops_with_the_rest_of_a_command_under_way() -> None:
    sent: Sent | None = None
    async with Desk(Settings(farewell=1)) as desk:
        card = (await desk.client()).card
        desk.reader.takes["rest"] = 100
        desk.reader.fails["transmit"] = PcscError(ReturnCode.F_COMM_ERROR)
        sent = Sent(card)
        await asyncio.sleep(1)
        await desk.manager.__aexit__(None, None, None)
        assert await sent.code() is ReturnCode.E_CANCELLED
        desk.manager = LocalManager([])
        await desk.manager.__aenter__()
