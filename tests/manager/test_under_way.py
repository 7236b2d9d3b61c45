"""Begin, end and transmit: there at once when nothing is in the way; and what happens in the middle of a command."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest

from cardferry.manager import LocalManager, Settings
from cardferry.pcsc.constants import Protocol
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.reply import Reply
from cardferry.readers.base import ReaderObserver
from tests.callers import somebody
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


def owner(desk: Desk) -> object:
    """Whose turn it is."""
    return desk.slot.turns.owner


# when nothing has to be waited for


async def test_alone_everything_is_there_at_once() -> None:
    async with Desk() as desk:
        card = (await desk.client()).card
        tasks = asyncio.all_tasks()
        replies: list[Reply[bytes] | Reply[None]] = [
            card.transmit(APDU, T1),
            card.begin(),
            card.begin(),
            card.transmit(APDU, T1),
            card.end(LEAVE),
            card.end(LEAVE),
        ]
        assert [reply.done() for reply in replies] == [True] * 6
        assert [reply.result() for reply in replies] == [OK, None, None, OK, None, None]
        assert desk.reader.calls[1:] == ["transmit", "claim", "transmit", "release"]
        assert owner(desk) is None
        assert asyncio.all_tasks() == tasks


async def test_an_error_is_there_at_once_too() -> None:
    async with Desk() as desk:
        card = (await desk.client()).card
        error = card.end(LEAVE).error
        assert isinstance(error, PcscError)
        assert error.code is ReturnCode.E_NOT_TRANSACTED


async def test_an_answer_comes_in_the_moment_when_the_reader_gives_it() -> None:
    async with Desk() as desk:
        card = (await desk.client()).card
        answer = Reply[bytes]()
        desk.reader.transmit = lambda apdu, protocol: answer  # type: ignore[method-assign]
        response = card.transmit(APDU, T1)
        assert not response.done()
        answer.resolve(OK)
        assert response.result() == OK


async def test_who_waits_comes_before_who_has_just_been_answered() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        desk.reader.takes["transmit"] = 0.1
        again: list[Reply[None]] = []
        sent = alice.card.transmit(APDU, T1).then(lambda _: again.append(alice.card.begin()))
        waiting = desk.start(bob.card.begin())
        await sent
        assert not again[0].done()
        await waiting
        assert owner(desk) is bob.card.state
        await bob.card.end(LEAVE)
        await again[0]
        await alice.card.end(LEAVE)


async def test_who_waits_for_the_reader_alone_comes_in_between() -> None:
    """An attribute needs no turn: it comes between two commands of somebody who sends them without a pause."""
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        await alice.card.begin()
        desk.reader.takes["transmit"] = 0.1
        again: list[Reply[bytes]] = []
        sent = alice.card.transmit(APDU, T1).then(lambda _: again.append(alice.card.transmit(APDU, T1)))
        asked = desk.start(bob.card.attribute(1))
        await sent
        assert await again[0] == OK
        assert asked.done
        assert [call for call in desk.reader.calls if call in ("transmit", "attribute")] == [
            "transmit",
            "attribute",
            "transmit",
        ]
        await alice.card.end(LEAVE)


# in the middle of a command


Happens = Callable[[Desk, Client], Awaitable[None]]


async def _card_removed(desk: Desk, client: Client) -> None:
    desk.remove()
    desk.insert()


async def _unplugged(desk: Desk, client: Client) -> None:
    desk.unplug()


async def _vanished(desk: Desk, client: Client) -> None:
    await client.context.close()


@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize(
    ("happens", "code"),
    [
        (_card_removed, ReturnCode.E_NO_SMARTCARD),
        (_unplugged, ReturnCode.E_NO_SMARTCARD),
        (_vanished, ReturnCode.S_SUCCESS),
    ],
)
async def test_what_happens_in_the_middle_leaves_nothing_over(
    happens: Happens, code: ReturnCode, transaction: bool
) -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        slot = desk.slot
        if transaction:
            await alice.card.begin()
        desk.reader.takes["transmit"] = 1
        sent = desk.start(alice.card.transmit(APDU, T1))
        waiting = desk.start(bob.card.begin())
        await asyncio.sleep(0.5)
        await happens(desk, alice)
        await quiet()
        assert not sent.done
        if happens is _unplugged:
            assert waiting.code is ReturnCode.E_READER_UNAVAILABLE
        await asyncio.sleep(2)
        assert sent.code is code
        assert waiting.done
        assert slot.turns.owner is (bob.card.state if waiting.code == 0 else None)
        if happens is not _unplugged:
            desk.reader.takes.clear()
            await bob.context.close()
            await asyncio.sleep(1)
            await desk.check_usable()


async def test_a_transaction_whose_program_vanishes_is_reset_after_its_command() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        await alice.card.begin()
        desk.reader.takes["transmit"] = 1
        sent = desk.start(alice.card.transmit(APDU, T1))
        waiting = desk.start(bob.card.begin())
        await asyncio.sleep(0.5)
        await alice.context.close()
        assert sent.code is None
        with raises(ReturnCode.W_RESET_CARD):
            await waiting
        assert sent.done
        assert desk.reader.calls[-2:] == ["reset RESET", "release"]


async def test_a_program_that_vanishes_while_a_local_program_is_in_its_way() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        desk.reader.local_begin()
        sent = desk.start(alice.card.transmit(APDU, T1))
        await asyncio.sleep(1)
        await alice.context.close()
        await quiet()
        assert sent.code is ReturnCode.E_CANCELLED
        desk.reader.local_end()
        assert await bob.card.transmit(APDU, T1) == OK
        assert desk.reader.session == [APDU]


async def test_inside_a_transaction_a_refusal_is_not_answered_by_another_claim() -> None:
    async with Desk() as desk:
        card = (await desk.client()).card
        await card.begin()
        desk.reader.fails["transmit"] = PcscError(ReturnCode.E_SHARING_VIOLATION)
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await card.transmit(APDU, T1)
        assert desk.reader.calls.count("claim") == 1
        await card.end(LEAVE)


async def test_who_has_a_command_under_way_is_not_idle() -> None:
    async with Desk(Settings(max_idle=5)) as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        await alice.card.begin()
        desk.reader.takes["transmit"] = 12
        sent = desk.start(alice.card.transmit(APDU, T1))
        began = asyncio.get_running_loop().time()
        waiting = desk.start(bob.card.begin())
        assert await sent == OK
        assert not waiting.done
        with raises(ReturnCode.W_RESET_CARD):
            await waiting
        assert asyncio.get_running_loop().time() - began == pytest.approx(12 + 5, abs=0.1)
        with raises(ReturnCode.W_RESET_CARD):
            await alice.card.end(LEAVE)


# the manager stops


class Wired(FakeReader):
    """Answers when its wire is cut, and not before."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = Reply[bytes]()

    def transmit(self, apdu: bytes, protocol: Protocol) -> Reply[bytes]:
        return self.answer


