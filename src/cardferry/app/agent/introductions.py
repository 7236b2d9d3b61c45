"""Where the agent takes connections of guests that have come over ssh (`cardferry.link.host_direct`).

It listens at the address at which sshd was reached, while a guest is expected there and no longer. Who comes has the
time and the room that anybody has at a TLS listener who has not proved who he is (`cardferry.transports.tls.listener`).
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from cardferry.link import messages as m
from cardferry.pcsc.errors import UserError
from cardferry.transports.base import Arrival, Pipe
from cardferry.wire.errors import WireError

if TYPE_CHECKING:
    from cardferry.transports.tls.listener import TlsListener
    from cardferry.transports.tls.one_time import OneTimeDoor

log = logging.getLogger(__name__)

#: s in which a guest must come that has asked.
EXPIRY: Final = 10.0
_PORTS: Final = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")

Serve = Callable[[Pipe], Awaitable[None]]


class PortsError(UserError):
    """What was given as ports is none."""

    exit_code = 2


class Place(NamedTuple):
    """Where to listen.

    Attributes:
        address: of this computer.
        first, last: ports; 0 for any.
    """

    address: str
    first: int = 0
    last: int = 0

    @classmethod
    def of(cls, address: str, ports: str) -> Self:
        """Read ``7770`` or ``7770-7779``; raises `PortsError`."""
        if not ports:
            return cls(address)
        match = _PORTS.fullmatch(ports)
        first, last = (int(match[1]), int(match[2] or match[1])) if match is not None else (0, 0)
        if not 0 < first <= last < 1 << 16:
            raise PortsError(f"not a port, nor several: {ports!r}", "write them as in 7770, or 7770-7779")
        return cls(address, first, last)


class Introductions:
    """See the module; an asynchronous context manager, to be around that of whoever serves guests."""

    def __init__(self) -> None:
        self._tasks = asyncio.TaskGroup()
        self._open: dict[Place, _Open] = {}

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in tuple(self._open.values()):
            one.close()
        await self._tasks.__aexit__(kind, error, trace)

    def at(self, place: Place) -> Introducer:
        """Takes those who have come in at that address."""
        return Introducer(self, place)

    async def introduce(self, place: Place, certificate: bytes, serve: Serve) -> m.Introduction:
        """See `cardferry.link.host_direct.Introducer`."""
        while (opened := self._open.get(place)) is not None and opened.closing:
            await asyncio.wait({opened.accepting})
        if opened is None:
            opened = self._open[place] = _Open(place, self._tasks)
            opened.accepting.add_done_callback(lambda _: self._open.pop(place))
        try:
            opened.expect(certificate, serve)
        except ValueError:
            opened.close_when_idle()
            raise WireError("that is no certificate") from None
        return m.Introduction(place.address, opened.port, opened.door.certificate)


class Introducer(NamedTuple):
    """`cardferry.link.host_direct.Introducer` for guests that have come in at one address."""

    introductions: Introductions
    place: Place

    async def introduce(self, certificate: bytes, serve: Serve) -> m.Introduction:
        """See there."""
        return await self.introductions.introduce(self.place, certificate, serve)


class _Open:
    """A port that is open. Raises `OSError` when it cannot be.

    Attributes:
        accepting: takes who comes, until nobody is expected any more.
        closing: it is about to end.
    """

    def __init__(self, place: Place, tasks: asyncio.TaskGroup) -> None:
        from cardferry.transports.tls.listener import TlsListener  # noqa: PLC0415 - ssl and cryptography
        from cardferry.transports.tls.one_time import OneTimeDoor, OneTimeKey, listen  # noqa: PLC0415

        self._socket = listen(place.address, (place.first, place.last))
        self.port = int(self._socket.getsockname()[1])
        self.door: OneTimeDoor = OneTimeDoor(OneTimeKey())
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._expected: dict[str, Serve] = {}
        self.closing = False
        listener = TlsListener(f"{place.address} port {self.port}", self._socket, self.door)
        self.accepting = tasks.create_task(self._accept(listener), name=listener.name)
        log.debug("%s: open for those who were introduced", listener.name)

    async def _accept(self, listener: TlsListener) -> None:
        try:
            await listener.run(self._take)
        finally:
            self._socket.close()
            log.debug("%s: closed", listener.name)

    def expect(self, certificate: bytes, serve: Serve) -> None:
        """Somebody will come; raises `ValueError` when that is no certificate."""
        name = self.door.expect(certificate)
        self._expected[name] = serve
        self._loop.call_later(EXPIRY, self._expire, name, serve)

    def _expire(self, name: str, serve: Serve) -> None:
        if self._expected.get(name) is serve:
            log.info("port %d: nobody came who was introduced", self.port)
            self._done(name)

    def _done(self, name: str) -> None:
        del self._expected[name]
        self.door.forget(name)
        self._loop.call_soon(self.close_when_idle)

    def close_when_idle(self) -> None:
        """Take nobody any more when nobody is expected."""
        if not self._expected:
            self.close()

    def close(self) -> None:
        """Take nobody any more."""
        self.closing = True
        self.accepting.cancel()

    def _take(self, arrival: Arrival) -> None:
        name = arrival.principal.name
        serve = self._expected.get(name)
        if serve is None or arrival.refusal:
            arrival.pipe.abort()
            return
        self.door.took(name)
        self._done(name)
        self._tasks.create_task(self._serve(arrival.pipe, name, serve), name=arrival.name)

    async def _serve(self, pipe: Pipe, name: str, serve: Serve) -> None:
        try:
            await serve(pipe)
        except Exception:  # the boundary: whoever has come is nobody else's concern
            log.exception("%s: a bug behind a direct connection", pipe.name)
        finally:
            pipe.abort()
            self.door.left(name)
