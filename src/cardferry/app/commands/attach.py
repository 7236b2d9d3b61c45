"""``attach``: other computers' readers (or any other `HostAddress`'s) for the programs on this one.

Frontend( Guest( ssh ) )                                                    one host; see `HostAddress.reach` for others
Frontend( Union( Guest( ssh ), LocalManager( pcscd over ssh -L ), ... ) )   several
Frontend( LocalManager( pcscd ) )                                           this computer's: in the agent, at our socket
CardPorts( ... )                                                            beside it, with --native or --qemu
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from cardferry.app.commands.card_ports import carried
from cardferry.app.commands.variable import export_line
from cardferry.app.hosts.attachment import Attachment
from cardferry.app.hosts.lend import LentReaders
from cardferry.app.hosts.multiple import reached_all
from cardferry.app.hosts.pool_host import PoolHost
from cardferry.app.hosts.sources import LocalHost, own_process
from cardferry.app.hosts.ssh_link import patience
from cardferry.app.runtime.paths import runtime_folder, scratch
from cardferry.app.runtime.request import Request, whole_path
from cardferry.app.runtime.service import fronts, offering
from cardferry.app.runtime.status_socket import Link, Running, controllable, running, troubles_of
from cardferry.app.runtime.system_service import has_the_queue
from cardferry.app.runtime.telling import telling
from cardferry.pcsc.errors import UserError
from cardferry.transports.listening import ListeningSocket, public_path

_Describe = Callable[[], Awaitable[Running]]


class AlreadyAttachedError(UserError):
    """These hosts are attached already, at the same socket."""

    exit_code = 42


def _check_not_attached(wanted: Attachment, path: str, found: Sequence[Running]) -> None:
    hosts = " ".join(map(str, wanted.hosts))
    for one in found:
        if one.command == "attach" and one.hosts == hosts and one.socket == path:
            message = f"{hosts} is already attached (process {one.pid})"
            if any(isinstance(host, PoolHost) and host.has_changed(one.links) for host in wanted.hosts):
                message += ", with other members than the configuration lists now"
                raise AlreadyAttachedError(message, "end that process, and attach it again")
            raise AlreadyAttachedError(message, f"in the shell of your programs: {export_line(path)}")


@asynccontextmanager
async def attached(attachment: Attachment) -> AsyncIterator[Path]:
    """Serve the hosts' readers for the block; yields the socket's path once programs can use it.

    Raises:
        UserError: in words for people, when that cannot be.
    """
    attachment.check()
    folder = runtime_folder()
    service = attachment.service
    name = "+".join(host.label for host in attachment.hosts)
    path = public_path(attachment.socket or folder / f"{name}.sock", service.access)
    _check_not_attached(attachment, str(path), running(folder))
    with scratch(folder) as workdir, ListeningSocket(path, service.access.mode, service.access.group) as listening:
        match attachment.hosts:
            case [LocalHost() as host] if not (
                attachment.wait or attachment.ports or _in_the_systems_queue(attachment)
            ):
                serving = _in_the_agent(attachment, host, listening)
            case _:
                serving = _here(attachment, workdir, listening)
        async with serving as describe, controllable(folder, describe):
            yield path


def _in_the_systems_queue(attachment: Attachment) -> bool:
    """Whether the service of the whole computer serves the readers: then their programs are served here, as guests."""
    wanted = Request(str(attachment.hosts[0]), config=whole_path(attachment.service.config))
    return has_the_queue(wanted)


@asynccontextmanager
async def _in_the_agent(
    attachment: Attachment, host: LocalHost, listening: ListeningSocket
) -> AsyncIterator[_Describe]:
    """Let the agent serve programs at our socket: it has the one queue for this computer's readers."""
    since = time.time()
    request = attachment.service.request(str(host), patience(attachment.grace).grace)
    async with LentReaders(request, own_process()) as lent:
        await lent.programs(listening)

        async def describe() -> Running:
            how = await lent.describe()
            links = [Link(str(host), how.state, str(listening.path))]
            return Running(
                "attach", os.getpid(), since, links, how.contexts, how.readers, lent.agent, how.troubles,
                remembered=how.remembered, asks=how.asks,
            )  # fmt: skip

        yield describe


@asynccontextmanager
async def _here(attachment: Attachment, workdir: Path, listening: ListeningSocket) -> AsyncIterator[_Describe]:
    """Serve programs at our socket in this process."""
    since = time.time()
    service, hosts = attachment.service, attachment.hosts
    alone = hosts[0].reach(attachment.way(workdir)) if len(hosts) == 1 and not attachment.wait else None
    async with alone or reached_all(attachment, workdir) as readers:
        offered = offering(readers.manager, service)

        async def describe() -> Running:
            links = readers.links(str(listening.path))
            contexts, slots = readers.users()
            slots = service.offered(slots)
            return Running("attach", os.getpid(), since, links, contexts, slots, troubles=troubles_of(offered))

        async with fronts(offered, [(listening, None)], service), telling(offered), carried(offered, attachment.ports):
            await readers.known()
            yield describe
