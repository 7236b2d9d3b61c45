"""``share``: this computer's readers for the programs on another one, where only sshd is.

ssh -R -> Frontend( LocalManager( pcscd ) )
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cardferry.app import limits
from cardferry.app.control import Running, controllable
from cardferry.app.host import Host, PcscdHost, SshHost, spelled
from cardferry.app.origin import opened
from cardferry.app.paths import runtime_folder, scratch, this_computer
from cardferry.app.serving import Service, serving
from cardferry.app.supervise import Supervisor
from cardferry.frontends.listening import ListeningSocket
from cardferry.pcsc.interface import Peer
from cardferry.transports.ssh import RemoteSocket, SshCommand, SshConnection, connect

LOCAL_PCSCD: Final = PcscdHost(Path("/run/pcscd/pcscd.comm"))


@dataclass(frozen=True, slots=True)
class Share:
    """What to share with whom.

    Attributes:
        guest: the computer whose programs shall use the readers.
        readers: where the readers are.
        ssh: the ssh program.
        remote_socket: path of the socket over there, None for one in the account's own folder.
        service: how applications are served.
    """

    guest: SshHost
    readers: Host = LOCAL_PCSCD
    ssh: SshCommand = field(default_factory=SshCommand)
    remote_socket: str | None = None
    service: Service = field(default_factory=Service)


async def share(wanted: Share, announce: Callable[[str], None]) -> None:
    """Share until cancelled.

    Args:
        announce: called with the socket's path over there once programs can use it, and again if it changes.

    Raises:
        UserError: in words for people, when that cannot be.
    """
    limits.raise_open_files()
    folder = runtime_folder()
    guest = wanted.guest.destination
    access = wanted.service.access
    with scratch(folder) as parts, ListeningSocket(_folder_for_front(parts) / "socket") as listening:
        offer = _Offer(
            RemoteSocket(wanted.remote_socket, this_computer(), access.mode, access.group),
            wanted,
            parts,
            listening.path,
            announce,
        )
        supervisor = Supervisor(guest, offer.dial, offer.announce)
        since = time.time()
        async with (
            opened(wanted.readers, wanted.ssh, parts) as origin,
            serving(origin.source, listening, wanted.service, Peer(f"{guest} over ssh")) as manager,
        ):

            def describe() -> Running:
                status = manager.status
                link = supervisor.state if supervisor.state != "up" else origin.state()
                return Running(
                    "share",
                    spelled(wanted.guest),
                    offer.path,
                    os.getpid(),
                    since,
                    link,
                    status.contexts,
                    status.readers,
                )

            await origin.known()
            async with controllable(folder, describe):
                await supervisor.run()


def _folder_for_front(parts: Path) -> Path:
    """A folder of the front's own: it locks the folder that it binds in, and ``parts`` is locked as a whole."""
    folder = parts / "front"
    folder.mkdir(mode=0o700)
    return folder


class _Offer:
    """One share's socket over there, through all its connections."""

    def __init__(
        self, remote: RemoteSocket, wanted: Share, parts: Path, front: Path, announce: Callable[[str], None]
    ) -> None:
        self.path = ""
        self._remote = remote
        self._wanted = wanted
        self._parts = parts
        self._front = front
        self._announce = announce
        self._announced = ""

    @asynccontextmanager
    async def dial(self) -> AsyncIterator[SshConnection]:
        """Log in and offer the socket."""
        async with connect(self._wanted.guest.destination, self._wanted.ssh, self._parts) as connection:
            self.path = await self._remote.offer(connection, self._front, self._parts)
            yield connection

    def announce(self) -> None:
        """Tell where the socket is, unless that was told."""
        if self._announced != self.path:
            self._announced = self.path
            self._announce(self.path)
