"""The host's agent: the one resource manager of a user, which all guests that come over a link share.

``ssh HOST cardferry host --stdio`` finds the agent, or starts it, and hands its own standard streams over, as
descriptors: no byte of the link passes through it afterwards. Guests that need no ssh come to its `listeners`.
The agent leaves when no guest has come for a while.

LinkServer( LocalManager( pcscd ) )
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from cardferry.app.agent.handoff_client import Handoff
from cardferry.app.agent.handoff_server import HandoffServer, Tell
from cardferry.app.agent.listeners import GuestListeners
from cardferry.app.agent.stdio_session import agent_path
from cardferry.app.hosts.address import HostAddress
from cardferry.app.hosts.connect import Way
from cardferry.app.hosts.sources import LOCAL_PCSCD
from cardferry.app.hosts.ssh_link import SOFTWARE
from cardferry.app.runtime.garbage import collect_rarely
from cardferry.app.runtime.paths import runtime_folder, scratch
from cardferry.app.runtime.service import Service, offering
from cardferry.app.runtime.signals import root_cause
from cardferry.app.runtime.spawn import Starter, StartReport
from cardferry.app.runtime.status_socket import Link, Running, controllable
from cardferry.link import LinkServer, Memories, Timing
from cardferry.manager import LocalManager
from cardferry.pcsc.caller import Principal
from cardferry.pcsc.errors import UserError
from cardferry.system.limits import raise_open_files
from cardferry.transports.base import Address, Pipe
from cardferry.transports.listening import ListeningSocket
from cardferry.transports.sockets import Access

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
        idle: s without a guest until it leaves, None to stay.
        listen: where guests come in besides.
        access: who may come in by those of them that are Unix sockets.
    """

    readers: HostAddress = LOCAL_PCSCD
    service: Service = field(default_factory=Service)
    accelerate: bool = True
    grace: float = Timing().grace
    idle: float | None = None
    listen: tuple[Address, ...] = ()
    access: Access = field(default_factory=Access)


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
    since = time.time()
    memories = Memories() if wanted.service.memory else None
    with ExitStack() as stack:
        listening = stack.enter_context(ListeningSocket(agent_path(folder), elsewhere=_ANOTHER))
        workdir = stack.enter_context(scratch(folder))
        listeners = [stack.enter_context(address.listen(wanted.access)) for address in wanted.listen]
        where = ", ".join([str(listening.path), *(one.name for one in listeners)])
        async with (
            GuestListeners(listeners) as guests,
            wanted.readers.open_readers(Way(workdir, patient=True)) as readers,
            LocalManager(
                [readers.source], wanted.service.settings, None if memories is None else memories.watch
            ) as manager,
            LinkServer(
                offering(manager, wanted.service),
                timing=Timing(grace=wanted.grace),
                accelerate=wanted.accelerate,
                software=SOFTWARE,
                memories=memories,
            ) as host,
        ):

            def describe() -> Running:
                status = manager.status
                offered = wanted.service.offered(status.readers)
                links = [
                    Link(one.guest, "up" if one.connected else "out of reach", where, "link", guest=one)
                    for one in host.status.guests
                ] or [Link(str(wanted.readers), readers.state(), where)]
                return Running("host", os.getpid(), since, links, status.contexts, offered)

            async def receive(pipe: Pipe, handoff: Handoff, tell: Tell) -> None:
                await host.serve(pipe, Principal(*handoff.principal), handoff.name)

            await readers.known()
            async with controllable(folder, describe):
                handoffs = HandoffServer(
                    listening.socket, receive, idle=wanted.idle, busy=lambda: bool(host.status.guests)
                )
                guests.open(host.serve)
                starter.tell(StartReport(taken=True))
                await handoffs.run()
