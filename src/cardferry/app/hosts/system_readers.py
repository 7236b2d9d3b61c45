"""This computer's readers, lent by the service of the whole computer (``setup system``), in whose queue all stand.

Each guest is handed over by itself, as sessions of ssh do it, so each has its own places in the queue, and its own PIN.
Programs at a socket of ours are guests, too: served here, over a link to the service. What an account may not give
away, because it is about others, stays the service's: bounds, rules, and who is asked.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from types import TracebackType
from typing import Final, Self

import msgspec

from cardferry.app.hosts.lend import LentReaders, silent
from cardferry.app.hosts.lend_messages import Described
from cardferry.app.hosts.ssh_link import link_over, patience
from cardferry.app.runtime.handoff import Handoff
from cardferry.app.runtime.paths import SYSTEM_GUESTS
from cardferry.app.runtime.request import Request
from cardferry.app.runtime.service import Service
from cardferry.app.runtime.spawn import BackgroundError, decode
from cardferry.app.runtime.status_socket import Running, system_running
from cardferry.app.runtime.system_service import RESTART, has_the_queue
from cardferry.backoff import Backoff
from cardferry.changes import Changes
from cardferry.frontends.pcsclite import PcscliteFrontend
from cardferry.pcsc.caller import Caller, Principal, PrincipalKind
from cardferry.pcsc.errors import CardferryError
from cardferry.system.descriptors import send_descriptors
from cardferry.system.peers import user_name
from cardferry.transports.base import Pipe
from cardferry.transports.listening import Listening
from cardferry.transports.unix import adopt

log = logging.getLogger(__name__)

#: s between looks whether the service is there again, at first and at most.
_PAUSES: Final = (0.1, 5.0)
#: s that it gets to say good-bye to guests.
_FAREWELL: Final = 10.0
_GONE: Final = "the service of this computer has gone"
#: What the service hears when a guest is not to come back.
GOOD_BYE: Final = b"\n"


def lent(request: Request, who: str, *, tells: bool = False) -> LentReaders | SystemReaders:
    """Readers of this computer, lent by whoever has the queue: the service of the computer, or the account's agent.

    Args:
        request: which readers, and how.
        who: who asks, for people.
        tells: see `cardferry.app.hosts.lend_messages.Lend`.
    """
    return SystemReaders(request) if has_the_queue(request) else LentReaders(request, who, tells=tells)


class SystemReaders:
    """The readers; an asynchronous context manager.

    Args:
        request: how they are to be served.

    Attributes:
        agent: process id of the service, 0 while there is none.
        rules: empty: they are the service's.
    """

    def __init__(self, request: Request) -> None:
        self.agent = 0
        self.rules = ""
        self._request = request
        self._handed: set[asyncio.StreamWriter] = set()
        self._fewer = Changes()
        self._tasks = asyncio.TaskGroup()
        self._fronts: list[asyncio.Task[None]] = []
        self._ending = False

    async def __aenter__(self) -> Self:
        told = await self._ask()
        for trouble in () if told is None else told.troubles:
            log.warning("%s; %s", trouble.says, trouble.hint)
        usual = Request()
        bounds = ("max_idle", "max_hold", "exclusive")
        if any(getattr(self._request, name) != getattr(usual, name) for name in bounds):
            log.warning("the bounds of this computer's service apply to all who share its readers, and not these")
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending = True
        for task in self._fronts:
            task.cancel()
        for writer in self._handed:
            writer.write(GOOD_BYE)
        try:
            async with asyncio.timeout(_FAREWELL):  # cards that somebody held are reset first
                while self._handed:
                    await self._fewer.wait()
        except TimeoutError:
            log.warning("the service of this computer does not answer")
        for writer in tuple(self._handed):
            writer.close()
        await self._tasks.__aexit__(kind, error, trace)

    async def programs(self, listening: Listening, caller: Caller | None = None) -> None:
        """Let programs at a socket use the readers, from now on; the socket stays the caller's to close."""
        self._fronts.append(self._tasks.create_task(self._front(listening, caller), name=str(listening.path)))

    async def _front(self, listening: Listening, caller: Caller | None) -> None:
        """Serve programs from when the first one comes: where none does, the service has no guest for nothing."""
        principal = Principal(PrincipalKind.LOCAL_USER, user_name(os.getuid())) if caller is None else caller.principal
        name = str(principal) if caller is None else caller.guest
        service = Service.of(self._request)
        backoff = Backoff(*_PAUSES)
        await _readable(listening.socket)
        while True:
            try:
                async with (
                    link_over(lambda: self.dial(principal, name), name, patience(self._request.grace), "") as guest,
                    PcscliteFrontend(guest, listening, slots=service.slots, name_size=service.name_size, caller=caller),
                ):
                    await asyncio.get_running_loop().create_future()
            except (OSError, CardferryError) as error:
                log.warning("%s: %s", listening.path, error)
                await asyncio.sleep(backoff.pause())

    async def serve(self, end: socket.socket, principal: Principal, name: str) -> None:
        """Let the guest at the other end of a pipe use the readers; returns when the pipe is lost.

        Args:
            end: our end, which is the service's from now on.
            principal: who the guest is, as this account has proved it.
            name: what to call it.

        Raises:
            BackgroundError: the service does not want this guest.
        """
        with end:
            try:
                reader, writer = await self._hand_over(end, principal, name)
            except OSError as error:
                log.debug("%s: %s", name, error)
                return
        await self._until_lost(reader, writer)
        if self._ending:  # nobody is to come back
            await asyncio.get_running_loop().create_future()

    async def dial(self, principal: Principal, name: str) -> Pipe:
        """A pipe to the readers, as a guest uses it."""
        near, far = socket.socketpair()
        try:
            with far:
                reader, writer = await self._hand_over(far, principal, name)
        except BaseException:
            near.close()
            raise
        self._tasks.create_task(self._until_lost(reader, writer), name=name)
        return await adopt(near, name)

    async def _hand_over(
        self, end: socket.socket, principal: Principal, name: str
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        handoff = Handoff(name, principal=(principal.kind, principal.name), request=self._request)
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.setblocking(False)
            connection.connect(os.fspath(SYSTEM_GUESTS))
            send_descriptors(connection, msgspec.json.encode(handoff), (end.fileno(), end.fileno()))
            reader, writer = await asyncio.open_unix_connection(sock=connection)
        except BaseException:
            connection.close()
            raise
        if not (line := await reader.readline()):
            writer.close()
            raise ConnectionError(_GONE)
        try:
            decode(line).check()
        except BackgroundError:
            writer.close()
            raise
        self._handed.add(writer)
        return reader, writer

    async def _until_lost(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                decode(line).check()
        except ConnectionError as error:
            log.debug("%s: %s", _GONE, error)
        finally:
            self._handed.discard(writer)
            self._fewer.announce()
            writer.close()

    async def ready(self) -> None:
        """Wait until the service is there."""
        backoff = Backoff(*_PAUSES)
        while True:
            try:
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(os.fspath(SYSTEM_GUESTS))
                return
            except OSError:
                if not backoff.attempts:
                    log.warning("%s; it is waited for: %s", _GONE, RESTART)
                await asyncio.sleep(backoff.pause())

    async def describe(self) -> Described:
        """How it is going, as far as the service tells this account."""
        told = await self._ask()
        if told is None:
            return silent(_GONE)
        readers = Service.of(self._request).offered(told.readers)
        guests = [link.guest for link in told.links if link.guest is not None]
        return Described(
            "up", told.contexts, readers, guests, told.troubles, remembered=told.remembered, asks=told.asks
        )

    async def _ask(self) -> Running | None:
        told = await asyncio.to_thread(system_running)
        self.agent = 0 if told is None else told.pid
        return told


async def _readable(listening: socket.socket) -> None:
    """Wait until somebody has come to a socket."""
    loop = asyncio.get_running_loop()
    came: asyncio.Future[None] = loop.create_future()

    def note() -> None:
        if not came.done():
            came.set_result(None)

    loop.add_reader(listening.fileno(), note)
    try:
        await came
    finally:
        loop.remove_reader(listening.fileno())
