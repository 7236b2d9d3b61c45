"""What the manager's tests sit at: a manager, a reader that does as it is told, and clients.

A conversation reads like this::

    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        await alice.card.begin()
        waiting = desk.start(bob.card.begin())
        ...
        await alice.card.end(LEAVE)
        await waiting

When the desk is left, nothing may be left on it: see `Desk.check_clean`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import pytest

from cardferry.manager import LocalManager, Settings
from cardferry.manager.card import LocalCard
from cardferry.manager.context import LocalContext
from cardferry.manager.slot import Slot
from cardferry.pcsc.caller import Caller
from cardferry.pcsc.constants import Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.reply import replying
from tests.callers import somebody
from tests.virtual_time import quiet

T = TypeVar("T")

ATR = bytes.fromhex("3b80800101")
APDU = bytes.fromhex("00a40000023f00")
OK = b"\x90\x00"
POWERED, LOST, RESET_BY_OTHERS = "powered", "lost", "reset by others"
LEAVE, RESET, UNPOWER, EJECT = Disposition.LEAVE, Disposition.RESET, Disposition.UNPOWER, Disposition.EJECT
SHARED, EXCLUSIVE, DIRECT = ShareMode.SHARED, ShareMode.EXCLUSIVE, ShareMode.DIRECT
T1 = Protocol.T1
READER = "Reader 00 00"


class FakeReader:
    """A reader whose card speaks T=1 and says 9000 to everything.

    Attributes:
        calls: what the manager asked for, in order.
        session: APDUs that the card has seen since it was powered or reset: what the next user could inherit.
        history: everything that the card has seen: APDUs, `POWERED`, and how it lost its session, `LOST` or
            `RESET_BY_OTHERS`.
        takes: how long a call of that name takes, in s.
        fails: what the next call of that name raises, when it has taken its time.
        reset_by_others: another user of the reader resets the card before the next command.
        empty: there is no card.
        removals: how often it was taken out.
        gates: a call of that name waits until its event is set; ``claimed`` is a claim that has taken effect.
        local_programs: programs on this computer are connected, so that an exclusive connection keeps them waiting.
        misuse: what the manager must not do, but did.
    """

    def __init__(self, name: str = READER) -> None:
        self._name = name
        self.calls: list[str] = []
        self.session: list[bytes] = []
        self.history: list[bytes | str] = []
        self.protocol = T1
        self._claimed = False
        self.connected = False
        self.takes: dict[str, float] = {}
        self.fails: dict[str, BaseException] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.misuse: list[str] = []
        self.local_programs = False
        self.reset_by_others = False
        self.empty = True
        self.removals = 0
        self._local_done = asyncio.Event()
        self._local_done.set()
        self._at_work: str | None = None

    @property
    def name(self) -> str:
        return self._name

    def forget(self, how: str = LOST) -> None:
        """The card loses its session: a reset, a removal, a loss of power."""
        self.session.clear()
        self.history.append(how)

    def lose_card(self) -> None:
        """The card is gone, in the middle of whatever it does."""
        self.forget()
        self.empty = True
        self.removals += 1

    def held(self) -> bool:
        """Whether the manager has claimed the reader."""
        return self._claimed

    @property
    def idle(self) -> bool:
        """Whether no call is in progress."""
        return self._at_work is None

    # a program on this computer, at the same pcscd

    def local_begin(self) -> None:
        """A local program takes the reader's lock."""
        assert not self._claimed, "the local program would have been refused"
        self._local_done.clear()

    def local_end(self) -> None:
        """It gives it back."""
        self._local_done.set()

    # Reader

    @contextmanager
    def _one_at_a_time(self, call: str) -> Generator[None]:
        if self._at_work is not None:
            self.misuse.append(f"{call} during {self._at_work}")
        self._at_work = call
        try:
            yield
        finally:
            self._at_work = None

    async def _do(self, call: str) -> None:
        self.calls.append(call)
        if call in self.takes:
            await asyncio.sleep(self.takes[call])
        if call in self.gates:
            await self.gates[call].wait()
        if call in self.fails:
            raise self.fails.pop(call)

    async def _use(self, call: str) -> None:
        if not self.connected:
            self.misuse.append(f"{call} without connection")
        await self._do(call)
        if not self._local_done.is_set() and not self._claimed:
            raise PcscError(ReturnCode.E_SHARING_VIOLATION, "a local program holds the reader")
        if self.reset_by_others:
            self.reset_by_others = False
            self.forget(RESET_BY_OTHERS)
            raise PcscError(ReturnCode.W_RESET_CARD)

    async def connect(self, share: ShareMode, protocols: Protocol) -> Protocol:
        with self._one_at_a_time("connect"):
            await self._do(f"connect {share.name}")
            self.connected = True
            if share is DIRECT:
                return Protocol.UNDEFINED
            if not protocols & self.protocol:
                raise PcscError(ReturnCode.E_PROTO_MISMATCH)
            self.history.append(POWERED)
            return self.protocol

    async def reset(self, disposition: Disposition, protocols: Protocol) -> Protocol:
        with self._one_at_a_time("reset"):
            try:
                await self._use(f"reset {disposition.name}")
            except PcscError as error:
                if error.code is not ReturnCode.E_SHARING_VIOLATION:
                    self.forget()
                raise
            self.forget()
            return self.protocol

    async def disconnect(self, disposition: Disposition) -> None:
        with self._one_at_a_time("disconnect"):
            await self._do(f"disconnect {disposition.name}")
            self.connected = self._claimed = False
            self.forget()

    @replying
    async def claim(self, *, alone: bool = False) -> bool:
        with self._one_at_a_time("claim"):
            if self._claimed and not alone:
                self.misuse.append("claimed twice")
            await self._do("claim")
            await self._local_done.wait()
            self._claimed = True
            if "claimed" in self.gates:
                await self.gates["claimed"].wait()
            return alone and not self.local_programs

    @replying
    async def release(self) -> None:
        with self._one_at_a_time("release"):
            try:
                await self._do("release")
            finally:
                self._claimed = False

    @replying
    async def transmit(self, apdu: bytes, protocol: Protocol) -> bytes:
        with self._one_at_a_time("transmit"):
            removals = self.removals
            await self._use("transmit")
            if self.empty or removals != self.removals:
                raise PcscError(ReturnCode.E_NO_SMARTCARD)
            self.session.append(apdu)
            self.history.append(apdu)
            return OK

    async def control(self, code: int, data: bytes, max_response: int) -> bytes:
        with self._one_at_a_time("control"):
            await self._use("control")
            return data

    async def attribute(self, attribute: int) -> bytes:
        with self._one_at_a_time("attribute"):
            await self._use("attribute")
            return b"value"

    async def set_attribute(self, attribute: int, value: bytes) -> None:
        with self._one_at_a_time("set_attribute"):
            await self._use("set_attribute")


