"""``share``: this computer's readers for the programs on other ones; one manager for all guests, who queue fairly.

LinkServer( LocalManager( pcscd ) )  ~~  Frontend( Guest( handed-over streams ) )   when cardferry is at the other end
ssh -R -> Frontend( LocalManager( pcscd ) )                                       when only sshd is there
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from cardferry.app.hosts.connect import Way
from cardferry.app.hosts.ssh_host import SshHost
from cardferry.app.hosts.ssh_link import SOFTWARE
from cardferry.app.runtime.garbage import collect_rarely
from cardferry.app.runtime.paths import runtime_folder, scratch
from cardferry.app.runtime.service import fronts, offering
from cardferry.app.runtime.status_socket import Running, controllable
from cardferry.app.sharing.lending import Share
from cardferry.app.sharing.target import ShareTarget
from cardferry.link import LinkServer, Memories, Timing
from cardferry.manager import LocalManager
from cardferry.pcsc.caller import Caller, Principal, PrincipalKind
from cardferry.transports.listening import ListeningSocket


async def share(wanted: Share, announce: Callable[[SshHost, str], None]) -> None:
    """Share until cancelled.

    Args:
        announce: called with a guest and the socket's path over there once programs can use it, and again if it
            changes.

    Raises:
        UserError: in words for people, when that cannot be. With several guests, one that is away is tried again,
            and one that was lent to and cannot be any more is given up alone.
    """
    collect_rarely()
    folder = runtime_folder()
    since = time.time()
    memories = Memories() if wanted.service.memory else None
    with scratch(folder) as workdir, ExitStack() as stack:
        folders = [_subfolder(workdir, f"guest{number}") for number, _ in enumerate(wanted.guests)]
        listening = [stack.enter_context(ListeningSocket(own / "front")) for own in folders]
        sockets = [(front, _caller(guest)) for front, guest in zip(listening, wanted.guests, strict=True)]
        way = Way(_subfolder(workdir, "readers"), wanted.ssh)
        async with (
            wanted.readers.open_readers(way) as readers,
            LocalManager(
                [readers.source], wanted.service.settings, None if memories is None else memories.watch
            ) as manager,
        ):
            offered = offering(manager, wanted.service)
            async with (
                fronts(offered, sockets, wanted.service),
                asyncio.TaskGroup() as tasks,
                LinkServer(offered, timing=Timing(grace=wanted.grace), software=SOFTWARE, memories=memories) as host,
            ):
                await readers.known()
                targets = [
                    ShareTarget(wanted, guest, own, front.path, host=host, announce=announce)
                    for guest, own, front in zip(wanted.guests, folders, listening, strict=True)
                ]

                def describe() -> Running:
                    status = manager.status
                    links = [target.describe(readers.state()) for target in targets]
                    slots = wanted.service.offered(status.readers)
                    return Running("share", os.getpid(), since, links, status.contexts, slots)

                async def lend(target: ShareTarget) -> None:
                    await target.run()
                    errors = [target.error for target in targets]
                    if errors[0] is not None and None not in errors:
                        raise errors[0]  # nobody is left

                async with controllable(folder, describe):
                    for target in targets:
                        tasks.create_task(lend(target), name=f"connection to {target.guest.destination}")
                    # The link says good-bye before connections end, so wait here, not for the tasks.
                    await asyncio.get_running_loop().create_future()


def _caller(guest: SshHost) -> Caller:
    """Everybody who comes through a forwarded socket: its destination is all that is known of them."""
    return Caller(Principal(PrincipalKind.SSH, guest.destination), guest=guest.destination)


def _subfolder(folder: Path, name: str) -> Path:
    made = folder / name
    made.mkdir(mode=0o700)
    return made
