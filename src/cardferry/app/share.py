"""``share``: this computer's readers for the programs on other ones; one manager for all guests, who queue fairly.

Host( LocalManager( pcscd ) )  ~~~~~  Frontend( Guest( handed-over streams ) )    when cardferry is at the other end
ssh -R -> Frontend( LocalManager( pcscd ) )                                       when only sshd is there
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cardferry.app import limits
from cardferry.app.control import Running, controllable
from cardferry.app.host import Host, PcscdHost, SshHost
from cardferry.app.linked import SOFTWARE
from cardferry.app.offer import Offer
from cardferry.app.origin import opened
from cardferry.app.paths import runtime_folder, scratch
from cardferry.app.serving import Service, offering, serving
from cardferry.frontends.listening import ListeningSocket
from cardferry.link import Host as LinkHost
from cardferry.link import Timing
from cardferry.pcsc.interface import Peer
from cardferry.transports.ssh import SshCommand

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
        link: whether to use the cardferry over there, if there is one.
        grace: s that a guest that is out of reach keeps what it holds.
    """

    guests: tuple[SshHost, ...]
    readers: Host = LOCAL_PCSCD
    ssh: SshCommand = field(default_factory=SshCommand)
    remote_socket: str | None = None
    service: Service = field(default_factory=Service)
    link: bool = True
    grace: float = Timing().grace


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
    with scratch(folder) as parts, ExitStack() as stack:
        folders = [_subfolder(parts, f"guest{number}") for number, _ in enumerate(wanted.guests)]
        fronts = [stack.enter_context(ListeningSocket(own / "front")) for own in folders]
        sockets = [
            (front, Peer(f"{guest.destination} over ssh")) for front, guest in zip(fronts, wanted.guests, strict=True)
        ]
        async with (
            opened(wanted.readers, wanted.ssh, _subfolder(parts, "readers")) as origin,
            serving(origin.source, sockets, wanted.service) as manager,
        ):
            await origin.known()
            async with (
                asyncio.TaskGroup() as tasks,
                LinkHost(
                    offering(manager, wanted.service), timing=Timing(grace=wanted.grace), software=SOFTWARE
                ) as host,
            ):
                offers = [
                    Offer(wanted, guest, own, front.path, host=host, announce=announce)
                    for guest, own, front in zip(wanted.guests, folders, fronts, strict=True)
                ]

                def describe() -> Running:
                    status = manager.status
                    links = [offer.describe(origin.state()) for offer in offers]
                    offered = wanted.service.offered(status.readers)
                    return Running("share", os.getpid(), since, links, status.contexts, offered)

                async with controllable(folder, describe):
                    for offer in offers:
                        tasks.create_task(offer.run(), name=f"connection to {offer.guest.destination}")
                    # The link says good-bye before connections end, so wait here, not for the tasks.
                    await asyncio.get_running_loop().create_future()


def _subfolder(folder: Path, name: str) -> Path:
    made = folder / name
    made.mkdir(mode=0o700)
    return made