class Call(Generic[T]):
    """A call that was started; await it for what it returns or raises."""

    def __init__(self, work: Awaitable[T], tasks: asyncio.TaskGroup) -> None:
        self._outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._task = tasks.create_task(self._run(work))

    async def _run(self, work: Awaitable[T]) -> None:
        try:
            self._outcome.set_result(await work)
        except PcscError as error:
            self._outcome.set_exception(error)
            self._outcome.exception()  # looked at, even if the test does not
        except asyncio.CancelledError:
            self._outcome.cancel()

    @property
    def done(self) -> bool:
        """Whether it has returned or raised."""
        return self._outcome.done()

    @property
    def code(self) -> ReturnCode | None:
        """How it ended; None while it runs."""
        if not self._outcome.done():
            return None
        error = self._outcome.exception()
        return error.code if isinstance(error, PcscError) else ReturnCode.S_SUCCESS

    def cancel(self) -> None:
        """Cancel it, as a caller that gives up does."""
        self._task.cancel()

    def __await__(self) -> Generator[Any, None, T]:
        return self._outcome.__await__()


@dataclass
class Client:
    """A program: its context, and its handle if it has connected."""

    context: LocalContext
    handle: LocalCard | None = None

    @property
    def card(self) -> LocalCard:
        """Its handle."""
        assert self.handle is not None
        return self.handle


