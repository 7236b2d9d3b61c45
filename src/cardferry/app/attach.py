"""``attach``: other computers' readers (or any other `Host`'s) for the programs on this one.

Frontend( LocalManager( pcscd over ssh -L, ... ) )
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cardferry.app import limits
from cardferry.app.control import Link, Running, controllable
from cardferry.app.host import Host, label, spelled
from cardferry.app.origin import opened_all
from cardferry.app.paths import runtime_folder, scratch
from cardferry.app.serving import Service, public_path, serving
from cardferry.frontends.listening import ListeningSocket
from cardferry.transports.ssh import SshCommand


@dataclass(frozen=True, slots=True)
class Attachment:
    """What to attach.

    Attributes:
        hosts: where the readers are, one or more.
        ssh: the ssh program.
        socket: where applications shall connect, None for a path of ours.
        service: how they are served.
    """

    hosts: tuple[Host, ...]
    ssh: SshCommand = field(default_factory=SshCommand)
    socket: Path | None = None
    service: Service = field(default_factory=Service)


@asynccontextmanager
async def attached(attachment: Attachment) -> AsyncIterator[Path]:
    """Serve the hosts' readers for the block; yields the socket's path once programs can use it.

    Raises:
        UserError: in words for people, when that cannot be.
    """
    limits.raise_open_files()
    folder = runtime_folder()
    hosts, service = attachment.hosts, attachment.service
    name = "+".join(label(host) for host in hosts)
    path = public_path(attachment.socket or folder / f"{name}.sock", service.access)
    since = time.time()
    with scratch(folder) as parts, ListeningSocket(path, service.access.mode, service.access.group) as listening:
        async with (
            opened_all(hosts, attachment.ssh, parts) as origin,
            serving(origin.source, [(listening, None)], service) as manager,
        ):

            def describe() -> Running:
                status = manager.status
                states = zip(hosts, origin.states(), strict=True)
                links = [Link(spelled(host), state, str(path)) for host, state in states]
                return Running("attach", os.getpid(), since, links, status.contexts, service.offered(status.readers))

            await origin.known()
            async with controllable(folder, describe):
                yield path
