"""Readers in this process, with cards of software."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from cardferry.pcsc.constants import Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.readers.virtual import VirtualReaderSource
from tests.readers.observer import Remembering

ATR = bytes.fromhex("3b80800101")
APDU = bytes.fromhex("00a40000023f00")
SLOW = bytes.fromhex("0047000000")
NAME = "Virtual 00 00"


class Card:
    """A card that notes what it is asked; a slow command waits for the test."""

    def __init__(self, atr: bytes = ATR) -> None:
        self._atr = atr
        self.done: list[str] = []
        self.go_on = threading.Event()
        self.busy = threading.Event()

    @property
    def atr(self) -> bytes:
        return self._atr

    def power_on(self) -> bytes:
        self._do("on")
        return self._atr

    def reset(self) -> bytes:
        self._do("reset")
        return self._atr

    def power_off(self) -> None:
        self._do("off")

    def process(self, apdu: bytes) -> bytes:
        if self.slow(apdu):
            assert threading.current_thread() is not threading.main_thread()
            self.busy.set()
            assert self.go_on.wait(20)
            self.busy.clear()
        self._do(apdu.hex())
        return b"\x90\x00"

    def slow(self, apdu: bytes) -> bool:
        return apdu == SLOW

    def _do(self, what: str) -> None:
        assert not self.busy.is_set(), "asked two things at once"
        self.done.append(what)


@pytest.fixture
async def source() -> AsyncIterator[VirtualReaderSource]:
    source = VirtualReaderSource()
    observer = Remembering()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(source.run(observer))
        await asyncio.sleep(0)
        yield source
        task.cancel()


async def busy(card: Card) -> None:
    await asyncio.to_thread(card.busy.wait, 20)


async def test_what_was_there_before_is_reported_and_what_comes_later() -> None:
    source = VirtualReaderSource()
    observer = Remembering()
    first = source.add_reader("first")
    first.insert(Card())
    source.add_reader("second")
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(source.run(observer))
        assert await observer.take(3) == [
            ("reader added", "first"),
            ("card inserted", "first", ATR),
            ("reader added", "second"),
        ]
        first.remove()
        first.remove()
        first.insert(Card(b"\x3b\x00"))
        third = source.add_reader("third")
        source.remove_reader(first)
        source.remove_reader(third)
        assert observer.reports == [
            ("card removed", "first"),
            ("card inserted", "first", b"\x3b\x00"),
            ("reader added", "third"),
            ("reader removed", "first"),
            ("reader removed", "third"),
        ]
        task.cancel()
    source.add_reader("after")


async def test_an_impossible_atr_is_a_mute_card() -> None:
    source = VirtualReaderSource()
    observer = Remembering()
    source.add_reader(NAME).insert(Card(b"\x00" * 3))
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(source.run(observer))
        assert await observer.take(2) == [("reader added", NAME), ("card inserted", NAME, b"")]
        task.cancel()


async def test_names_are_unique_and_slots_hold_one_card(source: VirtualReaderSource) -> None:
    reader = source.add_reader(NAME)
    with pytest.raises(ValueError, match="already"):
        source.add_reader(NAME)
    reader.insert(Card())
    with pytest.raises(ValueError, match="already"):
        reader.insert(Card())


async def test_a_card_from_power_on_to_power_off(source: VirtualReaderSource) -> None:
    card = Card()
    reader = source.add_reader(NAME)
    reader.insert(card)
    assert await reader.connect(ShareMode.SHARED, Protocol.ANY) == Protocol.T1
    assert await reader.transmit(APDU, Protocol.T1) == b"\x90\x00"
    await reader.reset(Disposition.RESET, Protocol.ANY)
    await reader.reset(Disposition.UNPOWER, Protocol.ANY)
    await reader.disconnect(Disposition.LEAVE)
    assert card.done == ["on", APDU.hex(), "reset", "off", "on", "off"]


async def test_a_slow_command_does_not_hold_up_the_loop(source: VirtualReaderSource) -> None:
    slow, quick = Card(), Card()
    readers = [source.add_reader("slow"), source.add_reader("quick")]
    for reader, card in zip(readers, (slow, quick), strict=True):
        reader.insert(card)
        await reader.connect(ShareMode.SHARED, Protocol.ANY)
    reply = readers[0].transmit(SLOW, Protocol.T1)
    await busy(slow)
    assert await readers[1].transmit(APDU, Protocol.T1) == b"\x90\x00"
    slow.go_on.set()
    assert await reply == b"\x90\x00"


async def test_a_card_is_asked_one_thing_at_a_time_even_after_a_cancelled_call(source: VirtualReaderSource) -> None:
    card = Card()
    reader = source.add_reader(NAME)
    reader.insert(card)
    await reader.connect(ShareMode.SHARED, Protocol.ANY)
    abandoned = reader.transmit(SLOW, Protocol.T1)
    await busy(card)
    abandoned.cancel()
    await asyncio.sleep(0)
    following = reader.transmit(APDU, Protocol.T1)
    await asyncio.sleep(0)
    assert not following.done()
    card.go_on.set()
    assert await following == b"\x90\x00"
    assert card.done == ["on", SLOW.hex(), APDU.hex()]


@pytest.mark.parametrize("how", ["card", "reader"])
async def test_removal_during_a_command(source: VirtualReaderSource, how: str) -> None:
    card = Card()
    reader = source.add_reader(NAME)
    reader.insert(card)
    await reader.connect(ShareMode.SHARED, Protocol.ANY)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(caught(reader.transmit(SLOW, Protocol.T1)))
        await busy(card)
        reader.remove() if how == "card" else source.remove_reader(reader)
        assert await task is ReturnCode.E_NO_SMARTCARD
    card.go_on.set()
    assert await caught(reader.transmit(APDU, Protocol.T1)) is ReturnCode.E_NO_SMARTCARD


async def caught(call: object) -> ReturnCode:
    with pytest.raises(PcscError) as caught:
        await call  # type: ignore[misc]
    return caught.value.code


async def test_a_delay_is_waited_before_each_command(source: VirtualReaderSource) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    reader = source.add_reader(NAME, delay=0.02, sleep=sleep)
    reader.insert(Card())
    await reader.connect(ShareMode.SHARED, Protocol.ANY)
    assert slept == []
    await reader.transmit(APDU, Protocol.T1)
    await reader.transmit(APDU, Protocol.T1)
    assert slept == [0.02, 0.02]


async def test_removal_during_the_delay(source: VirtualReaderSource) -> None:
    async def sleep(seconds: float) -> None:
        reader.remove()

    reader = source.add_reader(NAME, delay=0.02, sleep=sleep)
    card = Card()
    reader.insert(card)
    await reader.connect(ShareMode.SHARED, Protocol.ANY)
    assert await caught(reader.transmit(APDU, Protocol.T1)) is ReturnCode.E_NO_SMARTCARD
    assert card.done == ["on"]
