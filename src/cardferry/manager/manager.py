"""The resource manager of this computer's readers.

Sources report readers and cards to it (`ReaderObserver`), callers get contexts from it (`ResourceManager`). It
publishes a new `Snapshot` whenever anything that applications can see has changed, once per pass of the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import Self

from cardferry.changes import Changes
from cardferry.labelled import Labelled
from cardferry.manager.context import LocalContext
from cardferry.manager.counts import Counts
from cardferry.manager.guard import Guards
from cardferry.manager.settings import Settings
from cardferry.manager.slot import Slot
from cardferry.manager.sources import keep_running
from cardferry.manager.status import ManagerStatus, SlotStatus
from cardferry.pcsc.caller import Caller
from cardferry.pcsc.card_watcher import CardWatcher
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.interface import SeenAlike
from cardferry.pcsc.reader_state import Snapshot
from cardferry.pcsc.trouble import Trouble
from cardferry.readers.base import Reader, ReaderSource

log = logging.getLogger(__name__)


class LocalManager(SeenAlike):
    """Arbitrates the readers of some sources; an asynchronous context manager that runs them meanwhile.

    Args:
        sources: where readers are.
        settings: bounds, see `Settings`.
        watch: makes who watches the card in the reader of that name.

    Attributes:
        counts: what has happened since this one is there, by reader.
    """

    def __init__(
        self,
        sources: Iterable[ReaderSource],
        settings: Settings | None = None,
        watch: Callable[[str], CardWatcher] | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.contexts: set[LocalContext] = set()
        self.counts = Labelled(Counts)
        self._sources = tuple(sources)
        self._watch = watch
        self._slots: dict[Reader, Slot] = {}
        self._by_name: dict[str, Slot] = {}
        #: What keeps the readers of a source away.
        self._troubles: dict[ReaderSource, Trouble] = {}
        self._snapshot = Snapshot()
        self._dirty = False
        self._changes = Changes()
        self._tasks = asyncio.TaskGroup()
        self._ended = False
        self._running: list[asyncio.Task[None]] = []
        self._cleaning: set[asyncio.Task[None]] = set()
        #: Readers that came or went since the snapshot was made.
        self._came_or_went = 0
        self._again = False
        self._guards: Guards | None = None

    def guarded_by(self, guards: Guards) -> None:
        """Put a guard in front of each reader, those that come later as well. Before anybody uses them."""
        self._guards = guards
        for slot in self._slots.values():
            slot.device.guard = guards(slot.device)

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._running = [
            self._tasks.create_task(keep_running(source, self), name=f"readers of {source!r}")
            for source in self._sources
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for context in tuple(self.contexts):
            await context.close()
        if self._cleaning:
            # Cards that somebody held are reset while their readers can still be reached.
            await asyncio.wait(self._cleaning, timeout=self.settings.farewell)
        for task in (*self._running, *self._cleaning):
            task.cancel()
        for slot in tuple(self._slots.values()):
            slot.removed()
        self._ended = True
        await self._tasks.__aexit__(kind, error, trace)

    def _start(self, work: Coroutine[object, object, None]) -> None:
        if self._ended:
            work.close()  # a call that was under way when all ended: nobody waits for it
            return
        task = self._tasks.create_task(_contained(work))
        self._cleaning.add(task)
        task.add_done_callback(self._cleaning.discard)

    # ResourceManager

    @property
    def snapshot(self) -> Snapshot:
        """All readers as they are now."""
        if self._dirty:
            self._renew()
        return self._snapshot

    async def changed(self, serial: int) -> Snapshot:
        """Wait until the snapshot's serial is another one than ``serial``."""
        while self.snapshot.serial == serial:
            await self._changes.wait()
        return self.snapshot

    async def open(self, caller: Caller, patience: float | None = None) -> LocalContext:
        """Open a context."""
        context = LocalContext(self.slot, caller, patience, self.contexts.discard)
        self.contexts.add(context)
        return context

    def adjust(self, settings: Settings) -> None:
        """Let other bounds apply from now on, also to whoever has a card at this moment."""
        self.settings = settings
        for slot in self._slots.values():
            slot.adjust(settings)

    def slot(self, reader: str) -> Slot:
        """The reader of that name; ``E_UNKNOWN_READER`` when there is none."""
        slot = self._by_name.get(reader)
        if slot is None:
            raise PcscError(ReturnCode.E_UNKNOWN_READER, reader)
        return slot

    # ReaderObserver

    def reader_added(self, reader: Reader) -> None:
        """A reader was plugged in."""
        if reader.name in self._by_name:
            log.error("a second reader calls itself %r: it is left out", reader.name)
            return
        watcher = None if self._watch is None else self._watch(reader.name)
        slot = Slot(reader, self.settings, self._touch, self._start, watcher, counts=self.counts.of(reader.name))
        if self._guards is not None:
            slot.device.guard = self._guards(slot.device)
        self._slots[reader] = self._by_name[reader.name] = slot
        self._count_reader_event()

    def reader_removed(self, reader: Reader) -> None:
        """A reader was unplugged."""
        slot = self._slots.pop(reader, None)
        if slot is not None:
            del self._by_name[reader.name]
            slot.removed()
            self._count_reader_event()

    def card_inserted(self, reader: Reader, atr: bytes) -> None:
        """A card was inserted."""
        if slot := self._slots.get(reader):
            slot.device.card_inserted(atr)

    def card_removed(self, reader: Reader) -> None:
        """The card was taken out."""
        if slot := self._slots.get(reader):
            slot.card_removed()

    def reader_failed(self, reader: Reader) -> None:
        """The driver cannot reach the reader."""
        if slot := self._slots.get(reader):
            slot.reader_failed()

    def outsiders(self, reader: Reader, present: bool) -> None:
        """Programs on this computer use the reader, or none do any more."""
        if slot := self._slots.get(reader):
            slot.outsiders(present)

    def looked(self, source: ReaderSource, trouble: Trouble | None) -> None:
        """A source has looked for its readers."""
        if trouble is None:
            self._troubles.pop(source, None)
        else:
            self._troubles[source] = trouble
        self._touch()

    def _count_reader_event(self) -> None:
        self._came_or_went += 1
        self._touch()

    # publishing

    def tell_again(self) -> None:
        """Publish a new snapshot though the readers are the same: who may know of them may have changed."""
        self._again = True
        self._touch()

    def _touch(self) -> None:
        if not self._dirty:
            self._dirty = True
            asyncio.get_running_loop().call_soon(self._publish)

    def _renew(self) -> None:
        self._dirty = False
        old = self._snapshot
        readers = tuple(slot.state for slot in self._slots.values())
        troubles = tuple(self._troubles.values())
        if readers != old.readers or self._came_or_went or troubles != old.troubles or self._again:
            self._snapshot = old.followed_by(readers, self._came_or_went, troubles)
            self._came_or_went = 0
            self._again = False

    def _publish(self) -> None:
        if self._dirty:
            self._renew()
        self._changes.announce()

    # status

    @property
    def status(self) -> ManagerStatus:
        """Who uses what at this moment."""
        return ManagerStatus(len(self.contexts), [_slot_status(slot) for slot in self._slots.values()])


async def _contained(work: Coroutine[object, object, None]) -> None:
    """What no call waits for: a bug in it must not end the task group, which belongs to everybody."""
    try:
        await work
    except Exception:
        log.exception("a bug in what no call waits for")


def _slot_status(slot: Slot) -> SlotStatus:
    clients = sorted(str(handle.caller) for handle in slot.handles)
    device = slot.device
    return SlotStatus.of(
        slot.state,
        slot.use.present,
        asyncio.get_running_loop().time(),
        clients,
        device.applications.values(),
        mean_turn=device.counts.mean_turn,
        commands=sum(count.commands for count in device.counts.by_principal.values.values()),
    )
