"""What the link's tests sit at: a host with readers, guests, and pipes between them that can be slow and can break.

A conversation reads like this::

    async with Desk(delay=0.025) as desk:
        guest = await desk.guest()
        program = await guest.open(ALICE)
        card = await program.connect(READER, SHARED, ANY)
        ...
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import AsyncExitStack, contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

import pytest

from cardferry.link import Guest, Limits, LinkServer, LinkState, Memories, Timing
from cardferry.link.host_direct import Introducer
from cardferry.manager import LocalManager, Settings
from cardferry.pcsc.constants import Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.interface import ResourceManager
from cardferry.readers.virtual import VirtualReader, VirtualReaderSource
from cardferry.transports.base import Pipe, PipeUser
from cardferry.transports.memory import memory_pipe
from cardferry.wire.link.session import Bounds
from tests.callers import TESTER, somebody
from tests.link.cards import CountingCard

T = TypeVar("T")

ALICE, BOB = somebody("alice", 1000, 1), somebody("bob", 1000, 2)
SHARED, EXCLUSIVE, DIRECT = ShareMode.SHARED, ShareMode.EXCLUSIVE, ShareMode.DIRECT
LEAVE, RESET, UNPOWER = Disposition.LEAVE, Disposition.RESET, Disposition.UNPOWER
ANY, T1 = Protocol.ANY, Protocol.T1
READER = "Reader 00 00"


class SlowPipe:
    """Delays what arrives, in order.

    Args:
        pipe: what is slow.
        delay: s that bytes take.
    """

    def __init__(self, pipe: Pipe, delay: float) -> None:
        self.name = pipe.name
        self._pipe = pipe
        self._delay = delay
        self._loop = asyncio.get_running_loop()
        self._user: PipeUser
        self._last = 0.0

    def start(self, user: PipeUser) -> None:
        self._user = user
        self._pipe.start(self)

    def received(self, data: bytes) -> None:
        self._later(self._user.received, data)

    def congested(self, congested: bool) -> None:
        self._user.congested(congested)

    def lost(self, error: Exception | None) -> None:
        self._later(self._user.lost, error)

    def _later(self, call: Callable[[Any], None], what: object) -> None:
        # Timers of the same moment come in no particular order.
        self._last = max(self._last + 1e-9, self._loop.time() + self._delay)
        self._loop.call_at(self._last, call, what)

    def write(self, data: bytes) -> None:
        self._pipe.write(data)

    def pause_reading(self) -> None:
        self._pipe.pause_reading()

    def resume_reading(self) -> None:
        self._pipe.resume_reading()

    def close(self) -> None:
        self._pipe.close()

    def abort(self) -> None:
        self._pipe.abort()


class BrittlePipe:
    """Breaks when a number of bytes has been written into it, wherever that is in a frame.

    Args:
        pipe: what breaks.
        strength: bytes that still get through.
        torn: whether what is on its way is lost with it.
    """

    def __init__(self, pipe: Pipe, strength: int, *, torn: bool) -> None:
        self.name = pipe.name
        self._pipe = pipe
        self._strength = strength
        self._torn = torn
        self.start = pipe.start
        self.pause_reading, self.resume_reading = pipe.pause_reading, pipe.resume_reading
        self.close, self.abort = pipe.close, pipe.abort

    def write(self, data: bytes) -> None:
        if self._strength <= 0:
            return
        self._pipe.write(data[: self._strength])
        self._strength -= len(data)
        if self._strength <= 0:
            if self._torn:
                self._pipe.abort()
            else:
                self._pipe.close()


class Road:
    """The way from one guest to the host.

    Attributes:
        open: whether pipes can be made; False refuses them.
        pipes: the guest's ends of all pipes, as they were made.
        wrap: makes something else of both ends of a new pipe.
        introducer: see `LinkServer.serve`.
    """

    def __init__(self, desk: Desk, delay: float) -> None:
        self.open = True
        self.dials = 0
        self.pipes: list[tuple[Pipe, Pipe]] = []
        self.wrap: Callable[[Pipe, Pipe], tuple[Pipe, Pipe]] = lambda near, far: (near, far)
        self.introducer: Introducer | None = None
        self._desk = desk
        self._delay = delay

    async def dial(self) -> Pipe:
        self.dials += 1
        if not self.open:
            raise ConnectionRefusedError("the road is closed")
        near: Pipe
        far: Pipe
        near, far = memory_pipe()
        self.pipes.append((near, far))
        near, far = self.wrap(near, far)
        if self._delay:
            near, far = SlowPipe(near, self._delay), SlowPipe(far, self._delay)
        self._desk.start(self._desk.host.serve(far, TESTER, "guest", self.introducer))
        return near

    def cut(self) -> None:
        """Break the present pipe."""
        self.pipes[-1][0].abort()

    def go_black(self) -> None:
        """The present pipe loses everything from now on, and nobody is told."""
        for end in self.pipes[-1]:
            end.write = lambda data: None  # type: ignore[method-assign]
            end.pause_reading()


class Desk:
    """A host with one reader and a card in it; more can be added to `source`.

    Args:
        card: the card.
        delay: s that bytes take each way.
        card_delay: s that the card takes for each command.
        remember: whether guests are told what the card has said before.
        around: puts something around the manager that the guests use.
    """

    def __init__(
        self,
        card: CountingCard | None = None,
        *,
        delay: float = 0.0,
        card_delay: float = 0.0,
        timing: Timing | None = None,
        limits: Limits | None = None,
        bounds: Bounds | None = None,
        accelerate: bool = True,
        settings: Settings | None = None,
        remember: bool = True,
        around: Callable[[ResourceManager], ResourceManager] = lambda manager: manager,
    ) -> None:
        self.card = card or CountingCard()
        self.delay = delay
        self.timing = timing
        self.source = VirtualReaderSource()
        self.memories = Memories()
        self.manager = LocalManager([self.source], settings, self.memories.watch)
        self.host = LinkServer(
            around(self.manager),
            timing=timing,
            limits=limits,
            bounds=bounds,
            accelerate=accelerate,
            memories=self.memories if remember else None,
        )
        self.reader: VirtualReader
        self.roads: list[Road] = []
        self._card_delay = card_delay
        self._stack = AsyncExitStack()
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._tasks)
        await self._stack.enter_async_context(self.manager)
        await self._stack.enter_async_context(self.host)
        self.reader = self.source.add_reader(READER, self._card_delay)
        self.reader.insert(self.card)
        await self.manager.changed(0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)
        assert not self.manager.contexts
        assert not self.host.status.guests

    def start(self, work: Awaitable[T]) -> asyncio.Task[T]:
        return self._tasks.create_task(_awaiting(work))

    async def guest(self, road: Road | None = None, **options: Any) -> Guest:
        """A guest whose link is up; its road is the last of `roads`."""
        road = road or Road(self, self.delay)
        self.roads.append(road)
        options.setdefault("timing", self.timing)
        guest = await self._stack.enter_async_context(Guest(road.dial, name="host", **options))
        await guest.ready()
        return guest


async def becomes(guest: Guest, state: LinkState) -> None:
    """Wait until the link is in that state."""
    while guest.state is not state:
        await guest._changes.wait()


@contextmanager
def raises(code: ReturnCode) -> Generator[None]:
    """The block must end with that return code."""
    with pytest.raises(PcscError) as caught:
        yield
    assert caught.value.code is code, caught.value


async def _awaiting(work: Awaitable[T]) -> T:
    return await work
