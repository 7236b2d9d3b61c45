"""``attach``: other computers' readers (or any other `Host`'s) for the programs on this one.

Frontend( Guest( ssh ) )                              when cardferry is at the other end, too
Frontend( Guest( unix, vsock ) )                      where no ssh is needed
Frontend( LocalManager( pcscd over ssh -L, ... ) )    when only sshd is there
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cardferry.app import limits
from cardferry.app.carrier import Carrier
from cardferry.app.control import Link, Running, controllable
from cardferry.app.direct import linked_directly
from cardferry.app.host import Host, SshHost, UnixHost, VsockHost, label, spelled
from cardferry.app.linked import linked, state
from cardferry.app.origin import Origin, forwarded, opened_all
from cardferry.app.paths import runtime_folder, scratch
from cardferry.app.serving import Service, fronts, public_path
from cardferry.frontends.listening import ListeningSocket
from cardferry.link import Guest
from cardferry.manager import LocalManager
from cardferry.manager.status import SlotStatus
from cardferry.pcsc.interface import ResourceManager
from cardferry.transports.ssh import SshCommand


@dataclass(frozen=True, slots=True)
class Attachment:
    """What to attach.

    Attributes:
        hosts: where the readers are, one or more.
        ssh: the ssh program.
        socket: where applications shall connect, None for a path of ours.
        service: how they are served.
        link: whether to use the cardferry over there, if there is one.
        grace: s that programs wait for a host that is out of reach, None for the link's own.
    """

    hosts: tuple[Host, ...]
    ssh: SshCommand = field(default_factory=SshCommand)
    socket: Path | None = None
    service: Service = field(default_factory=Service)
    link: bool = True
    grace: float | None = None


@asynccontextmanager
async def attached(attachment: Attachment) -> AsyncIterator[Path]:
    """Serve the hosts' readers for the block; yields the socket's path once programs can use it.

    Raises:
        UserError: in words for people, when that cannot be.
    """
    limits.raise_open_files()
    folder = runtime_folder()
    service = attachment.service
    name = "+".join(label(host) for host in attachment.hosts)
    path = public_path(attachment.socket or folder / f"{name}.sock", service.access)
    since = time.time()
    with scratch(folder) as parts, ListeningSocket(path, service.access.mode, service.access.group) as listening:
        async with _readers(attachment, parts) as readers:

            def describe() -> Running:
                links = readers.links(str(path))
                contexts, slots = readers.users()
                return Running("attach", os.getpid(), since, links, contexts, service.offered(slots))

            async with fronts(readers.manager, [(listening, None)], service):
                await readers.known()
                async with controllable(folder, describe):
                    yield path


@dataclass(frozen=True, slots=True)
class _Readers:
    """What is attached, over whatever way.

    Attributes:
        manager: what serves the cards.
        known: waits until the readers are known.
        links: the hosts, for ``status``; takes the socket's path.
        users: how many contexts there are, and who uses which reader.
    """

    manager: ResourceManager
    known: Callable[[], Awaitable[object]]
    links: Callable[[str], list[Link]]
    users: Callable[[], tuple[int, list[SlotStatus]]]


@asynccontextmanager
async def _readers(attachment: Attachment, parts: Path) -> AsyncIterator[_Readers]:
    """Over a link where cardferry is at the other end, else over a forwarded socket."""
    match attachment.hosts:
        case (SshHost(destination),) if attachment.link:
            async with (
                Carrier(destination, attachment.ssh, parts) as carrier,
                linked(carrier, attachment.grace) as guest,
            ):
                if guest is not None:
                    yield _over_link(attachment, guest)
                    return
                async with forwarded(carrier, parts) as origin, _local(attachment, origin) as readers:
                    yield readers
        case ((UnixHost() | VsockHost()) as host,) if attachment.link:
            async with linked_directly(host, attachment.grace) as guest:
                yield _over_link(attachment, guest)
        case _:
            async with opened_all(attachment.hosts, attachment.ssh, parts) as origin, _local(attachment, origin) as own:
                yield own


def _over_link(attachment: Attachment, guest: Guest) -> _Readers:
    host = spelled(attachment.hosts[0])
    return _Readers(
        guest,
        guest.ready,
        lambda path: [Link(host, state(guest), path, "link", guest.status)],
        lambda: (0, [SlotStatus.of(reader) for reader in guest.snapshot.readers]),
    )


@asynccontextmanager
async def _local(attachment: Attachment, origin: Origin) -> AsyncIterator[_Readers]:
    hosts = attachment.hosts
    ways = ["forwarding" if isinstance(host, SshHost) else "" for host in hosts]

    def links(path: str) -> list[Link]:
        return [
            Link(spelled(host), how, path, way) for host, how, way in zip(hosts, origin.states(), ways, strict=True)
        ]

    async with LocalManager([origin.source], attachment.service.settings) as manager:

        def users() -> tuple[int, list[SlotStatus]]:
            status = manager.status
            return status.contexts, status.readers

        yield _Readers(manager, origin.known, links, users)
