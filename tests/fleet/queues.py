"""Cards with a queue in front of each, and guests that see all of them, each as late as the network makes it."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from functools import partial
from typing import Any, Self, cast

from cardferry.fleet.pool import Pool
from cardferry.pcsc.applications import Applications
from cardferry.pcsc.caller import Caller, Principal
from cardferry.pcsc.constants import CardState, Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.interface import Card, Context
from cardferry.pcsc.reader_state import Queue, ReaderState, Snapshot
from cardferry.pcsc.reply import DONE, Reply, answered
from tests.callers import somebody
from tests.link.desk import ANY, LEAVE, SHARED

POOL = "signing"


class Served:
    """A card that takes some s for each command, and the queue in front of it: first come, first served."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.served = 0
        self.handles: set[_Handle] = set()
        self._owner: _Handle | None = None
        self._waiting: deque[tuple[_Handle, Reply[None]]] = deque()

    def length(self) -> Queue:
        waiting = {handle for handle, _ in self._waiting}
        fresh = sum(not one.used and one is not self._owner and one not in waiting for one in self.handles)
        return Queue(len(waiting) + (self._owner is not None) + fresh, len(self.handles))

    def enter(self, handle: _Handle) -> Reply[None]:
        handle.used = True
        if self._owner is None:
            self._owner = handle
            return DONE
        turn: Reply[None] = Reply()
        self._waiting.append((handle, turn))
        return turn

    def leave(self, handle: _Handle) -> None:
        if self._owner is handle:
            self._owner, turn = self._waiting.popleft() if self._waiting else (None, None)
            if turn is not None:
                turn.resolve(None)


class _Handle:
    """A handle at a card, without a network in between; what a pool's tests do not need is not there."""

    protocol = Protocol.T1
    counted = True

    def __init__(self, card: Served, reader: str) -> None:
        self.reader = reader
        self.used = False
        self.card = card
        card.handles.add(self)

    def begin(self) -> Reply[None]:
        return self.card.enter(self)

    def end(self, disposition: Disposition) -> Reply[None]:
        self.card.leave(self)
        return DONE

    def transmit(self, apdu: bytes, protocol: int) -> Reply[bytes]:
        reply: Reply[bytes] = Reply()

        def done() -> None:
            self.card.served += 1
            reply.resolve(b"\x90\x00")

        asyncio.get_running_loop().call_later(self.card.seconds, done)
        return reply

    async def disconnect(self, disposition: Disposition) -> None:
        self.card.leave(self)
        self.card.handles.discard(self)


class Reach:
    """A guest's way to cards.

    Args:
        cards: by the names of their readers.
        trip: s from the guest to a card and back.
    """

    def __init__(self, cards: dict[str, Served], trip: float = 0.0) -> None:
        self.cards = cards
        self.trip = trip
        self.asked = 0
        state = CardState.PRESENT | CardState.POWERED
        self.snapshot = Snapshot(
            1, 1, tuple(ReaderState(name, state=state, atr=b";", queue=partial(self._ask, name)) for name in cards)
        )

    def _ask(self, name: str) -> Reply[Queue]:
        self.asked += 1
        if not self.trip:
            return answered(self.cards[name].length())
        reply: Reply[Queue] = Reply()
        loop, half = asyncio.get_running_loop(), self.trip / 2

        def there() -> None:
            length = self.cards[name].length()
            loop.call_later(half, lambda: None if reply.done() else reply.resolve(length))

        loop.call_later(half, there)
        return reply

    async def changed(self, serial: int) -> Snapshot:
        never: asyncio.Future[Snapshot] = asyncio.get_running_loop().create_future()
        return await never

    def seen_by(self, principal: Principal) -> Self:
        return self

    def may_read(self, reader: str, applications: Applications, apdu: bytes) -> bool:
        return True

    async def open(self, caller: Caller, patience: float | None = None) -> Context:
        return cast("Context", self)

    async def connect(self, reader: str, share: ShareMode, protocols: Protocol) -> Card:
        if self.trip:
            await asyncio.sleep(self.trip / 2)
        if reader not in self.cards:
            raise PcscError(ReturnCode.E_UNKNOWN_READER, reader)
        return cast("Card", _Handle(self.cards[reader], reader))

    async def close(self) -> None:
        """Nothing is kept."""


async def use(pool: Any, until: float, name: str = POOL, apdu: bytes = b"\0\xa4\4\0\0") -> list[float]:
    """A program that connects for each of its turns; returns how long it waited for each that ended in time."""
    loop = asyncio.get_running_loop()
    context = await pool.open(somebody())
    waits = []
    while (asked := loop.time()) < until:
        while True:
            try:
                card = await context.connect(name, SHARED, ANY)
                await card.begin()
                had = loop.time()
                await card.transmit(apdu, int(card.protocol))
                await card.end(LEAVE)
                await card.disconnect(LEAVE)
            except PcscError:
                await asyncio.sleep(0.01)
            else:
                break
        if loop.time() <= until:
            waits.append(had - asked)
    await context.close()
    return waits


async def all_use(pools: list[Pool] | list[Any], seconds: float, name: str = POOL) -> list[list[float]]:
    """A program at each of them, for so many s: the waits of each."""
    until = asyncio.get_running_loop().time() + seconds
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(use(pool, until, name)) for pool in pools]
    return [one.result() for one in running]


def guests(cards: dict[str, Served], count: int, trip: float = 0.0) -> list[Pool]:
    """Guests of a pool of all those cards."""
    return [Pool(POOL, Reach(cards, trip), chance=random.Random(number)) for number in range(count)]


def jain(counts: list[int]) -> float:
    """Jain's index: 1 when all have the same."""
    return sum(counts) ** 2 / (len(counts) * sum(count * count for count in counts))
