"""The other end of `handoff_client`: takes streams that are handed over as pipes, and knows when nobody is left."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final, NoReturn
from typing import Protocol as Interface

from cardferry.app.agent.handoff_client import receive
from cardferry.app.runtime.handoff import Handoff
from cardferry.app.runtime.spawn import BackgroundError, StartReport
from cardferry.changes import Changes
from cardferry.transports.accepting import accept
from cardferry.transports.base import Pipe
from cardferry.transports.stdio import open_pipe

log = logging.getLogger(__name__)

#: s in which streams must come once there is a connection.
_GREETING_TIME: Final = 5.0
#: s in which whoever has started us comes, when we are to leave as soon as nobody is there.
_FIRST_TIME: Final = 5.0
_MORE_PLACES: Final = "there, end some of the others, or raise the limit of open files (ulimit -n) and start it anew"

#: Sends a report to the process that has handed its streams over; it may have gone.
Tell = Callable[[StartReport], None]
#: What to do with streams: returns when they are of no use any more.
Serve = Callable[[Pipe, Handoff, Tell], Awaitable[None]]


class Guests(Interface):
    """What may have guests: `cardferry.link.LinkServer`."""

    async def occupied(self) -> None:
        """Wait until there is one."""
        ...

    async def empty(self) -> None:
        """Wait until there is none, also none that may come back."""
        ...


class HandoffServer:
    """Serves all who hand their streams over at a listening socket.

    Args:
        listening: where they come.
        serve: what to do with each.
        admit: what to tell whoever comes; an error keeps it out, and it keeps its streams.
        idle: s without anybody until `run` returns, None for never.
        proved: what comes along with the streams, as far as the connection proves it; the agent's own socket is the
            account's alone, and what comes there is believed.
        talk: what to do with whoever says something else, given the connection and what it has said; returns when
            that is over. None sends them away.

    Attributes:
        idle: as above, or as somebody wanted it who came.
    """

    def __init__(
        self,
        listening: socket.socket,
        serve: Serve,
        *,
        admit: Callable[[Handoff], StartReport] = lambda handoff: StartReport(taken=True),
        idle: float | None = None,
        proved: Callable[[socket.socket, Handoff], Handoff] = lambda connection, handoff: handoff,
        talk: Callable[[socket.socket, bytes], Awaitable[None]] | None = None,
    ) -> None:
        self._listening = listening
        self._serve = serve
        self._admit = admit
        self.idle = idle
        self._talk = talk
        self._proved = proved
        self._left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._here = 0
        self._fewer = Changes()

    async def run(self) -> None:
        """Serve until cancelled, told to `leave`, or nobody has come for ``idle`` s."""
        async with asyncio.TaskGroup() as tasks:

            async def take(connection: socket.socket, _address: object) -> None:
                if self._left.done():  # nobody else would be taken as long as this one stays: it tries again
                    connection.close()
                    return
                connection.setblocking(False)
                self._come()
                tasks.create_task(self._take(connection))

            accepting = tasks.create_task(accept(self._listening, "the agent's socket", take))
            if self.idle is not None and not self._here:
                self._leave_after(self.idle or _FIRST_TIME)
            await self._left
            accepting.cancel()

    @property
    def here(self) -> int:
        """How many are here."""
        return self._here

    def leave(self) -> None:
        """Return from `run` when those who are here have gone."""
        if not self._left.done():
            self._left.set_result(None)

    def leave_as_last(self) -> bool:
        """Leave when whoever asks is the last one here, and nobody else is waited for; returns whether that is so."""
        if self.idle != 0 or self._here > 1:
            return False
        self.leave()
        return True

    def stay(self, idle: float) -> None:
        """Wait so many s for somebody, before `run` returns, if it returns at all and not even later."""
        if self.idle is not None:
            self.idle = max(idle, self.idle)

    @contextmanager
    def present(self) -> Iterator[None]:
        """Somebody is here for the block, or is expected back."""
        self._come()
        try:
            yield
        finally:
            self._go()

    async def count(self, guests: Guests) -> NoReturn:
        """Let guests be present, as long as there are any."""
        while True:
            await guests.occupied()
            with self.present():
                await guests.empty()

    async def one_left(self) -> None:
        """Wait until whoever asks is the last one here."""
        while self._here > 1:
            await self._fewer.wait()

    def _come(self) -> None:
        self._here += 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _go(self) -> None:
        self._here -= 1
        self._fewer.announce()
        if self.idle is not None and not self._here and not self._left.done():
            self._leave_after(self.idle)

    def _leave_after(self, idle: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(idle, self._nobody, idle)

    def _nobody(self, idle: float) -> None:
        log.info("nobody came for %g s: leaving", idle)
        self.leave()

    async def _take(self, connection: socket.socket) -> None:
        try:
            with connection:
                await self._serve_streams(connection)
        except Exception:  # a bug behind one connection is nobody else's
            log.exception("a bug behind streams that were handed over")
        finally:
            self._go()

    async def _serve_streams(self, connection: socket.socket) -> None:
        try:
            async with asyncio.timeout(_GREETING_TIME):
                await _readable(connection)
        except TimeoutError:
            return

        def tell(report: StartReport) -> None:
            with suppress(OSError):  # it may have gone
                connection.send(report.line())

        try:
            handoff, descriptors, said = receive(connection)
            if handoff is None:
                if said and self._talk is not None:
                    await self._talk(connection, said)
                return
            handoff = self._proved(connection, handoff)
            with ExitStack() as stack:
                for descriptor in descriptors:
                    stack.callback(os.close, descriptor)
                report = self._admit(handoff)
                if report.error:
                    tell(report)
                    return
                stack.pop_all()  # they are the pipe's now
            pipe = await open_pipe(descriptors[0], descriptors[1], handoff.name)
        except OSError as error:
            log.warning("streams cannot be served: %s", error)
            tell(StartReport.of(BackgroundError(f"no place for another guest there: {error}", _MORE_PLACES)))
            return
        tell(report)
        try:
            await self._serve(pipe, handoff, tell)
        finally:
            pipe.abort()


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()

    def note() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(connection.fileno(), note)
    try:
        await readable
    finally:
        loop.remove_reader(connection.fileno())
