"""Many resource managers become one: the readers of several hosts, side by side.

A `Union` serves what its `Member` hosts serve, whatever way leads to each, under names of `naming`. A call goes to the
manager that has the reader, and nothing else is between: a context opens its counterpart at a host with the first
connect that goes there, so what happens at one host never waits for another.

A member may join later, when its host has been reached for the first time. From then on it is its own manager that
says which readers there are. Members may be added and removed at any time: with one that is removed its readers go, and
what programs have there ends with ``E_READER_UNAVAILABLE``; their contexts stay.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Final, Self, TypeVar

from cardferry.changes import Changes
from cardferry.fleet.naming import ReaderNames
from cardferry.pcsc.caller import Caller
from cardferry.pcsc.constants import Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.interface import Card, Context, ResourceManager, SeenAlike
from cardferry.pcsc.reader_state import ReaderState, Snapshot, events_between
from cardferry.pcsc.reply import Reply, failed, running

#: s that the hosts have to report their readers, before those that come after them in the list may take their names.
FIRST_CHOICE: Final = 10.0
#: Names of readers beyond these are not remembered while their readers are away.
MOST_NAMES: Final = 4096
_REMOVED: Final = (ReturnCode.E_READER_UNAVAILABLE, "its host was removed")

T = TypeVar("T")


class Member:
    """One host of a union.

    Args:
        host: its name for people; readers get it when their own name is taken.
        manager: what serves its readers; None until it has joined.

    Attributes:
        known: to be set when it has reported its readers for the first time, or cannot at present.
        joined: set when there is a manager.
    """

    def __init__(self, host: str, manager: ResourceManager | None = None) -> None:
        self.host = host
        self.manager: ResourceManager | None = None
        self.known = asyncio.Event()
        self.joined = asyncio.Event()
        if manager is not None:
            self.join(manager)

    def join(self, manager: ResourceManager) -> None:
        """The host's manager is there, and stays."""
        if self.manager is not None:
            raise RuntimeError(f"{self.host} has joined already")
        self.manager = manager
        self.joined.set()


class _Side:
    """What a union shows of a member.

    Attributes:
        seen: the member's snapshot that was looked at last.
        readers: the same readers under their names in the union.
        admitted: whether its readers may have names yet.
        removed: whether the member is none of the union any more.
        watcher: tells the union of news.
    """

    __slots__ = ("admitted", "member", "number", "readers", "removed", "seen", "watcher")

    def __init__(self, number: int, member: Member) -> None:
        self.number = number
        self.member = member
        self.seen = Snapshot()
        self.readers: tuple[ReaderState, ...] = ()
        self.admitted = self.removed = False
        self.watcher: asyncio.Task[None] | None = None

    @property
    def manager(self) -> ResourceManager:
        """What serves the readers, of a member that has joined and is not removed; else ``E_READER_UNAVAILABLE``."""
        if self.removed or self.member.manager is None:
            raise PcscError(*_REMOVED)
        return self.member.manager

    def reply(self, call: Callable[[], Reply[T]]) -> Reply[T]:
        """What becomes of a call at that host."""
        if self.removed:
            return failed(PcscError(*_REMOVED))
        reply = call()
        return reply if reply.done() else running(self.outcome(reply))

    async def outcome(self, call: Awaitable[T]) -> T:
        """Likewise, of one that waits: it is over when the host is removed, whatever its own manager calls that."""
        try:
            return await call
        except PcscError as error:
            if self.removed:
                raise PcscError(*_REMOVED) from error
            raise

    @property
    def stale(self) -> bool:
        """Whether there is something new to look at."""
        manager = self.member.manager
        return self.admitted and manager is not None and manager.snapshot is not self.seen

    def look(self, snapshot: Snapshot, names: ReaderNames) -> int:
        """Show that snapshot; return how many readers came or went since the one before."""
        before, self.seen = self.seen, snapshot
        shown = {id(old): new for old, new in zip(before.readers, self.readers, strict=True)}
        self.readers = tuple(shown.get(id(reader)) or self._named(reader, names) for reader in snapshot.readers)
        came_or_went = {reader.name for reader in before.readers} ^ {reader.name for reader in snapshot.readers}
        return max(len(came_or_went), events_between(before.reader_events, snapshot.reader_events))

    def _named(self, reader: ReaderState, names: ReaderNames) -> ReaderState:
        name = names.name((self.number, reader.name), self.member.host)
        return reader if name == reader.name else replace(reader, name=name)


