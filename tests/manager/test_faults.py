"""Faults injected at the manager's boundaries: what raises is logged, and everybody else goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cardferry.manager import LocalManager
from cardferry.manager.card import LocalCard
from cardferry.manager.slot import Slot
from cardferry.manager.sources import PAUSE
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.readers.base import ReaderObserver
from cardferry.readers.virtual import VirtualReader, VirtualReaderSource
from tests.callers import somebody
from tests.manager.desk import APDU, ATR, EXCLUSIVE, LEAVE, OK, SHARED, T1, Desk, FakeReader, quiet


class BugError(Exception):
    """Not a PcscError."""


def raising(*_: object, **__: object) -> None:
    raise BugError("oops")


def logged(caplog: pytest.LogCaptureFixture) -> bool:
    """Whether the log has it, with its traceback."""
    return "BugError: oops" in caplog.text and "Traceback" in caplog.text


@pytest.mark.parametrize("answer", ["a response", "an error", "after the reader went"])
async def test_one_that_raises_when_it_gets_its_answer(answer: str, caplog: pytest.LogCaptureFixture) -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        if answer == "an error":
            desk.reader.fails["transmit"] = PcscError(ReturnCode.F_COMM_ERROR)
        desk.reader.takes["transmit"] = 1.0
        alice.card.transmit(APDU, T1).then(raising)
        waiting = desk.start(bob.card.transmit(APDU, T1))
        await quiet()
        if answer == "after the reader went":
            desk.unplug()
        await asyncio.sleep(3)
        assert waiting.code is (ReturnCode.E_READER_UNAVAILABLE if answer.startswith("after") else ReturnCode.S_SUCCESS)
        assert logged(caplog)


async def test_a_handle_that_cannot_be_freed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob", None)
        others = [await alice.context.connect(desk.reader.name, SHARED, T1) for _ in range(3)]
        await others[2].begin()
        vanish = LocalCard.vanish
        monkeypatch.setattr(LocalCard, "vanish", lambda card: raising() if card is alice.card else vanish(card))
        await alice.context.close()
        assert logged(caplog)
        monkeypatch.undo()
        card = await bob.context.connect(desk.reader.name, SHARED, T1)
        await card.begin()  # the transaction of the third one is over
        alice.card.vanish()


async def test_cleaning_up_that_fails(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob", None)
        await alice.card.begin()
        with monkeypatch.context() as patch:
            patch.setattr(desk.slot.device, "forget", raising)
            await alice.context.close()
            await (await bob.context.connect(desk.reader.name, SHARED, T1)).begin()
        assert logged(caplog)


class FaultySource:
    """Has a reader with a card, and runs until it is told to fail."""

    def __init__(self) -> None:
        self.reader = FakeReader("Faulty 00 00")
        self.runs = 0
        self.fail = asyncio.Event()

    async def run(self, observer: ReaderObserver) -> None:
        self.runs += 1
        self.fail.clear()
        observer.reader_added(self.reader)
        self.reader.empty = False
        observer.card_inserted(self.reader, ATR)
        await self.fail.wait()
        raise BugError("oops")


@asynccontextmanager
async def sources() -> AsyncIterator[tuple[LocalManager, FaultySource, VirtualReader, VirtualReaderSource]]:
    """A manager of a source that can fail and of one that does not."""
    faulty, sound = FaultySource(), VirtualReaderSource()
    reader = sound.add_reader("Sound 00 00")
    async with LocalManager([faulty, sound]) as manager:
        await quiet()
        yield manager, faulty, reader, sound


async def test_a_source_that_fails_is_started_again_and_the_others_notice_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with sources() as (manager, faulty, _, _):
        context = await manager.open(somebody("alice"))
        card = await context.connect("Faulty 00 00", SHARED, T1)
        for runs in (1, 2, 3):
            faulty.fail.set()
            await quiet()
            assert faulty.runs == runs
            assert [state.name for state in manager.snapshot.readers] == ["Sound 00 00"]
            with pytest.raises(PcscError) as caught:
                await card.transmit(APDU, T1)
            assert caught.value.code is ReturnCode.E_READER_UNAVAILABLE
            await asyncio.sleep(PAUSE)
            assert sorted(state.name for state in manager.snapshot.readers) == ["Faulty 00 00", "Sound 00 00"]
            card = await context.connect("Faulty 00 00", SHARED, T1)
            assert await card.transmit(APDU, T1) == OK
            assert logged(caplog)
            caplog.clear()
        await context.close()


@pytest.mark.parametrize("report", ["card_inserted", "card_removed", "removed"])
async def test_a_report_that_comes_to_grief(
    report: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with sources() as (manager, faulty, reader, sound):
        context = await manager.open(somebody("alice"))
        card = await context.connect("Faulty 00 00", EXCLUSIVE, T1)
        slot = manager.slot(reader.name)
        with monkeypatch.context() as patch:
            if report == "card_inserted":
                patch.setattr(slot.device, "card_inserted", raising)
                reader.insert(_Card())
            elif report == "card_removed":
                reader.insert(_Card())
                patch.setattr(slot, "card_removed", raising)
                reader.remove()
            else:
                patch.setattr(Slot, "removed", raising)
                sound.remove_reader(reader)
        assert logged(caplog)
        assert await card.transmit(APDU, T1) == OK
        other = sound.add_reader("Other 00 00")
        other.insert(_Card())
        await manager.changed(manager.snapshot.serial - 1)
        await (await context.connect("Other 00 00", SHARED, T1)).disconnect(LEAVE)
        await context.close()
        assert faulty.runs == 1


class _Card:
    """A card of software that says 9000."""

    atr = ATR

    def slow(self, apdu: bytes) -> bool:
        return False

    def process(self, apdu: bytes) -> bytes:
        return OK

    def power_on(self) -> bytes:
        return ATR

    reset = power_on

    def power_off(self) -> None:
        pass
