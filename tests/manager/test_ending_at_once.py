"""Begin, end and transmit without a task: what happens in the middle of it, and when all ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

import pytest

from cardferry.manager import LocalManager, Settings
from cardferry.pcsc.constants import Protocol
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.interface import Peer
from cardferry.readers.base import Answered, ReaderObserver
from tests.manager.desk import (
    APDU,
    ATR,
    LEAVE,
    OK,
    SHARED,
    T1,
    Client,
    Desk,
    FakeReader,
    quiet,
    raises,
)
from tests.manager.sent import Sent, leaves, nothing_at_once, owner


@pytest.fixture(autouse=True)
def form() -> None:
    """These tests choose the form themselves."""


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
