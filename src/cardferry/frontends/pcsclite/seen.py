"""What the programs of one principal see of the readers, and which of them wait for that to change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final
from typing import Protocol as Interface

from cardferry.pcsc.applications import Applications
from cardferry.pcsc.caller import Caller
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.interface import Context, ResourceManager, SeenAlike
from cardferry.pcsc.reader_name import encode_reader_name
from cardferry.pcsc.reader_state import Snapshot
from cardferry.wire.pcsclite.layout import encode_name

#: s that a change of nothing but the sharing of readers waits for others like it. pcscd tells it at its next look
#: at the reader, 0.3 to 0.4 s later; without such a pause every connect would wake every waiting program.
SHARING_DELAY: Final = 0.3


class Nothing(SeenAlike):
    """The manager of those who may not come in: there is no reader, never any news, and no context."""

    snapshot = Snapshot()

    async def changed(self, serial: int) -> Snapshot:
        """Wait, for ever."""
        del serial
        never: asyncio.Future[Snapshot] = asyncio.get_running_loop().create_future()
        return await never

    def may_read(self, reader: str, applications: Applications, apdu: bytes) -> bool:
        """There is nothing to be read."""
        del reader, applications, apdu
        return False

    async def open(self, caller: Caller, patience: float | None = None) -> Context:
        """Refuse."""
        del patience
        raise PcscError(ReturnCode.W_SECURITY_VIOLATION, f"{caller} may not come in")


class Waiting(Interface):
    """A program that waits: `cardferry.frontends.pcsclite.connection.Connection`."""

    #: The number of changes (`Seen.changes`) when it began to wait.
    registered: int | None

    def guarded(self, call: Callable[[], None]) -> None:
        """Call what is nobody else's concern, for somebody else."""

    def notify(self) -> None:
        """Something may have changed."""


class Seen:
    """Readers as one principal sees them.

    Args:
        manager: as the principal may see it.

    Attributes:
        manager: likewise.
        registered: connections that wait for a change.
    """

    def __init__(self, manager: ResourceManager) -> None:
        self.manager = manager
        self.registered: set[Waiting] = set()
        self._sharing_timer: asyncio.TimerHandle | None = None
        self._most_readers = 0
        self._changes = 0
        self._compared = self._before = manager.snapshot

    @property
    def most_readers(self) -> int:
        """How many readers there have been at the same time; never shrinks."""
        self._most_readers = max(self._most_readers, len(self.manager.snapshot.readers))
        return self._most_readers

    def reader_called(self, name: str, size: int) -> str:
        """The reader that a program means which has ``size`` bytes for a name: it knows long names shortened."""
        snapshot = self.manager.snapshot
        if snapshot.find(name) is not None:
            return name
        raw = encode_reader_name(name)
        return next((reader.name for reader in snapshot.readers if encode_name(reader.name, size) == raw), name)

    @property
    def changes(self) -> int:
        """Counts the changes that programs wait for. Protocols and resets are not among them, as with pcscd."""
        snapshot = self.manager.snapshot
        if snapshot is not self._compared:
            if _as_waited_for(snapshot) != _as_waited_for(self._compared):
                self._changes += 1
            self._compared = snapshot
        return self._changes

    def changed(self) -> None:
        """The manager has news, which may be none for this principal."""
        before, after = self._before, self.manager.snapshot
        self._before = after
        if after is before:
            return
        if _urgent(before, after):
            self._notify()
        elif self._sharing_timer is None:
            changes = self.changes
            if any(connection.registered != changes for connection in self.registered):
                loop = asyncio.get_running_loop()
                self._sharing_timer = loop.call_later(SHARING_DELAY, self._notify)

    def _notify(self) -> None:
        self.close()
        for connection in tuple(self.registered):
            connection.guarded(connection.notify)

    def close(self) -> None:
        """Nobody needs to be told later."""
        if self._sharing_timer is not None:
            self._sharing_timer.cancel()
            self._sharing_timer = None


def _as_waited_for(snapshot: Snapshot) -> tuple[object, ...]:
    """What must be another one for programs to hear of it."""
    readers = tuple((each.name, each.event_counter, each.state, each.sharing) for each in snapshot.readers)
    return snapshot.reader_events, readers


def _urgent(before: Snapshot, after: Snapshot) -> bool:
    """Whether waiting programs must hear of it at once: readers or cards came or went, or a reader failed."""
    if before.reader_events != after.reader_events or len(before.readers) != len(after.readers):
        return True
    return any(
        old is not new and (old.name, old.event_counter, old.state) != (new.name, new.event_counter, new.state)
        for old, new in zip(before.readers, after.readers, strict=True)
    )
