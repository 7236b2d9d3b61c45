"""``attach``: other computers' readers (or any other `Host`'s) for the programs on this one.

Frontend( Guest( ssh ) )                                                    one host; see `reach` for other ways
Frontend( Union( Guest( ssh ), LocalManager( pcscd over ssh -L ), ... ) )   several
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from cardferry.app.hosts.address import label
from cardferry.app.hosts.attachment import Attachment
from cardferry.app.hosts.connect import reached
from cardferry.app.hosts.multiple import reached_all
from cardferry.app.runtime.paths import runtime_folder, scratch
from cardferry.app.runtime.service import fronts
from cardferry.app.runtime.status_socket import Running, controllable
from cardferry.transports.listening import ListeningSocket, public_path


@asynccontextmanager
async def attached(attachment: Attachment) -> AsyncIterator[Path]:
    """Serve the hosts' readers for the block; yields the socket's path once programs can use it.

    Raises:
        UserError: in words for people, when that cannot be.
    """
    folder = runtime_folder()
    service = attachment.service
    name = "+".join(label(host) for host in attachment.hosts)
    path = public_path(attachment.socket or folder / f"{name}.sock", service.access)
    since = time.time()
    with scratch(folder) as parts, ListeningSocket(path, service.access.mode, service.access.group) as listening:
        hosts = attachment.hosts
        opening = reached(hosts[0], attachment, parts) if len(hosts) == 1 else reached_all(attachment, parts)
        async with opening as readers:

            def describe() -> Running:
                links = readers.links(str(path))
                contexts, slots = readers.users()
                return Running("attach", os.getpid(), since, links, contexts, service.offered(slots))

            async with fronts(readers.manager, [(listening, None)], service):
                await readers.known()
                async with controllable(folder, describe):
                    yield path
