"""``share``: this computer's readers for the programs on other ones, where only sshd is.

ssh -R -> Frontend( LocalManager( pcscd ) ), one manager for all guests: so they queue for the card fairly.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cardferry.app import limits
from cardferry.app.control import Link, Running, controllable
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
        guests: the computers whose programs shall use the readers, one or more.
        readers: where the readers are.
        ssh: the ssh program.
        remote_socket: path of the socket over there, None for one in the account's own folder.
        service: how applications are served.
    """

    guests: tuple[SshHost, ...]
    readers: Host = LOCAL_PCSCD
    ssh: SshCommand = field(default_factory=SshCommand)
    remote_socket: str | None = None
    service: Service = field(default_factory=Service)


async def share(wanted: Share, announce: Callable[[SshHost, str], None]) -> None:
    """Share until cancelled.

    Args:
        announce: called with a guest and the socket's path over there once programs can use it, and again if it
            changes.

    Raises:
        UserError: in words for people, when that cannot be; with several guests, one that is away is tried again.
    """
    limits.raise_open_files()
    folder = runtime_folder()
    since = time.time()
    with scratch(folder) as parts, ExitStack() as listening:
        offers = [
            _Offer(wanted, guest, _subfolder(parts, f"guest{number}"), listening, announce)
            for number, guest in enumerate(wanted.guests)
        ]
        sockets = [(offer.listening, Peer(f"{offer.guest.destination} over ssh")) for offer in offers]
        async with (
            opened(wanted.readers, wanted.ssh, _subfolder(parts, "readers")) as origin,
            serving(origin.source, sockets, wanted.service) as manager,
        ):

            def describe() -> Running:
                status = manager.status
                links = [offer.link(origin.states()[0]) for offer in offers]
                offered = wanted.service.offered(status.readers)
                return Running("share", os.getpid(), since, links, status.contexts, offered)

            await origin.known()
            async with controllable(folder, describe), asyncio.TaskGroup() as tasks:
                for offer in offers:
                    tasks.create_task(offer.supervisor.run(), name=f"connection to {offer.guest.destination}")


def _subfolder(folder: Path, name: str) -> Path:
    made = folder / name
    made.mkdir(mode=0o700)
    return made


class _Offer:
    """One guest's socket over there, through all its connections."""

    def __init__(
        self,
        wanted: Share,
        guest: SshHost,
        parts: Path,
        listening: ExitStack,
        announce: Callable[[SshHost, str], None],
    ) -> None:
        access = wanted.service.access
        self.guest = guest
        self.path = ""
        self.listening = listening.enter_context(ListeningSocket(parts / "front"))
        self.supervisor = Supervisor(guest.destination, self._dial, self._on_up, patient=len(wanted.guests) > 1)
        self._remote = RemoteSocket(wanted.remote_socket, this_computer(), access.mode, access.group)
        self._ssh = wanted.ssh
        self._parts = parts
        self._announce = announce
        self._announced = ""

    @asynccontextmanager
    async def _dial(self) -> AsyncIterator[SshConnection]:
        """Log in and offer the socket."""
        async with connect(self.guest.destination, self._ssh, self._parts) as connection:
            self.path = await self._remote.offer(connection, self.listening.path, self._parts)
            yield connection

    def _on_up(self) -> None:
        """Tell where the socket is, unless that was told."""
        if self._announced != self.path:
            self._announced = self.path
            self._announce(self.guest, self.path)

    def link(self, readers: str) -> Link:
        """For ``status``: the state of the connection, or else of the readers."""
        state = self.supervisor.state or "connecting"
        return Link(spelled(self.guest), readers if state == "up" else state, self.path)
