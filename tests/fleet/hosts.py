"""Hosts of a union, as far as the test must hold them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self, cast
from unittest.mock import AsyncMock

from cardferry.fleet import Member, Union
from cardferry.pcsc.applications import Applications
from cardferry.pcsc.caller import Caller, Principal
from cardferry.pcsc.interface import Context, ResourceManager
from cardferry.pcsc.reader_state import ReaderState, Snapshot
from cardferry.pcsc.trouble import Trouble


class Said:
    """A resource manager with the readers that the test says."""

    def __init__(self, *names: str) -> None:
        self.context = AsyncMock()
        self.snapshot = Snapshot(1, 1 + len(names), tuple(ReaderState(name) for name in names))
        self._news = asyncio.Event()

    def become(
        self, *readers: str | ReaderState, events: int | None = None, troubles: tuple[Trouble, ...] = ()
    ) -> None:
        """From now on these. Without ``events`` as many came and went as can be seen."""
        before = self.snapshot
        now = tuple(one if isinstance(one, ReaderState) else ReaderState(one) for one in readers)
        if events is None:
            events = len({one.name for one in now} ^ {one.name for one in before.readers})
        self.snapshot = Snapshot(before.serial + 1, (before.reader_events - 1 + events) % 32767 + 1, now, troubles)
        self._news.set()
        self._news = asyncio.Event()

    async def changed(self, serial: int) -> Snapshot:
        while self.snapshot.serial == serial:
            await self._news.wait()
        return self.snapshot

    def seen_by(self, principal: Principal) -> Self:
        return self

    def may_read(self, reader: str, applications: Applications, apdu: bytes) -> bool:
        return True

    async def open(self, caller: Caller, patience: float | None = None) -> Context:
        return cast("Context", self.context)


@asynccontextmanager
async def united(**hosts: ResourceManager) -> AsyncIterator[Union]:
    """A union of hosts that are all known."""
    members = [Member(name, manager) for name, manager in hosts.items()]
    for member in members:
        member.known.set()
    async with Union(members) as union:
        await union.ready()
        yield union


def shown(union: Union) -> list[str]:
    """The names of the readers."""
    return [reader.name for reader in union.snapshot.readers]
