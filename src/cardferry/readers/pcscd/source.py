"""A pcscd's readers for as long as they are wanted: pcscd may come and go, and so may the way to it.

`PcscdSource.run` keeps one `Watch` alive and an `Inventory` up to date. When pcscd cannot be reached, all its readers
are gone, and it is tried again and again with growing pauses.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import aclosing, closing
from typing import Final

from cardferry.backoff import Backoff
from cardferry.pcsc.trouble import Cause, Trouble
from cardferry.readers.base import ReaderObserver
from cardferry.readers.pcscd.connector import Connector
from cardferry.readers.pcscd.failure import NoPcscdError
from cardferry.readers.pcscd.inventory import Inventory
from cardferry.readers.pcscd.reader import PcscdReader
from cardferry.readers.pcscd.watch import Watch

log = logging.getLogger(__name__)

#: First and longest pause between two attempts, in s; each is twice as long as the one before.
FIRST_PAUSE: Final = 0.2
LONGEST_PAUSE: Final = 5.0
#: A pause is longer or shorter by up to this part of itself, so that many gateways do not come back together.
_JITTER: Final = 0.2


class PcscdSource:
    """The readers of one pcscd.

    Args:
        connector: opens a byte pipe to pcscd's socket; called for each connection, also when another one just failed.
        place: where that pcscd is, for people.
        on_state: called with True when pcscd can be used, and with False and why when it cannot (any more), each time
            that this has changed, and for each attempt that fails for another reason than the one before.
        chance: a random number from 0 to 1, for the length of pauses.
        forwarded: whether the pcscd is at another computer, whose name ``place`` is, and its socket is forwarded.

    Attributes:
        up: whether pcscd can be used.
        failure: why it cannot; None before the first attempt and while it can.
        trouble: why there are no readers; None before the first attempt and while there are some.
        minor: the protocol level of the pcscd that was seen last, 0 before.
    """

    def __init__(
        self,
        connector: Connector,
        place: str,
        on_state: Callable[[bool, NoPcscdError | None], None] | None = None,
        chance: Callable[[], float] = random.random,
        *,
        forwarded: bool = False,
    ) -> None:
        self._forwarded = forwarded
        self._no_reader = Trouble(Cause.NO_READER, place, host=place if forwarded else "")
        self._observer: ReaderObserver | None = None
        self.trouble: Trouble | None = None
        self._connector = connector
        self._place = place
        self._on_state = on_state
        self._backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE, _JITTER, chance)
        self._inventory: Inventory | None = None
        self._wake = asyncio.Event()
        self.up = False
        self.failure: NoPcscdError | None = None
        self.minor = 0

    @property
    def readers(self) -> tuple[PcscdReader, ...]:
        """The readers there are now."""
        return self._inventory.readers if self._inventory is not None else ()

    def reconnect_now(self) -> None:
        """Do not wait for the end of a pause: something has changed that makes an attempt worth while."""
        self._wake.set()

    async def run(self, observer: ReaderObserver) -> None:
        """Report readers and cards until cancelled."""
        if self._inventory is not None:
            raise RuntimeError("this source is running already")
        inventory = self._inventory = Inventory(observer, self._connector)
        self._observer = observer
        loop = asyncio.get_running_loop()
        try:
            while True:
                self._wake.clear()
                since = loop.time()
                failure = await self._serve(inventory)
                if self.up and loop.time() - since > LONGEST_PAUSE:
                    self._backoff.reset()
                inventory.clear()
                self._is_down(failure)
                if await self._sleep(self._backoff.pause()):
                    self._backoff.reset()
        finally:
            inventory.close()
            self._inventory = self._observer = self.trouble = None
            self.up = False

    async def _serve(self, inventory: Inventory) -> NoPcscdError:
        """Follow a pcscd until it is gone; returns why."""
        try:
            with closing(await Watch.open(self._connector)) as watch:
                async with aclosing(watch.tables()) as tables:
                    async for table in tables:
                        self.minor = watch.minor
                        inventory.update(table, watch.minor)
                        self._looked(None if inventory.readers else self._no_reader)
                        self._is_up()
        except NoPcscdError as error:
            return error
        raise AssertionError("tables come until pcscd is gone")

    async def _sleep(self, pause: float) -> bool:
        """Wait, or be woken; returns whether woken."""
        try:
            async with asyncio.timeout(pause):
                await self._wake.wait()
        except TimeoutError:
            return False
        return True

    def _is_up(self) -> None:
        if self.up:
            return
        self.up, self.failure = True, None
        log.info("pcscd at %s: protocol 4:%d, %d reader(s)", self._place, self.minor, len(self.readers))
        self._tell(True, None)

    def _looked(self, trouble: Trouble | None) -> None:
        if trouble != self.trouble and self._observer is not None:
            self.trouble = trouble
            self._observer.looked(self, trouble)

    def _is_down(self, failure: NoPcscdError) -> None:
        self._looked(failure.trouble(self._place, forwarded=self._forwarded))
        known = not self.up and self.failure is not None and self.failure.reason is failure.reason
        self.up, self.failure = False, failure
        if known:
            log.debug("pcscd at %s %s", self._place, failure)
            return
        log.info("pcscd at %s %s", self._place, failure)
        self._tell(False, failure)

    def _tell(self, up: bool, failure: NoPcscdError | None) -> None:
        if self._on_state is None:
            return
        try:
            self._on_state(up, failure)
        except Exception:  # a boundary: the readers go on
            log.exception("pcscd at %s: a bug in who is told of it", self._place)
