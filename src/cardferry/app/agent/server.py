"""The host's agent: the one process of a user that serves this computer's readers, to guests and to programs.

``ssh HOST cardferry host --stdio`` finds the agent, or starts it, and hands its own standard streams over, as
descriptors: no byte of the link passes through it afterwards. Guests that need no ssh come to its `listeners`.
`share` and `attach` lend its readers on (`lends`). An agent that has started itself leaves when nobody has come for a
while; one that is started by hand stays, and decides how guests are served.

Frontend    ---.
LinkServer  ---+-- LocalManager( pcscd )
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cardferry.app.agent.handoff_server import HandoffServer, Tell
from cardferry.app.agent.in_fleet import take_guests
from cardferry.app.agent.introductions import Introducer, Introductions, Place
from cardferry.app.agent.leading import Leading, Page, no_page, tell_where
from cardferry.app.agent.lends import Lends
from cardferry.app.agent.serving import ReaderSet, Serving, open_set, serving
from cardferry.app.agent.shared import Shared
from cardferry.app.hosts.address import HostAddress
from cardferry.app.hosts.connect import Way
from cardferry.app.hosts.sources import LOCAL_PCSCD
from cardferry.app.runtime.garbage import collect_rarely
from cardferry.app.runtime.handoff import Handoff
from cardferry.app.runtime.paths import agent_path, runtime_folder, scratch
from cardferry.app.runtime.request import Request
from cardferry.app.runtime.service import Service
from cardferry.app.runtime.signals import root_cause
from cardferry.app.runtime.spawn import BackgroundError, Starter, StartReport, agent_log
from cardferry.app.runtime.status_socket import NOT_IN_USE, Link, Running, controllable
from cardferry.link import Timing
from cardferry.link.host_session import HostSession
from cardferry.pcsc.caller import Principal
from cardferry.pcsc.errors import UserError
from cardferry.pcsc.interface import ResourceManager
from cardferry.policy.pin.terminal import Terminal
from cardferry.system.limits import raise_open_files
from cardferry.transports.base import Address, Listener, Pipe
from cardferry.transports.listening import ListeningSocket, SocketInUseError
from cardferry.transports.sockets import Access

log = logging.getLogger(__name__)

#: Has readers served as they are asked for, for a block.
OpenServing = Callable[[Request], AbstractAsyncContextManager[Serving]]
#: What else serves readers: it gets what serves them, and what opens them as somebody else wants them.
Beside = Callable[[Serving, OpenServing], AbstractAsyncContextManager[None]]
#: An account has one agent.
_ANOTHER: Final = "set XDG_RUNTIME_DIR to another folder of your own"


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """What an agent serves, and how.

    Attributes:
        readers: where the readers are.
        service: bounds of the resource manager.
        accelerate: whether to run ahead.
        grace: s that a guest that is out of reach keeps what it holds.
        idle: s without a guest until it leaves, None to stay; 0 leaves when the first ones who come have gone.
        listen: where guests come in besides.
        access: who may come in by those of them that are Unix sockets.
        by_hand: whether a person has started it, or a unit, and not somebody who needed one.
        around: puts something around the readers as guests and programs of the agent have them.
        beside: what else serves the readers for as long as the agent does, of one that is started by hand.
        page: shows people what the agent tells, for as long as it does.
        direct: whether guests over ssh may have connections of their own besides; False forbids it to all, None to
            those whose session does not say so.
        direct_ports: where; see `Place.of`.
    """

    readers: HostAddress = LOCAL_PCSCD
    service: Service = field(default_factory=Service)
    accelerate: bool = True
    grace: float = Timing().grace
    idle: float | None = None
    listen: tuple[Address, ...] = ()
    access: Access = field(default_factory=Access)
    by_hand: bool = True
    around: Callable[[ResourceManager], ResourceManager] = lambda manager: manager
    beside: Beside | None = None
    page: Page = no_page
    direct: bool | None = None
    direct_ports: str = ""

    @property
    def request(self) -> Request:
        """What guests are served with who want nothing special."""
        return self.service.request(str(self.readers), self.grace, accelerate=self.accelerate)


async def serve(wanted: AgentSettings, ready: int | None = None) -> None:
    """Be the agent until cancelled, or until nobody has come for a while.

    Args:
        ready: a descriptor that gets a line when guests can come, or cannot, and is closed.

    Raises:
        SocketInUseError: there is one already.
        UserError: the readers cannot be reached.
    """
    starter = Starter(ready)
    try:
        await _serve(wanted, starter)
    except (BaseExceptionGroup, UserError) as error:
        cause = root_cause(error)
        if isinstance(cause, UserError):
            starter.tell(StartReport.of(cause))
        raise cause from None


async def _serve(wanted: AgentSettings, starter: Starter) -> None:
    raise_open_files()
    collect_rarely()
    folder = runtime_folder()
    leading = Leading(folder, wanted.request, wanted.listen, wanted.access, wanted.page)
    while True:
        try:
            listening = ListeningSocket(agent_path(folder), elsewhere=_ANOTHER)
        except SocketInUseError as taken:
            if not wanted.by_hand:
                raise
            await leading.lead(taken, lambda: starter.tell(StartReport(taken=True)))
        else:
            with ExitStack() as ends, listening, ExitStack() as stack:
                listeners = [stack.enter_context(address.listen(wanted.access)) for address in wanted.listen]
                await _Agent(wanted, folder, listeners, starter, ends).run(listening)
            return


class _Agent:
    """The agent, once it has its place."""

    def __init__(
        self, wanted: AgentSettings, folder: Path, listeners: list[Listener], starter: Starter, ends: ExitStack
    ) -> None:
        self._wanted = wanted
        self._own = wanted.request
        self._folder = folder
        self._listeners = listeners
        self._listens = [one.name for one in listeners]
        self._starter = starter
        self._since = time.time()
        self._numbers = 0
        self._sessions: dict[bytes, HostSession] = {}
        self._sets: Shared[str, ReaderSet] = Shared(self._open_set)
        self._servings: Shared[Request, Serving] = Shared(self._open_serving, lambda serving: serving.host.empty())
        self._introductions = Introductions()
        self._lends = Lends(
            self._sets,
            lambda: self._handoffs,
            ends,
            self._check_rules,
            by_hand=wanted.by_hand,
            listens=self._listens,
        )
        self._handoffs: HandoffServer

    async def run(self, listening: ListeningSocket) -> None:
        """Serve until cancelled, or until nobody has come for a while."""
        where = ", ".join([str(listening.path), *self._listens])
        with scratch(self._folder) as self._workdir:
            self._handoffs = HandoffServer(
                listening.socket, self._receive, idle=self._wanted.idle, talk=self._lends.serve
            )
            refused: asyncio.Queue[UserError] = asyncio.Queue()
            async with (
                self._introductions, self._sets, self._servings, AsyncExitStack() as stack, asyncio.TaskGroup() as tasks
            ):  # fmt: skip
                if (guard := self._wanted.service.guard) is not None:
                    log.info("%s", guard.rulebook.in_a_line())
                    stack.enter_context(guard.person.at(Terminal()))
                if self._wanted.by_hand or self._listeners:
                    own = await stack.enter_async_context(self._servings.use(self._own))
                    for one in self._listeners:
                        take_guests(own, one, refused.put_nowait, self._serve)
                    if self._wanted.beside is not None:
                        await stack.enter_async_context(self._wanted.beside(own, self._servings.use))
                await stack.enter_async_context(self._wanted.page(lambda: self._describe(where)))
                async with controllable(self._folder, lambda: self._describe(where)):
                    self._starter.tell(StartReport(taken=True))
                    if self._wanted.by_hand:
                        tell_where(self._listens)
                    refusing = tasks.create_task(_raised(refused))
                    await self._handoffs.run()
                    refusing.cancel()
        if self._handoffs.idle == 0:  # there was nobody but those who have heard all that it had to say
            agent_log(self._folder).unlink(missing_ok=True)

    @asynccontextmanager
    async def _open_set(self, name: str) -> AsyncIterator[ReaderSet]:
        self._numbers += 1
        workdir = self._workdir / f"{self._numbers}"
        workdir.mkdir(mode=0o700)
        async with open_set(name, Way(workdir, patient=True), guard=self._wanted.service.guard) as served:
            yield served

    @asynccontextmanager
    async def _open_serving(self, request: Request) -> AsyncIterator[Serving]:
        """What several guests share who want the same."""
        by_hand = self._wanted.by_hand and request == self._own
        async with self._sets.use(request.readers) as served:
            settings = Service.of(request).settings
            with served.used(settings, log.warning, leads=by_hand):
                served_so = serving(served, request, self._sessions, around=self._wanted.around)
                async with served_so as opened, asyncio.TaskGroup() as tasks:
                    await served.readers.known()
                    counting = tasks.create_task(self._handoffs.count(opened.host))
                    yield opened
                    counting.cancel()

    def _asked(self, handoff: Handoff) -> Request:
        """What a guest is served with: who was started by hand decides, and otherwise the guest's own session."""
        if self._lends.leader is not None:
            return self._lends.leader
        return self._own if self._wanted.by_hand or handoff.request is None else handoff.request

    async def _serve(self, pipe: Pipe, principal: Principal, guest: str) -> None:
        """Serve a guest that has come to one of the agent's own listeners."""
        async with self._servings.use(self._lends.leader or self._own) as opened:
            await opened.host.serve(pipe, principal, guest)

    async def _receive(self, pipe: Pipe, handoff: Handoff, tell: Tell) -> None:
        if not self._wanted.by_hand:
            self._handoffs.stay(handoff.idle)
        try:
            self._check_rules(handoff.request or self._own)
            async with self._servings.use(self._asked(handoff)) as opened:
                await opened.host.serve(pipe, Principal(*handoff.principal), handoff.name, self._introducer(handoff))
        except (UserError, ExceptionGroup) as error:
            cause = root_cause(error)
            if not isinstance(cause, UserError):
                raise
            tell(StartReport.of(cause))

    def _introducer(self, handoff: Handoff) -> Introducer | None:
        """What takes further connections of a guest, if it may have any."""
        wanted = self._wanted
        may = bool(wanted.direct) if handoff.direct is None else handoff.direct and wanted.direct is not False
        ports = wanted.direct_ports or handoff.direct_ports
        return self._introductions.at(Place.of(handoff.address, ports)) if may and handoff.address else None

    def _check_rules(self, request: Request) -> None:
        """See that the rules are in force that somebody wants; raises `BackgroundError`."""
        guard = self._wanted.service.guard
        mine = self._own.config or (str(guard.rulebook.path or "") if guard is not None else "")
        if request.config not in ("", mine):
            raise BackgroundError(
                f"cardferry (process {os.getpid()}) has the rules of {mine or 'no file'}, not of {request.config}",
                "end what uses it, and it ends; or end it, and start `cardferry host --config` with these rules",
            )

    def _describe(self, where: str) -> Running | None:
        """What the agent itself has to tell; what is lent is told of by those who have lent it."""
        opened = self._servings.opened
        guests = [(serving, guest) for serving in opened for guest in serving.host.status.guests]
        links = [
            Link(one.guest, "up" if one.connected else "out of reach", where, "link", guest=one) for _, one in guests
        ]
        if not links and not self._wanted.by_hand and self._handoffs.idle == 0:
            return None
        described = [serving.describe() for serving in opened]
        links = links or [Link(str(self._wanted.readers), described[0].state if described else NOT_IN_USE, where)]
        readers = {slot.reader: slot for one in described for slot in one.readers}
        contexts = sum(one.contexts for one in described)
        troubles = list(dict.fromkeys(trouble for one in described for trouble in one.troubles))
        remembered = sum({one.served.name: one.host.status.remembered for one in opened}.values())
        own = os.getpid()
        asks = guard.asks_with if (guard := self._wanted.service.guard) is not None else []
        return Running(
            "host", own, self._since, links, contexts, list(readers.values()), own, troubles,
            remembered=remembered, asks=asks, listens=self._listens,
        )  # fmt: skip


async def _raised(refused: asyncio.Queue[UserError]) -> None:
    """End all, because this agent must not be where it was to be."""
    raise await refused.get()
