"""Many resource managers become one: the readers of several hosts, side by side.

A `Union` serves what its `Member` hosts serve, whatever way leads to each, under names of `naming`. A call goes to the
manager that has the reader, and nothing else is between: a context opens its counterpart at a host with the first
connect that goes there, so what happens at one host never waits for another.

A member may join later, when its host has been reached for the first time. From then on it is its own manager that
says which readers there are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Final, Self

from cardferry.changes import Changes
from cardferry.fleet.naming import ReaderNames
from cardferry.pcsc.caller import Caller
from cardferry.pcsc.constants import Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.interface import Card, Context, ResourceManager
from cardferry.pcsc.reader_state import ReaderState, Snapshot, events_between

#: s that the hosts have to report their readers, before those that come after them in the list may take their names.
FIRST_CHOICE: Final = 3.0
#: Names of readers beyond these are not remembered while their readers are away.
MOST_NAMES: Final = 4096


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
    """

    __slots__ = ("admitted", "member", "number", "readers", "seen")

    def __init__(self, number: int, member: Member) -> None:
        self.number = number
        self.member = member
        self.seen = Snapshot()
        self.readers: tuple[ReaderState, ...] = ()
        self.admitted = False

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


class Union:
    """Serves the readers of several hosts as one; an asynchronous context manager that watches them meanwhile.

    Readers are in the order of the hosts, and at each in the order in which it has them. The host that comes first
    has the first choice of names: those behind it wait for it, but not longer than `FIRST_CHOICE`.

    Args:
        members: the hosts.

    Attributes:
        contexts: how many are open.
    """

    def __init__(self, members: Iterable[Member]) -> None:
        self.contexts = 0
        self._sides = tuple(_Side(number, member) for number, member in enumerate(members))
        self._names = ReaderNames()
        self._snapshot = Snapshot()
        self._changes = Changes()
        self._tasks = asyncio.TaskGroup()
        self._running: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._running = [
            self._tasks.create_task(self._watch(side.member), name=f"readers of {side.member.host}")
            for side in self._sides
        ]
        self._running.append(self._tasks.create_task(self._admit(), name="the order of hosts"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._running:
            task.cancel()
        await self._tasks.__aexit__(kind, error, trace)

    # ResourceManager

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
        self.contexts += 1
        return _UnionContext(self, caller, patience)

    async def ready(self) -> None:
        """Wait until the readers of all hosts are shown, but for hosts that cannot be reached at present."""
        for side in self._sides:
            await side.member.known.wait()
        while not all(side.admitted for side in self._sides):
            await self._changes.wait()

    def find(self, reader: str) -> tuple[ResourceManager, str]:
        """Who serves the reader that has this name here, and what it is called there.

        Raises:
            PcscError: ``E_UNKNOWN_READER``: no reader ever had that name.
        """
        if any(side.stale for side in self._sides):
            self._renew()
        origin = self._names.origin(reader)
        manager = None if origin is None else self._sides[origin[0]].member.manager
        if origin is None or manager is None:
            raise PcscError(ReturnCode.E_UNKNOWN_READER, reader)
        return manager, origin[1]

    # watching the hosts

    def _renew(self) -> None:
        events = 0
        for side in self._sides:
            if side.stale and side.member.manager is not None:
                events += side.look(side.member.manager.snapshot, self._names)
        readers = tuple(reader for side in self._sides for reader in side.readers)
        old = self._snapshot
        if events or readers != old.readers:
            self._snapshot = old.followed_by(readers, events)
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
                for side in self._sides:
                    side.admitted = True
                    self._changes.announce()
                    await side.member.known.wait()
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
        self._contexts: dict[ResourceManager, Context] = {}
        self._closed = False

    async def connect(self, reader: str, share: ShareMode, protocols: Protocol) -> Card:
        """Connect to a reader, where it is."""
        if self._closed:
            raise PcscError(ReturnCode.E_INVALID_HANDLE)
        manager, name = self._union.find(reader)
        context = self._contexts.get(manager)
        if context is None:
            context = await self._open(manager)
        card = await context.connect(name, share, protocols)
        return card if name == reader else _RenamedCard(card, reader)

    async def _open(self, manager: ResourceManager) -> Context:
        context = await manager.open(self._caller, self._patience)
        if self._closed:
            await context.close()
            raise PcscError(ReturnCode.E_CANCELLED, "the context was closed")
        self._contexts[manager] = context
        return context

    async def close(self) -> None:
        """Free every handle, at all hosts at once."""
        if self._closed:
            return
        self._closed = True
        self._union.contexts -= 1
        async with asyncio.TaskGroup() as tasks:
            for context in self._contexts.values():
                tasks.create_task(context.close())


class _RenamedCard:
    """A handle whose reader has another name here. Calls go straight to the handle itself."""

    __slots__ = (
        "_card",
        "attribute",
        "begin",
        "control",
        "disconnect",
        "end",
        "reader",
        "reconnect",
        "set_attribute",
        "status",
        "transmit",
    )

    def __init__(self, card: Card, reader: str) -> None:
        self._card = card
        self.reader = reader
        self.reconnect, self.disconnect, self.status = card.reconnect, card.disconnect, card.status
        self.begin, self.end, self.transmit = card.begin, card.end, card.transmit
        self.control = card.control
        self.attribute, self.set_attribute = card.attribute, card.set_attribute

    @property
    def protocol(self) -> Protocol:
        """The active protocol."""
        return self._card.protocol

    @property
    def counted(self) -> bool:
        """Whether the reader's `sharing` counts this handle."""
        return self._card.counted
