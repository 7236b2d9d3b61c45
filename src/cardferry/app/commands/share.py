"""``share``: this computer's readers for the programs on other ones. The agent serves them, so everybody queues fairly.

ssh -R -> Frontend( LocalManager( pcscd ) )                                       when only sshd is there
LinkServer( LocalManager( pcscd ) )  ~~  Frontend( Guest( handed-over streams ) )   when cardferry is at the other end
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from pathlib import Path

from cardferry.app.agent.serving import Serving, open_set, serving
from cardferry.app.hosts.connect import Way
from cardferry.app.hosts.lend_messages import Described
from cardferry.app.hosts.sources import LocalHost, own_process
from cardferry.app.hosts.ssh_host import SshHost
from cardferry.app.hosts.system_readers import lent
from cardferry.app.runtime.configuration import host_guard
from cardferry.app.runtime.garbage import collect_rarely
from cardferry.app.runtime.paths import runtime_folder, scratch
from cardferry.app.runtime.status_socket import Running, controllable
from cardferry.app.sharing.lending import Lender, Share
from cardferry.app.sharing.target import ShareTarget
from cardferry.pcsc.caller import Caller, Principal, PrincipalKind
from cardferry.policy.pin.terminal import Terminal
from cardferry.system.service_manager import service_manager
from cardferry.transports.listening import Listening, ListeningSocket

log = logging.getLogger(__name__)


async def share(wanted: Share, announce: Callable[[SshHost, str], None]) -> None:
    """Share until cancelled.

    Args:
        announce: called with a guest and the socket's path over there once programs can use it, and again if it
            changes.

    Raises:
        UserError: in words for people, when that cannot be. With several guests, one that is away is tried again,
            and one that was lent to and cannot be any more is given up alone.
    """
    folder = runtime_folder()
    since = time.time()
    with scratch(folder) as workdir, ExitStack() as stack:
        folders = [_subfolder(workdir, f"guest{number}") for number, _ in enumerate(wanted.guests)]
        listening = [stack.enter_context(ListeningSocket(own / "front")) for own in folders]
        async with asyncio.TaskGroup() as tasks, _lender(wanted, _subfolder(workdir, "readers")) as readers:
            if readers.rules:
                log.info("%s", readers.rules)
            for guest, front in zip(wanted.guests, listening, strict=True):
                await readers.programs(front, _caller(guest))
            targets = [
                ShareTarget(wanted, guest, own, front.path, readers=readers, announce=announce)
                for guest, own, front in zip(wanted.guests, folders, listening, strict=True)
            ]

            async def describe() -> Running:
                how = await readers.describe()
                links = [target.describe(how) for target in targets]
                own, agent = os.getpid(), readers.agent
                return Running(
                    "share", own, since, links, how.contexts, how.readers, agent, how.troubles,
                    remembered=how.remembered, asks=how.asks,
                )  # fmt: skip

            async def lend(target: ShareTarget) -> None:
                await target.run()
                errors = [target.error for target in targets]
                if errors[0] is not None and None not in errors:
                    raise errors[0]  # nobody is left

            async with controllable(folder, describe):
                for target in targets:
                    tasks.create_task(lend(target), name=f"connection to {target.guest.destination}")
                if wanted.wait:
                    service_manager().tell(READY="1", STATUS="waits for its guests")
                # The link says good-bye before connections end, so wait here, not for the tasks.
                await asyncio.get_running_loop().create_future()


def _lender(wanted: Share, workdir: Path) -> AbstractAsyncContextManager[Lender]:
    """This computer's readers are the agent's or the service's; to those of another one, this process has the way."""
    if isinstance(wanted.readers, LocalHost):
        return lent(wanted.service.request(str(wanted.readers), wanted.grace), own_process())
    return _served_here(wanted, workdir)


@asynccontextmanager
async def _served_here(wanted: Share, workdir: Path) -> AsyncIterator[Lender]:
    collect_rarely()
    request = wanted.service.request(str(wanted.readers), wanted.grace)
    way = Way(workdir, wanted.ssh)
    guard = host_guard(wanted.service.config)
    with guard.person.at(Terminal()):
        async with (
            open_set(request.readers, way, wanted.service.settings, guard) as served,
            serving(served, request) as opened,
        ):
            await served.readers.known()
            yield _ServedHere(opened, guard.rulebook.in_a_line())


class _ServedHere:
    """Readers that this process serves; see `Lender`."""

    agent = 0

    def __init__(self, opened: Serving, rules: str) -> None:
        self.rules = rules
        self._opened = opened

    async def ready(self) -> None:
        """They are."""

    async def programs(self, listening: Listening, caller: Caller | None = None) -> None:
        """Let programs at a socket use them."""
        await self._opened.programs(listening, caller)

    async def serve(self, end: socket.socket, principal: Principal, name: str) -> None:
        """Let a guest use them."""
        await self._opened.serve(end, principal, name)

    async def describe(self) -> Described:
        """How it is going."""
        return self._opened.describe()


def _caller(guest: SshHost) -> Caller:
    """Everybody who comes through a forwarded socket: its destination is all that is known of them."""
    return Caller(Principal(PrincipalKind.SSH, guest.destination), guest=guest.destination)


def _subfolder(folder: Path, name: str) -> Path:
    made = folder / name
    made.mkdir(mode=0o700)
    return made
