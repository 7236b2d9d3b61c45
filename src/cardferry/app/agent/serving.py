"""What the agent has: sets of readers, each with the one manager for all who use it, and what is put around that.

One set may be served in several ways, to each who asks as it was asked for.

Frontend    ---.
LinkServer  ---+-- ( Recorded, Offered ) -- LocalManager( a set of readers )
"""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from cardferry.app.agent.listeners import GuestListeners
from cardferry.app.agent.log_lines import mark
from cardferry.app.hosts.connect import OpenedReaders, Way
from cardferry.app.hosts.lend_messages import Described
from cardferry.app.hosts.registry import parse_host
from cardferry.app.hosts.ssh_link import SOFTWARE
from cardferry.app.runtime.request import Request
from cardferry.app.runtime.service import Service, guarding, offering
from cardferry.app.runtime.status_socket import troubles_of
from cardferry.app.runtime.telling import telling
from cardferry.frontends.pcsclite import PcscliteFrontend
from cardferry.link import LinkServer, Memories, Timing
from cardferry.link.host_session import HostSession
from cardferry.manager import ExclusivePolicy, LocalManager, Settings
from cardferry.pcsc.caller import Caller, Principal
from cardferry.pcsc.interface import ResourceManager
from cardferry.pcsc.reader_state import User
from cardferry.policy.guard import HostGuard
from cardferry.transports.base import Pipe
from cardferry.transports.listening import Listening
from cardferry.transports.stdio import open_pipe

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LentSocket:
    """A listening socket that another process has made, and keeps at its path."""

    path: Path
    socket: socket.socket


@dataclass(frozen=True, slots=True)
class _Wish:
    """What one user of a set of readers wants of its queue; ``told`` gets a line when it gets something else."""

    settings: Settings
    leads: bool
    told: Callable[[str], None]


@dataclass(eq=False)
class ReaderSet:
    """Readers with the one manager for all who use them.

    Its bounds are those of who leads, or else the shortest that anybody asked for.

    Attributes:
        name: as a `HostAddress` is written.
        readers: what is served.
        manager: serves them.
        memories: what their cards have said before.
        guarded: the manager as everybody else has it.
        guard: decides who may do what; None where nobody does.
    """

    name: str
    readers: OpenedReaders
    manager: LocalManager
    memories: Memories
    guarded: ResourceManager
    guard: HostGuard | None
    _wishes: list[_Wish] = field(default_factory=list, init=False)

    @contextmanager
    def used(self, settings: Settings, told: Callable[[str], None], *, leads: bool = False) -> Iterator[None]:
        """Count somebody's bounds for the block.

        Args:
            told: gets a line about bounds that are others than these.
        """
        wish = _Wish(settings, leads, told)
        self._wishes.append(wish)
        self._decide(newcomer=wish)
        try:
            yield
        finally:
            self._wishes.remove(wish)
            self._decide()

    def _decide(self, newcomer: _Wish | None = None) -> None:
        deciding = [wish.settings for wish in self._wishes if wish.leads] or [wish.settings for wish in self._wishes]
        if not deciding:
            return
        lease = any(settings.exclusive is ExclusivePolicy.LEASE for settings in deciding)
        bounds = replace(
            deciding[0],
            max_idle=min(settings.max_idle for settings in deciding),
            max_hold=min(settings.max_hold for settings in deciding),
            exclusive=ExclusivePolicy.LEASE if lease else ExclusivePolicy.HONOUR,
        )
        changed = bounds != self.manager.settings
        if changed:
            self.manager.adjust(bounds)
        for wish in self._wishes:
            if wish.settings != bounds and (changed or wish is newcomer):
                wish.told(f"{self.name}: {_words(bounds)} apply to all who share these readers, as others asked for")


def _words(bounds: Settings) -> str:
    return f"--max-idle {bounds.max_idle:g}, --max-hold {bounds.max_hold:g} and --exclusive {bounds.exclusive.value}"


@asynccontextmanager
async def open_set(
    name: str, way: Way, settings: Settings | None = None, guard: HostGuard | None = None
) -> AsyncIterator[ReaderSet]:
    """A set of readers for the block; raises `UserError` when they cannot be reached."""
    memories = Memories()
    with mark(name):
        async with (
            parse_host(name).open_readers(way) as readers,
            LocalManager([readers.source], settings, memories.watch) as manager,
            guarding(manager, guard) as guarded,
        ):
            with nullcontext() if guard is None else guard.telling(memories.tell_anew):
                yield ReaderSet(name, readers, manager, memories, guarded, guard)


class Serving:
    """A set of readers as somebody wants it served; `serving` makes one."""

    def __init__(
        self, served: ReaderSet, service: Service, host: LinkServer, guests: GuestListeners, fronts: AsyncExitStack
    ) -> None:
        self.served = served
        self.host = host
        self.guests = guests
        self._service = service
        self._stack = fronts
        self._fronts: list[PcscliteFrontend] = []

    async def programs(self, listening: Listening, caller: Caller | None) -> None:
        """Serve programs at a socket, from now on.

        Args:
            caller: who they all are, where the kernel cannot tell.
        """
        front = PcscliteFrontend(
            self.host.manager, listening, slots=self._service.slots, name_size=self._service.name_size, caller=caller
        )
        self._fronts.append(await self._stack.enter_async_context(front))

    async def serve(self, end: socket.socket, principal: Principal, name: str) -> None:
        """Serve the guest at the other end of a pipe, until that is lost; `end` is closed then."""
        pipe = await open_pipe(descriptor := end.detach(), descriptor, name)
        await self.serve_pipe(pipe, principal, name)

    async def serve_pipe(self, pipe: Pipe, principal: Principal, name: str) -> None:
        """Likewise."""
        try:
            await self.host.serve(pipe, principal, name)
        finally:
            pipe.abort()

    def describe(self) -> Described:
        """How it is going."""
        status = self.host.status
        guests = status.guests
        contexts = sum(len(front.contexts) for front in self._fronts) + sum(guest.contexts for guest in guests)
        readers = self._service.offered(self.served.manager.status.readers)
        state, troubles = self.served.readers.state(), troubles_of(self.host.manager)
        asks = [] if self.served.guard is None else self.served.guard.asks_with
        return Described(state, contexts, readers, guests, troubles, remembered=status.remembered, asks=asks)

    def serves(self, user: User) -> bool:
        """Whether that program comes through here, and not in another way in which the same readers are served."""
        return self.host.serves(user.session) or any(
            str(connection.caller) == user.client for front in self._fronts for connection in front.connections
        )


@asynccontextmanager
async def serving(
    served: ReaderSet,
    request: Request,
    sessions: dict[bytes, HostSession] | None = None,
    *,
    tells: bool = True,
    around: Callable[[ResourceManager], ResourceManager] = lambda manager: manager,
) -> AsyncIterator[Serving]:
    """Serve readers in the way that is asked for, for the block; raises `UserError` when that cannot be.

    Args:
        sessions: see `LinkServer`.
        tells: tell people what keeps readers away, and which of the programs that come through here waits long.
        around: puts something around the readers.
    """
    service = Service.of(request)
    async with (
        GuestListeners() as guests,
        LinkServer(
            around(offering(served.guarded, service)),
            timing=Timing(grace=request.grace),
            accelerate=request.accelerate,
            software=SOFTWARE,
            sessions=sessions,
            memories=served.memories if request.memory else None,
        ) as host,
        AsyncExitStack() as fronts,
    ):
        opened = Serving(served, service, host, guests, fronts)
        async with telling(host.manager, opened.serves) if tells else nullcontext():
            await served.readers.known()
            yield opened
