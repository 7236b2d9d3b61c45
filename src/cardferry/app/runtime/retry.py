"""Keeping a connection: dial, wait until it is lost, dial again, further and further apart.

The first attempt must succeed, or its error is the command's: a person is there to read it. Afterwards nobody may
be, so only what cannot heal by waiting (a refused login, another host key) ends it. A *patient* supervisor is one of
several: it does not spoil the others' start because its host is away. An *enduring* one does not spoil them later.
One that *waits* belongs to a service: nobody reads its first error, and what cannot heal may be mended by somebody.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final
from typing import Protocol as Interface

from cardferry.backoff import HOURLY, RARELY, Backoff, Seldom
from cardferry.transports.errors import TransportError

log = logging.getLogger(__name__)

#: s until the next attempt, and at most when failures come in a row; and by which part that varies.
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 30.0
#: Likewise, at most, where a host is waited for; and after a refused login: who is refused often is locked out.
LONGEST_WAIT: Final = 60.0
REFUSED_PAUSE: Final = 300.0
_SPREAD: Final = 0.1


class Connection(Interface):
    """Something that stands until it is lost."""

    async def lost(self) -> TransportError:
        """Wait until it is lost; return why."""
        ...


#: Opens a connection and what belongs to it; raises `TransportError`. Leaving the block ends it.
OpenConnection = Callable[[], AbstractAsyncContextManager[Connection]]


class Supervisor:
    """Keeps one connection up.

    Args:
        host: its name for people.
        open_connection: opens it.
        on_up: called each time it is up.
        sleep: waits some seconds.
        chance: a number from 0 to 1, a new one each time, for the length of pauses.
        clock: in s; for how often a failure that goes on is told.
        patient: whether the first attempt may fail, too.
        enduring: whether what cannot heal ends it quietly, unless that is the first attempt.
        waits: whether it goes on whatever happens, in no hurry, and tells little of that.

    Attributes:
        state: ``up``, or why it is down; empty before the first time.
        error: why it is down, None when it is up.
        tried: set when the first attempt has come to an end, up or not.
    """

    def __init__(
        self,
        host: str,
        open_connection: OpenConnection,
        on_up: Callable[[], None],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
        *,
        clock: Callable[[], float] = time.monotonic,
        patient: bool = False,
        enduring: bool = False,
        waits: bool = False,
    ) -> None:
        self.state = ""
        self.error: TransportError | None = None
        self.tried = asyncio.Event()
        self._patient = patient
        self._waits = waits
        self._enduring = enduring
        self._host = host
        self._open_connection = open_connection
        self._on_up = on_up
        self._sleep = sleep
        self._clock = clock
        self._backoff = Backoff(FIRST_PAUSE, LONGEST_WAIT if waits else LONGEST_PAUSE, _SPREAD, chance)
        #: That it is lost, and why it cannot be had again.
        self._seldom = Seldom(first=2, every=HOURLY if waits else RARELY)

    async def run(self) -> None:
        """Keep the connection up until cancelled, or as long as that has any hope if it is enduring.

        Raises:
            TransportError: of the first attempt if not patient, or one that cannot heal.
        """
        while True:
            try:
                error = await self._once()
                self._backoff.reset()
                self._seldom.reset()
            except TransportError as refused:
                if not self._waits and self._is_over(refused):
                    return
                error = refused
            pause = self._backoff.pause() if error.heals else REFUSED_PAUSE
            level = logging.WARNING if self._seldom.due(error.message, self._clock()) else logging.DEBUG
            log.log(level, "%s; trying again in %.0f s", error.message, pause)
            self.state = error.message
            self.error = error
            self.tried.set()
            await self._sleep(pause)

    def _is_over(self, refused: TransportError) -> bool:
        """Whether an attempt that failed was the last one; raises its error if that is the command's."""
        if not refused.heals and self.state and self._enduring:
            log.error("%s; it is not tried again", refused.message)
            self.state, self.error = refused.message, refused
            return True
        if not refused.heals or not (self.state or self._patient):
            raise refused
        return False

    async def _once(self) -> TransportError:
        async with self._open_connection() as connection:
            if self.state:
                log.warning("%s is back", self._host)
            self.state = "up"
            self.error = None
            self._on_up()
            self.tried.set()
            return await connection.lost()
