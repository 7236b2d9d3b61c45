"""Keeping a connection: dial, wait until it is lost, dial again, further and further apart.

The first attempt must succeed, or its error is the command's: a person is there to read it. Afterwards nobody may
be, so only what cannot heal by waiting (a refused login, another host key) ends it. A *patient* supervisor is one of
several: it does not spoil the others' start because its host is away. An *enduring* one does not spoil them later.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final
from typing import Protocol as Interface

from cardferry.transports.errors import TransportError

log = logging.getLogger(__name__)

#: Seconds until the next attempt after the first, second... failure in a row, and from then on.
DELAYS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
#: Many computers that lose one host do not all come back in the same moment: each delay varies by this share.
_SPREAD: Final = 0.2


class Connection(Interface):
    """Something that stands until it is lost."""

    async def lost(self) -> TransportError:
        """Wait until it is lost; return why."""
        ...


#: Opens a connection and what belongs to it; raises `TransportError`. Leaving the block ends it.
Dial = Callable[[], AbstractAsyncContextManager[Connection]]


class Supervisor:
    """Keeps one connection up.

    Args:
        host: its name for people.
        dial: opens it.
        on_up: called each time it is up.
        sleep: waits some seconds.
        spread: a number from 0 to 1, a new one each time.
        patient: whether the first attempt may fail, too.
        enduring: whether what cannot heal ends it quietly, unless that is the first attempt.

    Attributes:
        state: ``up``, or why it is down; empty before the first time.
        error: why it is down, None when it is up.
        tried: set when the first attempt has come to an end, up or not.
    """

    def __init__(
        self,
        host: str,
        dial: Dial,
        on_up: Callable[[], None],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        spread: Callable[[], float] = random.random,
        *,
        patient: bool = False,
        enduring: bool = False,
    ) -> None:
        self.state = ""
        self.error: TransportError | None = None
        self.tried = asyncio.Event()
        self._patient = patient
        self._enduring = enduring
        self._host = host
        self._dial = dial
        self._on_up = on_up
        self._sleep = sleep
        self._spread = spread

    async def run(self) -> None:
        """Keep the connection up until cancelled, or as long as that has any hope if it is enduring.

        Raises:
            TransportError: of the first attempt if not patient, or one that cannot heal.
        """
        failures = 0
        reason = ""
        while True:
            try:
                error = await self._once()
                failures = 0
            except TransportError as refused:
                if not refused.heals and self.state and self._enduring:
                    log.error("%s; it is not tried again", refused.message)
                    self.state, self.error = refused.message, refused
                    return
                if not refused.heals or not (self.state or self._patient):
                    raise
                error = refused
                failures += 1
            delay = DELAYS[min(failures, len(DELAYS) - 1)] * (1 + _SPREAD * (self._spread() - 0.5))
            level = logging.DEBUG if failures > 1 and error.message == reason else logging.WARNING
            log.log(level, "%s; trying again in %.0f s", error.message, delay)
            self.state = reason = error.message
            self.error = error
            self.tried.set()
            await self._sleep(delay)

    async def _once(self) -> TransportError:
        async with self._dial() as connection:
            if self.state:
                log.warning("%s is back", self._host)
            self.state = "up"
            self.error = None
            self._on_up()
            self.tried.set()
            return await connection.lost()