@contextmanager
def raises(code: ReturnCode) -> Generator[None]:
    """The block fails with that return code."""
    with pytest.raises(PcscError) as caught:
        yield
    assert caught.value.code is code, caught.value


class Desk:
    """See the module.

    Args:
        settings: of the manager.
        card: whether a card is in the reader from the beginning.
    """

    def __init__(self, settings: Settings | None = None, *, card: bool = True) -> None:
        self.manager = LocalManager([], settings)
        self.reader = FakeReader()
        self._card = card
        self._tasks = asyncio.TaskGroup()
        self._clients: list[Client] = []

    async def __aenter__(self) -> Self:
        await self.manager.__aenter__()
        await self._tasks.__aenter__()
        self.manager.reader_added(self.reader)
        if self._card:
            self.insert()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            for client in self._clients:
                await client.context.close()
        await self._tasks.__aexit__(kind, error, trace)
        if error is None:
            await self.check_clean()
        await self.manager.__aexit__(kind, error, trace)

    async def check_clean(self) -> None:
        """Everybody has gone: nobody owns, nobody waits, nothing is claimed, and the reader was let go."""
        await asyncio.sleep(self.manager.settings.linger + 1)
        assert self.manager.contexts == set()
        assert self.reader.misuse == []
        slot = self.slot_if_there
        if slot is not None:
            assert slot.turns.owner is None
            assert slot.turns.waiting == []
            assert slot.sharing == 0
            assert slot.handles == slot.dispossessed == set()
            assert not self.reader.held()
            assert not self.reader.connected

    @property
    def slot(self) -> Slot:
        """What the manager knows of the reader."""
        return self.manager.slot(self.reader.name)

    @property
    def slot_if_there(self) -> Slot | None:
        """The same, None when the reader was removed."""
        try:
            return self.slot
        except PcscError:
            return None

    @property
    def state(self) -> Any:
        """The reader as applications see it."""
        return self.manager.snapshot.readers[0]

    @property
    def sharing(self) -> int:
        """How many handles applications see."""
        return self.manager.snapshot.readers[0].sharing

    def start(self, work: Awaitable[T]) -> Call[T]:
        """Let a call run beside the test."""
        return Call(work, self._tasks)

    async def client(
        self,
        name: str = "somebody",
        share: ShareMode | None = SHARED,
        *,
        patience: float | None = None,
        protocols: Protocol = Protocol.ANY,
        caller: Caller | None = None,
    ) -> Client:
        """A program with a context, and connected unless ``share`` is None."""
        client = Client(await self.manager.open(caller or somebody(name), patience))
        self._clients.append(client)
        if share is not None:
            client.handle = await client.context.connect(self.reader.name, share, protocols)
        return client

    async def check_usable(self) -> None:
        """Somebody new can use the card, and need not wait for it."""
        start = asyncio.get_running_loop().time()
        client = await self.client("somebody new")
        await client.card.begin()
        assert await client.card.transmit(APDU, T1) == OK
        await client.card.end(LEAVE)
        await client.context.close()
        assert asyncio.get_running_loop().time() - start < 0.01

    def insert(self, atr: bytes = ATR) -> None:
        """A card is put in; one without ATR is mute."""
        self.reader.empty = False
        self.manager.card_inserted(self.reader, atr)

    def remove(self) -> None:
        """The card is taken out."""
        self.reader.lose_card()
        self.manager.card_removed(self.reader)

    def unplug(self) -> None:
        """The reader is taken away, with its card."""
        self.reader.lose_card()
        self.manager.reader_removed(self.reader)


async def elapsed(work: Awaitable[object]) -> float:
    """How long that takes on the virtual clock, in s. A PC/SC error ends it, too."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    with suppress(PcscError):
        await work
    return loop.time() - start


__all__ = [
    "APDU",
    "ATR",
    "DIRECT",
    "EJECT",
    "EXCLUSIVE",
    "LEAVE",
    "LOST",
    "OK",
    "POWERED",
    "READER",
    "RESET",
    "RESET_BY_OTHERS",
    "SHARED",
    "T1",
    "UNPOWER",
    "Call",
    "Client",
    "Desk",
    "FakeReader",
    "elapsed",
    "quiet",
    "raises",
]
