"""The host's agent: the one resource manager of a user, which all guests that come over a link share.

``ssh HOST cardferry host --stdio`` finds the agent, or starts it, and hands its own standard streams over, as
descriptors: no byte of the link passes through it afterwards. Guests that need no ssh come in by its doors.
The agent leaves when no guest has come for a while.

LinkServer( LocalManager( pcscd ) )
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from cardferry.app.agent.handoff_client import Visitor
from cardferry.app.agent.handoff_server import Reception, Tell
from cardferry.app.agent.listeners import Door, Doors, entrance
from cardferry.app.agent.stdio_session import agent_path
from cardferry.app.hosts.address import LOCAL_PCSCD, spelled
from cardferry.app.hosts.address import Host as Readers
from cardferry.app.hosts.sources import opened
from cardferry.app.hosts.ssh_link import SOFTWARE
from cardferry.app.runtime.garbage import collect_rarely
from cardferry.app.runtime.paths import runtime_folder, scratch
from cardferry.app.runtime.service import Service, offering
from cardferry.app.runtime.signals import root_cause
from cardferry.app.runtime.spawn import News, Starter
from cardferry.app.runtime.status_socket import Link, Running, controllable
from cardferry.link import LinkServer, Timing
from cardferry.manager import LocalManager
from cardferry.pcsc.caller import Principal
from cardferry.pcsc.errors import UserError
from cardferry.system.limits import raise_open_files
from cardferry.transports.base import Pipe
from cardferry.transports.listening import Access, ListeningSocket
from cardferry.transports.ssh import SshCommand

#: An account has one agent.
_ANOTHER: Final = "set XDG_RUNTIME_DIR to another folder of your own"


@dataclass(frozen=True, slots=True)
class Agency:
    """What an agent serves, and how.

    Attributes:
        readers: where the readers are.
        service: bounds of the resource manager.
        accelerate: whether to run ahead.
        grace: s that a guest that is out of reach keeps what it holds.
        idle: s without a guest until it leaves, None to stay.
        doors: where guests come in besides.
        access: who may come in by those of them that are Unix sockets.
    """

    readers: Readers = LOCAL_PCSCD
    service: Service = field(default_factory=Service)
    accelerate: bool = True
    grace: float = Timing().grace
    idle: float | None = None
    doors: tuple[Door, ...] = ()
    access: Access = field(default_factory=Access)


async def serve(agency: Agency, ready: int | None = None) -> None:
    """Be the agent until cancelled, or until nobody has come for a while.

    Args:
        ready: a descriptor that gets a line of news when guests can come, or cannot, and is closed.

    Raises:
        SocketInUseError: there is one already.
        UserError: the readers cannot be reached.
    """
    starter = Starter(ready)
    try:
        await _serve(agency, starter)
    except (BaseExceptionGroup, UserError) as error:
        cause = root_cause(error)
        if isinstance(cause, UserError):
            starter.tell(News.of(cause))
        raise cause from None


async def _serve(agency: Agency, starter: Starter) -> None:
    raise_open_files()
    collect_rarely()
    folder = runtime_folder()
    since = time.time()
    with ExitStack() as stack:
        listening = stack.enter_context(ListeningSocket(agent_path(folder), elsewhere=_ANOTHER))
        parts = stack.enter_context(scratch(folder))
        entrances = [stack.enter_context(entrance(door, agency.access)) for door in agency.doors]
        where = ", ".join([str(listening.path), *(one.name for one in entrances)])
        async with (
            Doors(entrances) as doors,
            opened(agency.readers, SshCommand(), parts, patient=True) as origin,
            LocalManager([origin.source], agency.service.settings) as manager,
            LinkServer(
                offering(manager, agency.service),
                timing=Timing(grace=agency.grace),
                accelerate=agency.accelerate,
                software=SOFTWARE,
            ) as host,
        ):

            def describe() -> Running:
                status = manager.status
                offered = agency.service.offered(status.readers)
                links = [
                    Link(one.guest, "up" if one.connected else "out of reach", where, "link", guest=one)
                    for one in host.status.guests
                ] or [Link(spelled(agency.readers), origin.state(), where)]
                return Running("host", os.getpid(), since, links, status.contexts, offered)

            async def receive(pipe: Pipe, visitor: Visitor, tell: Tell) -> None:
                await host.serve(pipe, Principal(*visitor.principal), visitor.name)

            await origin.known()
            async with controllable(folder, describe):
                reception = Reception(
                    listening.socket, receive, idle=agency.idle, busy=lambda: bool(host.status.guests)
                )
                doors.open(host.serve)
                starter.tell(News(taken=True))
                await reception.run()
