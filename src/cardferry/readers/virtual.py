"""Readers in this process whose cards are software: for the demo, for tests, and for the built-in card.

A card (`VirtualCard`) answers in the event loop, or in a thread when it says that a command is slow. It is never
asked two things at once, not even after a caller has given up waiting for an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.virtual_card import VirtualCard
from cardferry.readers.slot import SlotReader, SlotSource

Sleep = Callable[[float], Awaitable[object]]


class VirtualPort:
    """Calls a `VirtualCard`, here or in a thread, one thing at a time.

    Args:
        card: the card.
        delay: time that each APDU takes besides the card's own, in s; for benches.
        sleep: waits that time.
    """

    def __init__(self, card: VirtualCard, delay: float = 0.0, sleep: Sleep = asyncio.sleep) -> None:
        self._card = card
        self._delay = delay
        self._sleep = sleep
        self._loop = asyncio.get_running_loop()
        self._pulled: asyncio.Future[None] = self._loop.create_future()
        self._in_thread: asyncio.Future[bytes] | None = None

    def pull(self) -> None:
        """The card goes: who waits for an answer gets none."""
        if not self._pulled.done():
            self._pulled.set_result(None)

    async def power_on(self) -> bytes:
        """Power the card, or reset it cold."""
        await self._idle()
        return self._card.power_on()

    async def reset(self) -> bytes:
        """Reset the card warm."""
        await self._idle()
        return self._card.reset()

    async def power_off(self) -> None:
        """Take the power away."""
        await self._idle()
        self._card.power_off()

    async def exchange(self, apdu: bytes) -> bytes:
        """Let the card answer."""
        if self._delay:
            await self._sleep(self._delay)
        await self._idle()
        if not self._card.slow(apdu):
            return self._card.process(apdu)
        self._in_thread = self._loop.run_in_executor(None, partial(self._card.process, apdu))
        return await self._answer(self._in_thread)

    async def _idle(self) -> None:
        """Wait for what the card still does for somebody who is not interested any more."""
        if self._in_thread is not None and not self._in_thread.done():
            await self._answer(self._in_thread)
        if self._pulled.done():
            raise PcscError(ReturnCode.E_NO_SMARTCARD)

    async def _answer(self, thread: asyncio.Future[bytes]) -> bytes:
        # `wait` leaves the future alone when this task is cancelled: the card is busy until it is through.
        await asyncio.wait((thread, self._pulled), return_when=asyncio.FIRST_COMPLETED)
        if self._pulled.done():
            raise PcscError(ReturnCode.E_NO_SMARTCARD)
        return thread.result()


class VirtualReader(SlotReader):
    """A reader that takes software cards.

    Args:
        source: whom it belongs to; see `VirtualReaderSource.add_reader`.
        name: unique within its source.
        channel: a number of its own.
        delay: time that each APDU takes besides the card's own, in s; for benches.
        sleep: waits that time.
    """

    def __init__(
        self,
        source: VirtualReaderSource,
        name: str,
        channel: int = 0,
        delay: float = 0.0,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        super().__init__(name, channel)
        self._source = source
        self._delay = delay
        self._sleep = sleep
        self._inside: VirtualPort | None = None

    def insert(self, card: VirtualCard) -> None:
        """Put a card in. Raises `ValueError` when there is one."""
        port = VirtualPort(card, self._delay, self._sleep)
        self._source.card_in(self, port, card.atr)
        self._inside = port

    def remove(self) -> None:
        """Take the card out; nothing happens when there is none."""
        if self._inside is None:
            return
        port, self._inside = self._inside, None
        port.pull()
        if self.occupied:
            self._source.card_out(self)

    def take(self) -> None:
        """The slot is empty from now on, also because the whole reader goes."""
        super().take()
        if self._inside is not None:
            self._inside.pull()
            self._inside = None


class VirtualReaderSource(SlotSource):
    """Readers that tests and the demo plug, unplug and fill by calling methods."""

    def add_reader(self, name: str, delay: float = 0.0, sleep: Sleep = asyncio.sleep) -> VirtualReader:
        """Plug in a reader; see `VirtualReader` for the arguments."""
        reader = VirtualReader(self, name, len(self.readers), delay, sleep)
        self._add(reader)
        return reader

    def remove_reader(self, reader: VirtualReader) -> None:
        """Unplug a reader, with its card."""
        self._remove(reader)

    def card_in(self, reader: VirtualReader, port: VirtualPort, atr: bytes) -> None:
        """For `VirtualReader.insert`."""
        self._insert(reader, port, atr, powered=False)

    def card_out(self, reader: VirtualReader) -> None:
        """For `VirtualReader.remove`."""
        self._eject(reader)
