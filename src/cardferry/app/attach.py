"""``attach``: another computer's readers (or any other `Host`'s) for the programs on this one.

Frontend( LocalManager( pcscd over ssh -L ) )
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cardferry.app import limits
from cardferry.app.control import Running, controllable
from cardferry.app.host import Host, label, spelled
from cardferry.app.origin import opened
from cardferry.app.paths import runtime_folder, scratch
from cardferry.app.serving import Service, public_path, serving
from cardferry.frontends.listening import ListeningSocket
from cardferry.transports.ssh import SshCommand


@dataclass(frozen=True, slots=True)
class Attachment:
    """What to attach.

    Attributes:
        host: where the readers are.
        ssh: the ssh program.
        socket: where applications shall connect, None for a path of ours.
        service: how they are served.
    """

    host: Host
    ssh: SshCommand = field(default_factory=SshCommand)
    socket: Path | None = None
    service: Service = field(default_factory=Service)


@asynccontextmanager
async def attached(attachment: Attachment) -> AsyncIterator[Path]:
    """Serve the host's readers for the block; yields the socket's path once programs can use it.

    Raises:
        UserError: in words for people, when that cannot be.
    """
    limits.raise_open_files()
    folder = runtime_folder()
    host, service = attachment.host, attachment.service
    path = public_path(attachment.socket or folder / f"{label(host)}.sock", service.access)
    since = time.time()
    with scratch(folder) as parts, ListeningSocket(path, service.access.mode, service.access.group) as listening:
        async with (
            opened(host, attachment.ssh, parts) as origin,
            serving(origin.source, listening, service) as manager,
        ):

            def describe() -> Running:
                status = manager.status
                return Running(
                    "attach",
                    spelled(host),
                    str(path),
                    os.getpid(),
                    since,
                    origin.state(),
                    status.contexts,
                    status.readers,
                )

            await origin.known()
            async with controllable(folder, describe):
                yield path
