"""``attach``: other computers' readers (or any other `HostAddress`'s) for the programs on this one.

Frontend( Guest( ssh ) )                                                    one host; see `HostAddress.reach` for others
Frontend( Union( Guest( ssh ), LocalManager( pcscd over ssh -L ), ... ) )   several
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from cardferry.app.commands.variable import export_line
from cardferry.app.hosts.attachment import Attachment
from cardferry.app.hosts.multiple import reached_all
from cardferry.app.runtime.paths import runtime_folder, scratch
from cardferry.app.runtime.service import fronts, offering
from cardferry.app.runtime.status_socket import Running, controllable, running, troubles_of
from cardferry.app.runtime.telling import telling
from cardferry.pcsc.errors import UserError
from cardferry.transports.listening import ListeningSocket, public_path


class AlreadyAttachedError(UserError):
    """These hosts are attached already, at the same socket."""

    exit_code = 42


def _check_not_attached(wanted: Attachment, path: str, found: Sequence[Running]) -> None:
    hosts = " ".join(map(str, wanted.hosts))
    for one in found:
        if one.command == "attach" and one.hosts == hosts and one.socket == path:
            raise AlreadyAttachedError(
                f"{hosts} is already attached (process {one.pid})",
                f"in the shell of your programs: {export_line(path)}",
            )


@asynccontextmanager
async def attached(attachment: Attachment) -> AsyncIterator[Path]:
    """Serve the hosts' readers for the block; yields the socket's path once programs can use it.

    Raises:
        UserError: in words for people, when that cannot be.
    """
    folder = runtime_folder()
    service = attachment.service
    name = "+".join(host.label for host in attachment.hosts)
    path = public_path(attachment.socket or folder / f"{name}.sock", service.access)
    since = time.time()
    _check_not_attached(attachment, str(path), running(folder))
    with scratch(folder) as workdir, ListeningSocket(path, service.access.mode, service.access.group) as listening:
        hosts = attachment.hosts
        alone = hosts[0].reach(attachment.way(workdir)) if len(hosts) == 1 else None
        async with alone or reached_all(attachment, workdir) as readers:
            offered = offering(readers.manager, service)

            def describe() -> Running:
                links = readers.links(str(path))
                contexts, slots = readers.users()
                troubles = troubles_of(offered)
                return Running("attach", os.getpid(), since, links, contexts, service.offered(slots), troubles)

            async with fronts(offered, [(listening, None)], service):
                await readers.known()
                async with controllable(folder, describe), telling(offered):
                    yield path
