"""Where guests come in without ssh: addresses at which the agent takes links (`cardferry.transports.registry`).

A guest is served once it has said hello. Until then it costs a descriptor for a few seconds, and there are not many
such: when one more comes, the one that has been silent for longest has to go. So those who say nothing keep nobody
else out.

The one who dials is `cardferry.app.hosts.direct_link`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Final, Self

from cardferry.pcsc.caller import Principal
from cardferry.transports.accepting import SHORTAGE_PAUSE, Newcomers
from cardferry.transports.base import Arrival, Listener, Pipe
from cardferry.transports.delivery import Delivery
from cardferry.transports.passed import PassedPipe
from cardferry.wire.errors import WireError
from cardferry.wire.link.frames import FrameReader, Kind, encode
from cardferry.wire.link.greeting import Bye, Hello, Reason

log = logging.getLogger(__name__)

#: s that a guest gets to say hello.
_GREETING_TIME: Final = 5.0
#: Guests that have not said hello yet, over all listeners.
_MOST_SILENT: Final = 64
#: Bytes within which a hello ends.
_MOST_HELLO: Final = 4096

#: Principals of which it is known that they were turned away.
_MOST_AWAY: Final = 256

#: Serves the guest at the other end of a pipe until the pipe is lost, given who it is and what to call it.
Serve = Callable[[Pipe, Principal, str], Awaitable[None]]


class GuestListeners:
    """Takes guests at listeners; an asynchronous context manager, to be around that of who serves them.

    So that who serves says good-bye to guests before their pipes are closed here.

    Args:
        listeners: they stay the caller's to close.
    """

    def __init__(self, listeners: Sequence[Listener] = ()) -> None:
        self._listeners = listeners
        self._tasks = asyncio.TaskGroup()
        self._accepting: list[asyncio.Task[None]] = []
        #: Those who have not said hello.
        self._silent = Newcomers(_MOST_SILENT)
        #: Who was turned away, and why: they may come again every few seconds, and are told of once.
        self._away: dict[Principal, str] = {}

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._accepting:
            task.cancel()
        self._silent.dismiss()
        await self._tasks.__aexit__(kind, error, trace)

    def open(self, serve: Serve) -> None:
        """Take guests from now on.

        Args:
            serve: gets the pipe of each, and who it is.
        """
        for one in self._listeners:
            self.add(one, serve)

    def add(self, listener: Listener, serve: Serve) -> None:
        """Likewise, at one more listener."""

        def take(arrival: Arrival) -> None:
            self._silent.add(self._tasks.create_task(self._serve(arrival, serve), name=arrival.pipe.name))

        self._accepting.append(self._tasks.create_task(self._accept(listener, take), name=listener.name))

    async def _accept(self, listener: Listener, take: Callable[[Arrival], None]) -> None:
        while True:
            try:
                await listener.run(take, self._silent.dismiss)
            except Exception:  # the boundary: a way in that does not work is nobody else's concern
                log.exception("%s: a bug where guests come in", listener.name)
            await asyncio.sleep(SHORTAGE_PAUSE)

    async def _serve(self, arrival: Arrival, serve: Serve) -> None:
        pipe = arrival.pipe
        try:
            if await self._said_hello(arrival, greeted := _GreetedPipe(pipe)):
                await serve(greeted, arrival.principal, arrival.name)
        except BaseException as error:
            pipe.abort()
            if not isinstance(error, Exception):
                raise
            log.exception("%s: a bug behind a guest", pipe.name)  # and nobody else's concern

    async def _said_hello(self, arrival: Arrival, pipe: _GreetedPipe) -> bool:
        """Whether it is somebody to talk to; if not, its pipe is ended."""
        try:
            async with asyncio.timeout(_GREETING_TIME):
                said = await pipe.hello
        except TimeoutError:
            said = False
        finally:
            if (task := asyncio.current_task()) is not None:
                self._silent.known(task)
        if not said:
            log.debug("%s has gone, or has said nothing", pipe.name)
            pipe.abort()
        elif arrival.refusal:
            again = self._away.get(arrival.principal) == arrival.refusal
            if len(self._away) >= _MOST_AWAY:
                self._away.clear()
            self._away[arrival.principal] = arrival.refusal
            log.log(logging.DEBUG if again else logging.WARNING, "%s: turned away: %s", pipe.name, arrival.refusal)
            pipe.write(encode(Kind.BYE, 0, 0, Bye(Reason.REFUSED, arrival.refusal).encode()))
            pipe.close()
        else:
            self._away.pop(arrival.principal, None)
            arrival.greeted(pipe.software)
        return said and not arrival.refusal


class _GreetedPipe(PassedPipe):
    """A pipe whose other end is listened to until it has said hello.

    Args:
        pipe: without a user.

    Attributes:
        hello: whether what came first is a frame, as soon as it has ended; what is none counts as well, because who
            serves says what is wrong with it. False when there is no end to it, or the pipe is lost.
        software: name and version of its program, as the hello says.
    """

    def __init__(self, pipe: Pipe) -> None:
        super().__init__(pipe)
        self.hello: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._reader = FrameReader()
        self._size = 0
        self.software = ""
        delivery = self._delivery = Delivery(pipe.pause_reading, pipe.resume_reading)
        self.start, self.congested = delivery.start, delivery.congested  # type: ignore[method-assign]
        self.pause_reading, self.resume_reading = delivery.pause, delivery.resume
        pipe.start(self)

    def received(self, data: bytes) -> None:
        """Bytes came."""
        self._delivery.received(data)
        self._size += len(data)
        try:
            frames = self._reader.receive(data)
            said = bool(frames)
            if said:
                self.software = Hello.parse(frames[0].payload).software
        except WireError:
            said = True
        if self.hello.done():
            return  # nobody has the patience any more
        if said or self._size > _MOST_HELLO:
            self.hello.set_result(said)
            self.received = self._delivery.received  # type: ignore[method-assign] # nothing is looked at any more
        else:
            self._pipe.resume_reading()

    def lost(self, error: Exception | None) -> None:
        """The pipe is gone."""
        if not self.hello.done():
            self.hello.set_result(False)
        self._delivery.lost(error)