class Union(SeenAlike):
    """Serves the readers of several hosts as one; an asynchronous context manager that watches them meanwhile.

    Readers are in the order of the hosts, and at each in the order in which it has them. The host that comes first
    has the first choice of names: those behind it wait for it, but not longer than `FIRST_CHOICE`.

    Args:
        members: the hosts.

    Attributes:
        open_contexts: those of programs.
    """

    def __init__(self, members: Iterable[Member]) -> None:
        self.open_contexts: set[_UnionContext] = set()
        self._numbers = itertools.count()
        self._sides = [_Side(next(self._numbers), member) for member in members]
        #: Whether the time is over in which those in front have the first choice of names.
        self._all_admitted = False
        self._names = ReaderNames()
        self._snapshot = Snapshot()
        self._changes = Changes()
        self._tasks = asyncio.TaskGroup()
        self._admission: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        for side in self._sides:
            self._start(side)
        self._admission = self._tasks.create_task(self._admit(), name="the order of hosts")
        return self

    def _start(self, side: _Side) -> None:
        side.watcher = self._tasks.create_task(self._watch(side.member), name=f"readers of {side.member.host}")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in (self._admission, *(side.watcher for side in self._sides)):
            if task is not None:
                task.cancel()
        await self._tasks.__aexit__(kind, error, trace)

    # members

    def add(self, member: Member) -> None:
        """One more host, behind the others; the union must be entered."""
        side = _Side(next(self._numbers), member)
        side.admitted = self._all_admitted
        self._sides.append(side)
        self._start(side)
        self._changes.announce()

    async def remove(self, member: Member) -> None:
        """A host less: its readers go at once. Returns when nothing of programs is left there: its manager may end.

        Raises:
            ValueError: it is no member.
        """
        side = next((side for side in self._sides if side.member is member), None)
        if side is None:
            raise ValueError(f"{member.host} is no member")
        side.removed = True
        self._sides.remove(side)
        if side.watcher is not None:
            side.watcher.cancel()
        member.known.set()  # nobody need wait for it
        self._names.forget_host(side.number)
        self._renew(events=len(side.readers))
        self._changes.announce()
        async with asyncio.TaskGroup() as tasks:
            for context in tuple(self.open_contexts):
                tasks.create_task(context.leave(side))

    # ResourceManager

    @property
    def contexts(self) -> int:
        """How many contexts are open."""
        return len(self.open_contexts)

    @property
    def snapshot(self) -> Snapshot:
        """The readers of all hosts as they are known now."""
        if any(side.stale for side in self._sides):
            self._renew()
        return self._snapshot

    async def changed(self, serial: int) -> Snapshot:
        """Wait until the snapshot's serial is another one than ``serial``."""
        while self.snapshot.serial == serial:
            await self._changes.wait()
        return self.snapshot

    async def open(self, caller: Caller, patience: float | None = None) -> Context:
        """Open a context; hosts hear of it when it is used with their readers."""
        context = _UnionContext(self, caller, patience)
        self.open_contexts.add(context)
        return context

    async def ready(self) -> None:
        """Wait until the readers of all hosts are shown, but for hosts that cannot be reached at present."""
        for side in tuple(self._sides):
            await side.member.known.wait()
        while not all(side.admitted for side in self._sides):
            await self._changes.wait()

    def find(self, reader: str) -> tuple[ResourceManager, str]:
        """Who serves the reader that has this name here, and what it is called there.

        Raises:
            PcscError: ``E_UNKNOWN_READER``: no reader ever had that name.
        """
        side, name = self.side_of(reader)
        return side.manager, name

    def side_of(self, reader: str) -> tuple[_Side, str]:
        """Likewise, for contexts."""
        if any(side.stale for side in self._sides):
            self._renew()
        number, name = self._names.origin(reader) or (-1, "")
        for side in self._sides:
            if side.number == number:
                return side, name
        raise PcscError(ReturnCode.E_UNKNOWN_READER, reader)

    # watching the hosts

    def _renew(self, events: int = 0) -> None:
        """Look at what is new.

        Args:
            events: readers that have gone with their host.
        """
        for side in self._sides:
            if side.stale and side.member.manager is not None:
                events += side.look(side.member.manager.snapshot, self._names)
        readers = tuple(reader for side in self._sides for reader in side.readers)
        troubles = tuple(trouble for side in self._sides for trouble in side.seen.troubles)
        old = self._snapshot
        if events or readers != old.readers or troubles != old.troubles:
            self._snapshot = old.followed_by(readers, events, troubles)
        if len(self._names) > MOST_NAMES:
            self._names.forget({(side.number, reader.name) for side in self._sides for reader in side.seen.readers})

    async def _watch(self, member: Member) -> None:
        """Tell everybody who waits when a host has news."""
        while (manager := member.manager) is None:
            await member.joined.wait()
        serial = manager.snapshot.serial
        while True:
            self._changes.announce()
            serial = (await manager.changed(serial)).serial

    async def _admit(self) -> None:
        """Let the hosts have names for their readers, one after the other."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_CHOICE):
                for side in tuple(self._sides):
                    side.admitted = True
                    self._changes.announce()
                    await side.member.known.wait()
        self._all_admitted = True
        for side in self._sides:
            side.admitted = True
        self._changes.announce()


class _UnionContext:
    """One SCARDCONTEXT: has one at each host whose readers it has used."""

    __slots__ = ("_caller", "_closed", "_contexts", "_patience", "_union")

    def __init__(self, union: Union, caller: Caller, patience: float | None) -> None:
        self._union = union
        self._caller = caller
        self._patience = patience
        self._contexts: dict[_Side, Context] = {}
        self._closed = False

    async def connect(self, reader: str, share: ShareMode, protocols: Protocol) -> Card:
        """Connect to a reader, where it is."""
        if self._closed:
            raise PcscError(ReturnCode.E_INVALID_HANDLE)
        side, name = self._union.side_of(reader)
        context = self._contexts.get(side) or await self._open(side)
        return _UnionCard(side, await side.outcome(context.connect(name, share, protocols)), reader)

    async def _open(self, side: _Side) -> Context:
        context = await side.outcome(side.manager.open(self._caller, self._patience))
        if self._closed or side.removed:
            await context.close()
            raise PcscError(*(_REMOVED if side.removed else (ReturnCode.E_CANCELLED, "the context was closed")))
        self._contexts[side] = context
        return context

    async def leave(self, side: _Side) -> None:
        """Free what there is at a host that has been removed."""
        context = self._contexts.pop(side, None)
        if context is not None:
            await context.close()

    async def close(self) -> None:
        """Free every handle, at all hosts at once."""
        if self._closed:
            return
        self._closed = True
        self._union.open_contexts.discard(self)
        async with asyncio.TaskGroup() as tasks:
            for context in self._contexts.values():
                tasks.create_task(context.close())


class _UnionCard:
    """A handle, under its reader's name here; nothing can be done with it once its host is removed."""

    __slots__ = ("_card", "_closed", "_side", "reader")

    def __init__(self, side: _Side, card: Card, reader: str) -> None:
        self._side = side
        self._card = card
        self._closed = False
        self.reader = reader

    @property
    def protocol(self) -> Protocol:
        """The active protocol."""
        return self._card.protocol

    @property
    def counted(self) -> bool:
        """Whether the reader's `sharing` counts this handle."""
        return not self._side.removed and self._card.counted

    def begin(self) -> Reply[None]:
        """Begin a transaction."""
        return self._side.reply(self._card.begin)

    def end(self, disposition: Disposition) -> Reply[None]:
        """End a transaction."""
        return self._side.reply(partial(self._card.end, disposition))

    def transmit(self, apdu: bytes, protocol: int) -> Reply[bytes]:
        """Send a command APDU."""
        return self._side.reply(partial(self._card.transmit, apdu, protocol))

    async def reconnect(self, share: ShareMode, protocols: Protocol, initialization: Disposition) -> Protocol:
        """Renew the connection."""
        return await self._side.outcome(self._card.reconnect(share, protocols, initialization))

    async def control(self, code: int, data: bytes, max_response: int) -> bytes:
        """Send a control code to the reader."""
        return await self._side.outcome(self._card.control(code, data, max_response))

    async def attribute(self, attribute: int) -> bytes:
        """A reader attribute."""
        return await self._side.outcome(self._card.attribute(attribute))

    async def set_attribute(self, attribute: int, value: bytes) -> None:
        """Set a reader attribute."""
        await self._side.outcome(self._card.set_attribute(attribute, value))

    async def status(self) -> None:
        """Raise what ``SCardStatus`` would return."""
        await self._side.outcome(self._card.status())

    async def disconnect(self, disposition: Disposition) -> None:
        """Close the handle."""
        if self._closed:
            raise PcscError(ReturnCode.E_INVALID_HANDLE)
        self._closed = True
        if not self._side.removed:
            await self._side.outcome(self._card.disconnect(disposition))
