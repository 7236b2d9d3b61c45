"""The listening side of the pcsc-lite socket, and what its connections share."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Container, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from cardferry.frontends.descriptors import TURNED_AWAY, possible_connections
from cardferry.frontends.pcsclite.connection import Connection
from cardferry.frontends.pcsclite.payload import ControlCodes
from cardferry.pcsc.caller import Caller, Principal, PrincipalKind, Program
from cardferry.pcsc.constants import MAX_HANDLE, MAX_READERNAME
from cardferry.pcsc.interface import ResourceManager
from cardferry.pcsc.reader_name import encode_reader_name
from cardferry.pcsc.reader_state import Snapshot
from cardferry.system.peers import peer_credentials, process_name, user_name
from cardferry.transports.listening import BACKLOG, Listening
from cardferry.wire.pcsclite.layout import FIXED_SLOTS, encode_name

log = logging.getLogger(__name__)

#: s that a change of nothing but the sharing of readers waits for others like it. pcscd tells it at its next look
#: at the reader, 0.3 to 0.4 s later; without such a pause every connect would wake every waiting program.
SHARING_DELAY = 0.3


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
        max_connections: int | None = None,
    ) -> None:
        self.manager = manager
        self.patience = patience
        self.slots = slots
        self.name_size = name_size
        self.connections: set[Connection] = set()
        self.registered: set[Connection] = set()
        self.contexts: dict[int, Connection] = {}
        self.cards: set[int] = set()
        self.control_codes = ControlCodes()
        self._listening = listening
        self._caller = caller
        self._max_connections = possible_connections() if max_connections is None else max_connections
        self._full_reported = False
        self._tasks = asyncio.TaskGroup()
        self._server: asyncio.AbstractServer | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._sharing_timer: asyncio.TimerHandle | None = None
        self._last_gone: asyncio.Future[None] | None = None
        self._most_readers = 0
        self._changes = 0
        self._compared = manager.snapshot

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._watcher = self._tasks.create_task(self._watch(), name="reader changes")
        # The caller's socket keeps listening until the caller closes it, so that nobody takes its path meanwhile.
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: Connection(self), sock=self._listening.socket.dup(), backlog=BACKLOG
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        if self._watcher is not None:
            self._watcher.cancel()
        if self._sharing_timer is not None:
            self._sharing_timer.cancel()
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

    @property
    def most_readers(self) -> int:
        """How many readers there have been at the same time; never shrinks."""
        self._most_readers = max(self._most_readers, len(self.manager.snapshot.readers))
        return self._most_readers

    def reader_called(self, name: str, size: int) -> str:
        """The reader that a program means which has ``size`` bytes for a name: it knows long names shortened."""
        snapshot = self.manager.snapshot
        if snapshot.find(name) is not None:
            return name
        raw = encode_reader_name(name)
        return next((reader.name for reader in snapshot.readers if encode_name(reader.name, size) == raw), name)

    def new_number(self, taken: Container[int]) -> int:
        """A handle that nobody has and nobody can guess."""
        while True:
            number = secrets.randbelow(MAX_HANDLE) + 1
            if number not in taken:
                return number

    # Changes

    @property
    def changes(self) -> int:
        """Counts the changes that programs wait for. Protocols and resets are not among them, as with pcscd."""
        snapshot = self.manager.snapshot
        if snapshot is not self._compared:
            if _as_waited_for(snapshot) != _as_waited_for(self._compared):
                self._changes += 1
            self._compared = snapshot
        return self._changes

    async def _watch(self) -> None:
        before = self.manager.snapshot
        while True:
            after = await self.manager.changed(before.serial)
            try:
                self._changed(before, after)
            except Exception:  # programs go on as well as they can
                log.exception("a bug behind news of the readers")
            before = after

    def _changed(self, before: Snapshot, after: Snapshot) -> None:
        if _urgent(before, after):
            self._notify()
        elif self._sharing_timer is None:
            changes = self.changes
            if any(connection.registered != changes for connection in self.registered):
                loop = asyncio.get_running_loop()
                self._sharing_timer = loop.call_later(SHARING_DELAY, self._notify)

    def _notify(self) -> None:
        if self._sharing_timer is not None:
            self._sharing_timer.cancel()
            self._sharing_timer = None
        for connection in tuple(self.registered):
            connection.guarded(connection.notify)

    @property
    def status(self) -> FrontendStatus:
        """How many are served."""
        return FrontendStatus(str(self._listening.path), len(self.connections), len(self.registered))


def _as_waited_for(snapshot: Snapshot) -> tuple[object, ...]:
    """What must be another one for programs to hear of it."""
    readers = tuple((each.name, each.event_counter, each.state, each.sharing) for each in snapshot.readers)
    return snapshot.reader_events, readers


def _urgent(before: Snapshot, after: Snapshot) -> bool:
    """Whether waiting programs must hear of it at once: readers or cards came or went, or a reader failed."""
    if before.reader_events != after.reader_events or len(before.readers) != len(after.readers):
        return True
    return any(
        old is not new and (old.name, old.event_counter, old.state) != (new.name, new.event_counter, new.state)
        for old, new in zip(before.readers, after.readers, strict=True)
    )
