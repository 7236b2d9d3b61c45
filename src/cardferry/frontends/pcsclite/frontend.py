"""The listening side of the pcsc-lite socket, and what its connections share."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Container, Coroutine
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

from cardferry.frontends.descriptors import TURNED_AWAY, possible_connections
from cardferry.frontends.pcsclite.connection import Connection
from cardferry.frontends.pcsclite.payload import ControlCodes
from cardferry.frontends.pcsclite.seen import Nothing, Seen, Waiting
from cardferry.pcsc.caller import Caller, Principal, PrincipalKind, Program
from cardferry.pcsc.constants import MAX_HANDLE, MAX_READERNAME
from cardferry.pcsc.interface import ResourceManager
from cardferry.pcsc.reply import Reply, in_task
from cardferry.system.peers import peer_credentials, process_name, user_name
from cardferry.transports.listening import BACKLOG, Listening
from cardferry.wire.pcsclite.layout import FIXED_SLOTS

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FrontendStatus:
    """What ``cardferry status`` shows of a front."""

    socket: str
    clients: int
    waiting: int


class PcscliteFrontend:
    """Serves applications on a listening Unix socket; an asynchronous context manager.

    Args:
        manager: whose cards are served.
        listening: where; stays the caller's to close.
        patience: s that a call may wait for its turn before the library is told to ask again. libpcsclite holds
            process-wide locks meanwhile, so not much longer than 1 s.
        slots: readers that clients up to protocol 4:5 can see, and the size of their state array.
        name_size: bytes of a reader name in the protocol 4:2 of very old clients.
        caller: who all callers are, where the kernel cannot tell (they come through ssh); None asks the kernel.
        admit: says whether a program may come in, which it is told nothing before; one that may not sees no reader, and
            gets ``W_SECURITY_VIOLATION`` for a context. None lets all come in.
        max_connections: programs beyond this are told that memory is short (``E_NO_MEMORY``); None is as many as the
            process may have file descriptors for.
    """

    def __init__(
        self,
        manager: ResourceManager,
        listening: Listening,
        *,
        patience: float = 1.0,
        slots: int = FIXED_SLOTS,
        name_size: int = MAX_READERNAME,
        caller: Caller | None = None,
        admit: Callable[[Caller], Awaitable[bool]] | None = None,
        max_connections: int | None = None,
    ) -> None:
        self.manager = manager
        self.patience = patience
        self.slots = slots
        self.name_size = name_size
        self.connections: set[Connection] = set()
        self.contexts: dict[int, Connection] = {}
        self.cards: set[int] = set()
        self.control_codes = ControlCodes()
        self._listening = listening
        self._caller = caller
        self._admit = admit
        self._nothing = Seen(Nothing())
        self._max_connections = possible_connections() if max_connections is None else max_connections
        self._full_reported = False
        self._tasks = asyncio.TaskGroup()
        self._server: asyncio.AbstractServer | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._last_gone: asyncio.Future[None] | None = None
        self._seen: dict[Principal, Seen] = {}

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        # The caller's socket keeps listening until the caller closes it, so that nobody takes its path meanwhile.
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: Connection(self), sock=self._listening.socket.dup(), backlog=BACKLOG
        )
        self._watcher = self._tasks.create_task(self._watch(), name="reader changes")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        if self._watcher is not None:
            self._watcher.cancel()
        for seen in self._seen.values():
            seen.close()
        self._last_gone = asyncio.get_running_loop().create_future()
        for connection in tuple(self.connections):
            connection.close()
        if self.connections:
            await self._last_gone
        await self._tasks.__aexit__(kind, error, trace)

    def lost(self, connection: Connection) -> None:
        """A connection is closed and has freed what it had."""
        self.connections.discard(connection)
        if not self.connections and self._last_gone is not None and not self._last_gone.done():
            self._last_gone.set_result(None)

    def start(self, connection: Connection, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run what a connection must wait for, in a task that this front owns."""
        return self._tasks.create_task(self._guarded(connection, work))

    async def _guarded(self, connection: Connection, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except Exception:  # the boundary that `cardferry.frontends.pcsclite.connection` describes
            log.exception("%s: a bug behind its connection, which is closed", connection.caller)
            connection.close()

    @property
    def full(self) -> bool:
        """Whether there are more connections than allowed. Says so in the log when that begins."""
        full = len(self.connections) > self._max_connections
        if full and not self._full_reported:
            log.warning(
                "%d connections are the most there can be: programs are turned away. Raise the limit (ulimit -n).",
                self._max_connections,
            )
        self._full_reported = full
        return full

    @property
    def overrun(self) -> bool:
        """Whether there are so many more that there is nothing left to tell them so with."""
        return len(self.connections) > self._max_connections + TURNED_AWAY

    def identify(self, transport: asyncio.Transport) -> Caller:
        """Who is at the other end of a connection."""
        if self._caller is not None:
            return self._caller
        pid, uid = peer_credentials(transport.get_extra_info("socket"))
        return Caller(Principal(PrincipalKind.LOCAL_USER, user_name(uid)), Program(process_name(pid), pid, uid, True))

    def seen_by(self, principal: Principal) -> Seen:
        """What a principal sees. It is kept: its programs may come again, and their library remembers a number."""
        seen = self._seen.get(principal)
        if seen is None:
            seen = self._seen[principal] = Seen(self.manager.seen_by(principal))
        return seen

    def admission(self, connection: Connection) -> Reply[Seen] | None:
        """What a program sees that must be admitted first; None where nobody must be."""
        if self._admit is None:
            return None
        return in_task(partial(self.start, connection), self._admitted(self._admit, connection.caller))

    async def _admitted(self, admit: Callable[[Caller], Awaitable[bool]], caller: Caller) -> Seen:
        return self.seen_by(caller.principal) if await admit(caller) else self._nothing

    def new_number(self, taken: Container[int]) -> int:
        """A handle that nobody has and nobody can guess."""
        while True:
            number = secrets.randbelow(MAX_HANDLE) + 1
            if number not in taken:
                return number

    async def _watch(self) -> None:
        snapshot = self.manager.snapshot
        while True:
            snapshot = await self.manager.changed(snapshot.serial)
            for seen in tuple(self._seen.values()):
                try:
                    seen.changed()
                except Exception:  # programs go on as well as they can
                    log.exception("a bug behind news of the readers")

    @property
    def registered(self) -> set[Waiting]:
        """Connections that wait for a change."""
        return {connection for seen in self._seen.values() for connection in seen.registered}

    @property
    def status(self) -> FrontendStatus:
        """How many are served."""
        return FrontendStatus(str(self._listening.path), len(self.connections), len(self.registered))
