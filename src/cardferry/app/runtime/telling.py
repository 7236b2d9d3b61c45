"""What people are told of the readers that a command serves: what keeps them away, and who waits long for a card.

One line for each, on standard error: for a trouble that has lasted `SETTLED` (a pcscd that is restarted is none), at
once for one from the start, and for each program of ours that has waited `LONG` for its turn, once for each wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from cardferry.pcsc.interface import ResourceManager
from cardferry.pcsc.reader_state import ReaderState, Snapshot, User
from cardferry.pcsc.trouble import Cause, Trouble

log = logging.getLogger(__name__)

#: s for which a trouble must last.
SETTLED: Final = 1.0
#: s that a program waits for its turn until people are told.
LONG: Final = 5.0
#: s by which a timer may be early: loops count in ms, or round.
_TICK: Final = 0.002


@asynccontextmanager
async def telling(
    manager: ResourceManager, ours: Callable[[User], bool] = lambda user: user.ours
) -> AsyncIterator[None]:
    """Tell people for the block.

    Args:
        manager: as its users see it.
        ours: whether people are told that this one waits.
    """
    teller = _Teller(manager, ours)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(teller.run(), name="what people are told")
        try:
            yield
        finally:
            task.cancel()


class _Teller:
    def __init__(self, manager: ResourceManager, ours: Callable[[User], bool]) -> None:
        self._manager = manager
        self._ours = ours
        self._loop = asyncio.get_running_loop()
        self._told: tuple[Trouble, ...] = ()
        #: Whether there have been readers since the beginning.
        self._ever = bool(manager.snapshot.readers)
        #: Troubles that are not told yet, and since when they are these.
        self._fresh: tuple[Trouble, ...] = ()
        self._fresh_since = 0.0
        self._told_waits: set[tuple[str, int, str]] = set()

    async def run(self) -> None:
        while True:
            snapshot = self._manager.snapshot
            due = min((*self._troubles(snapshot), *self._waits(snapshot)), default=None)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._manager.changed(snapshot.serial)

    # troubles

    def _troubles(self, snapshot: Snapshot) -> Iterator[float]:
        """Tell what is due; yields when to look again."""
        now = self._loop.time()
        self._ever = self._ever or bool(snapshot.readers)
        if snapshot.troubles == self._told:
            self._fresh = self._told
            return
        if snapshot.troubles != self._fresh:
            self._fresh, self._fresh_since = snapshot.troubles, now
        if not self._ever or now + _TICK >= self._fresh_since + SETTLED:
            self._tell_troubles(snapshot)
        else:
            yield self._fresh_since + SETTLED

    def _tell_troubles(self, snapshot: Snapshot) -> None:
        """Tell those that are new; and once there is none any more, that the readers are there."""
        told, self._told = self._told, snapshot.troubles
        for trouble in snapshot.troubles:
            # Whoever keeps the connection to another computer tells how that is.
            if trouble not in told and trouble.cause is not Cause.AWAY:
                log.warning("%s; %s", trouble, trouble.hint)
        over = [trouble for trouble in told if trouble not in snapshot.troubles and trouble.cause is not Cause.AWAY]
        if over and not snapshot.troubles and snapshot.readers:
            where = f"{over[0].host}: " if over[0].host else ""
            log.warning("%sreaders are there: %s", where, ", ".join(reader.name for reader in snapshot.readers))

    # waits

    def _waits(self, snapshot: Snapshot) -> Iterator[float]:
        """Likewise."""
        now = self._loop.time()
        present = set()
        for reader in snapshot.readers:
            for place, user in enumerate(reader.use.waiting if reader.use is not None else (), 1):
                if not self._ours(user):
                    continue
                key = (reader.name, user.wait, user.client)
                present.add(key)
                if key in self._told_waits:
                    continue
                if now + _TICK >= user.since + LONG:
                    self._told_waits.add(key)
                    self._tell_wait(reader, user, place)
                else:
                    yield user.since + LONG
        self._told_waits &= present

    def _tell_wait(self, reader: ReaderState, user: User, place: int) -> None:
        seconds = round(self._loop.time() - user.since)
        holder = reader.use.holder if reader.use is not None else None
        if holder is None:
            whom = "nobody has it at this moment"
        else:
            principal = f" as {holder.principal}" if holder.principal else ""
            whom = f"{holder.client}{principal} has it, for {round(self._loop.time() - holder.since)} s now"
        log.warning(
            "%s has waited %d s for the card in %s, place %d in the queue: %s",
            user.client, seconds, reader.name, place, whom,
        )  # fmt: skip