class Source:
    """Has one reader, and cuts its wire in the end, as a pcscd's source does."""

    def __init__(self) -> None:
        self.reader = Wired()

    async def run(self, observer: ReaderObserver) -> None:
        observer.reader_added(self.reader)
        self.reader.empty = False
        observer.card_inserted(self.reader, ATR)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.reader.answer.fail(PcscError(ReturnCode.E_READER_UNAVAILABLE, "cut"))


@pytest.mark.parametrize("how", ["leaves", "is cancelled"])
@pytest.mark.parametrize("transaction", [False, True])
async def test_the_manager_stops_with_a_command_under_way(how: str, transaction: bool) -> None:
    source = Source()
    sent: Reply[bytes] | None = None
    with contextlib.suppress(asyncio.CancelledError):
        async with LocalManager([source], Settings(farewell=1)) as manager:
            await quiet()
            context = await manager.open(somebody("alice"))
            card = await context.connect(source.reader.name, SHARED, Protocol.ANY)
            if transaction:
                await card.begin()
            sent = card.transmit(APDU, T1)
            if how == "is cancelled":
                raise asyncio.CancelledError
    assert sent is not None
    assert isinstance(sent.error, PcscError)
    assert sent.error.code is ReturnCode.E_READER_UNAVAILABLE
