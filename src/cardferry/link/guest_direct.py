"""On the guest: moves a link to a connection of its own, and tries again when there can be none.

The pipe through which the host was reached stays as the spare one: the session goes back there at once when the
connection breaks (`cardferry.link.channel`). `cardferry.link.host_direct` is the other end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final
from typing import Protocol as Interface

from cardferry.backoff import Backoff, Seldom
from cardferry.changes import Changes
from cardferry.link import messages as m
from cardferry.link.channel import PipeEnd
from cardferry.link.guest_session import GuestSession
from cardferry.pcsc.errors import CardferryError
from cardferry.transports.base import Pipe
from cardferry.wire.link.session import Phase

log = logging.getLogger(__name__)

#: s between attempts: the first, and the most; and how long a connection must have stood before it broke, to begin anew
#: with the first.
_FIRST_PAUSE: Final = 0.5
_MOST_PAUSE: Final = 600.0
_STOOD: Final = 10.0
#: s that one attempt may take.
_ATTEMPT_TIME: Final = 15.0

#: Asks the host, given the certificate that was made for this attempt.
Ask = Callable[[bytes], Awaitable[m.Introduction]]
#: Makes one attempt. Raises `OSError` or `CardferryError`.
DialDirect = Callable[[Ask], Awaitable[Pipe]]


class NoDirectError(CardferryError):
    """There is no direct connection."""


class DirectGuest(Interface):
    """Whose link it is: `cardferry.link.Guest`.

    Attributes:
        session: the session in force, None while there is none.
    """

    session: GuestSession | None


class DirectLink:
    """See the module.

    Args:
        dial: makes one attempt.
        guest: whose link it is.
        name: what the host is called.
        changes: announced with everything that happens to the link.
    """

    def __init__(self, dial: DialDirect, guest: DirectGuest, name: str, changes: Changes) -> None:
        self._dial = dial
        self._guest = guest
        self._name = name or "the host"
        self._changes = changes
        self._backoff = Backoff(_FIRST_PAUSE, _MOST_PAUSE)
        self._failures = Seldom(every=float("inf"))
        self._losses = Seldom()
        self._end: PipeEnd | None = None
        self._broken = False

    @property
    def used(self) -> bool:
        """Whether the link runs over a connection of its own now."""
        session = self._guest.session
        return session is not None and session.channel.end is self._end and _stands(session)

    async def run(self) -> None:
        """Try, until cancelled."""
        while True:
            session = await self._linked()
            if not session.welcome.introduces:
                self._failed("the host does not allow it to this key, or its cardferry is older")
                await self._another(session)
                continue
            try:
                await self._try(session)
            except Exception:  # the boundary: the link goes on as it was
                log.exception("%s: a bug behind the direct connection", self._name)
            await asyncio.sleep(self._backoff.pause())

    async def _linked(self) -> GuestSession:
        """Wait until there is a session, and it has a pipe."""
        while (session := self._guest.session) is None or not _stands(session) or not session.welcomed:
            await self._changes.wait()
        return session

    async def _another(self, session: GuestSession) -> None:
        while self._guest.session is session:
            await self._changes.wait()

    async def _try(self, session: GuestSession) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_ATTEMPT_TIME):
                pipe = await self._dial(session.introduce)
        except TimeoutError:
            self._failed("it takes too long")
            return
        except (OSError, CardferryError) as error:
            self._failed(str(error))
            return
        if not _stands(session):  # the link has broken meanwhile
            pipe.abort()
            return
        self._broken = False
        end = self._end = session.channel.attach(pipe, spares=True)
        began = loop.time()
        while not _stands(session) and not end.unused.done():
            await self._changes.wait()
        if not end.unused.done():
            log.info("%s: direct connection; ssh is kept beside it", self._name)
            self._failures.reset()
        await end.unused
        if loop.time() > began + _STOOD or not self._broken:  # ssh was connected anew
            self._backoff.reset()

    def _failed(self, why: str) -> None:
        level = logging.INFO if self._failures.due(why, asyncio.get_running_loop().time()) else logging.DEBUG
        log.log(level, "%s: no direct connection: %s; it goes on over ssh", self._name, why)

    def returned(self, error: Exception | None) -> None:
        """The connection has broken, and the session has gone back to the spare pipe."""
        self._broken = True
        why = f": {error}" if error is not None else ""
        level = logging.INFO if self._losses.due(why, asyncio.get_running_loop().time()) else logging.DEBUG
        log.log(level, "%s: the direct connection is lost%s; it goes on over ssh", self._name, why)


def _stands(session: GuestSession) -> bool:
    channel = session.channel
    return channel.end is not None and channel.session.phase is Phase.CONNECTED
