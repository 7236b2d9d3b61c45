"""One guest of a ``share``: lends it the readers over a link, or a forwarded socket, through all its connections."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from cardferry.app.hosts.lend_messages import Described
from cardferry.app.hosts.ssh_connection import SshConnector
from cardferry.app.hosts.ssh_host import SshHost
from cardferry.app.hosts.ssh_link import own_name, remote_command
from cardferry.app.runtime.retry import FIRST_PAUSE, LONGEST_PAUSE, LONGEST_WAIT, REFUSED_PAUSE, Supervisor
from cardferry.app.runtime.signals import root_cause
from cardferry.app.runtime.status_socket import Link
from cardferry.app.sharing.lending import Lender, Share
from cardferry.backoff import HOURLY, RARELY, Backoff, Seldom
from cardferry.pcsc.caller import Principal, PrincipalKind
from cardferry.transports.errors import TransportError
from cardferry.transports.sockets import unfit
from cardferry.transports.ssh import RemoteSocket, SessionError, SshConnection
from cardferry.wire.pcsclite.layout import FIXED_SLOTS, OLD_NAME_SIZE

log = logging.getLogger(__name__)

#: What the other side's cardferry says on standard error when programs can connect (`handoff_client`).
_SERVING: Final = "cardferry is serving "
#: Exit codes that a forwarded socket would end with, too: something is wrong with the path over there.
_ABOUT_THE_PATH: Final = frozenset({10, 11, 12})
#: How often a link may end before it served anybody, without a reason, until the socket is forwarded instead. The
#: first time is usual where a guest remembers a session of a share that was killed.
_FRUITLESS: Final = 3
#: s between attempts while the guest still has the session, at first and at most.
_HURRIED_PAUSES: Final = (0.05, 1.0)
#: So many links in a row may be lost within so many s; then there is a pause of so many s before the next one.
#: A network may break again and again, but a guest that serves and ends for ever is not to keep us busy.
_HASTY: Final = 3
_BRIEF: Final = 0.1
_BREATH: Final = 0.25


class ShareTarget:
    """See the module.

    Args:
        wanted: what is shared.
        guest: with whom.
        workdir: a private folder.
        front: a socket here where applications can be led to.
        readers: what is lent.
        announce: called with the guest and the socket's path over there.

    Attributes:
        path: of the socket over there, as far as it is known.
        state: ``up``, or why it is not.
        way: ``link`` or ``forwarding``, empty before that is known.
        error: why the guest was given up, None while it is not.
    """

    def __init__(
        self,
        wanted: Share,
        guest: SshHost,
        workdir: Path,
        front: Path,
        *,
        readers: Lender,
        announce: Callable[[SshHost, str], None],
    ) -> None:
        access = wanted.service.access
        self.guest = guest
        self.path = ""
        self.state = "connecting"
        self.way = ""
        self.error: TransportError | None = None
        self._wanted = wanted
        self._workdir = workdir
        self._front = front
        self._readers = readers
        self._announce = announce
        self._announced = ""
        self._patient = len(wanted.guests) > 1
        self._connector = SshConnector(guest.destination, wanted.ssh, workdir)
        self._remote = RemoteSocket(wanted.remote_socket, own_name(), access.mode, access.group)
        self._supervisor = Supervisor(
            guest.destination, self._dial, self._forwarding, patient=self._patient, waits=wanted.wait
        )
        self._token = secrets.token_hex(16)
        self._serving = False
        self._told = False
        self._serving_since = 0.0
        self._fruitless = 0

    async def run(self) -> None:
        """ShareTarget the readers until cancelled; one of several that was there and will not be again is given up.

        Raises:
            TransportError: it cannot be.
        """
        try:
            async with self._connector:
                if self._wanted.link:
                    await self._link_while_possible()
                await self._supervisor.run()
        except (BaseExceptionGroup, TransportError) as error:
            cause = root_cause(error)
            if not (isinstance(cause, TransportError) and self._patient and self.way):
                raise
            log.error("%s; it is not tried again", cause.message)
            self.error = cause

    def describe(self, how: Described) -> Link:
        """For ``status``: the state of the connection, or else of the readers.

        Args:
            how: it is going with the readers.
        """
        if self.error is not None:
            state = self.error.message
        else:
            state = self.state if self.way == "link" else self._supervisor.state or self.state
        mine = [one for one in how.guests if one.guest == self.guest.destination]
        status = next((one for one in mine if one.connected), mine[0] if mine else None)
        return Link(str(self.guest), how.state if state == "up" else state, self.path, self.way, guest=status)

    def _tell_path(self) -> None:
        """Tell where the socket is, unless that was told."""
        if self._announced != self.path:
            self._announced = self.path
            self._announce(self.guest, self.path)

    # over a forwarded socket

    @asynccontextmanager
    async def _dial(self) -> AsyncIterator[SshConnection]:
        """Log in and offer the socket."""
        connection = await self._connector.connection()
        try:
            self.path = await self._remote.offer(connection, self._front, self._workdir)
            yield connection
        finally:
            await self._connector.drop()

    def _forwarding(self) -> None:
        self.way = "forwarding"
        self._tell_path()

    # over a link

    async def _link_while_possible(self) -> None:
        """Keep the link; return when the other side has no cardferry that understands us."""
        waits = self._wanted.wait
        hurried, patient = Backoff(*_HURRIED_PAUSES), Backoff(FIRST_PAUSE, LONGEST_WAIT if waits else LONGEST_PAUSE)
        seldom = Seldom(first=2, every=HOURLY if waits else RARELY)
        brief = 0
        ever = False
        loop = asyncio.get_running_loop()
        hurry_until = 0.0  # as long as the guest may still have the session
        while True:
            try:
                usable = await self._link()
            except TransportError as error:
                if not waits and (not error.heals or not (ever or self._patient)):
                    raise
                pause = (hurried if loop.time() < hurry_until else patient).pause() if error.heals else REFUSED_PAUSE
                level = logging.WARNING if seldom.due(error.message, loop.time()) else logging.DEBUG
                log.log(level, "%s; trying again in %.0f s", error, pause)
                self.state = error.message
                await asyncio.sleep(pause)
                continue
            if not usable:
                return
            if self._serving:
                hurried.reset()
                patient.reset()
                seldom.reset()
                ever = True
                hurry_until = loop.time() + self._wanted.grace + 2 * FIRST_PAUSE
                self.state = "out of reach"
                log.warning("lost %s; programs there wait", self.guest.destination)
                brief = brief + 1 if loop.time() - self._serving_since < _BRIEF else 0
                if brief > _HASTY:
                    await asyncio.sleep(_BREATH)

    async def _link(self) -> bool:
        """One connection of the link, to its end; False when a forwarded socket must do."""
        name = self.guest.destination
        self._serving = self._told = False
        await self._readers.ready()
        facts = (await self._connector.connection(hurry=True)).facts
        if "cardferry" not in facts.installed:
            log.info("%s: plain forwarding, cardferry is not installed there: cardferry setup %s brings it", name, name)
            return False
        streams = await self._connector.streams(remote_command(self._words()), self._heard)
        streams.write(f"{self._token}\n".encode())
        await self._readers.serve(streams.near, Principal(PrincipalKind.SSH, name), name)
        if self._serving:
            streams.end()
            self._fruitless = 0
            return True
        error = await streams.ended()
        self._fruitless += 1
        if isinstance(error, SessionError) and error.status in _ABOUT_THE_PATH and error.told:
            error.exit_code = error.status
            raise error
        if isinstance(error, SessionError) or self._fruitless >= _FRUITLESS:
            log.warning("no link to %s: %s; a socket is forwarded instead", name, error or "it ends at once")
            return False
        if error is not None:
            raise error
        return True

    def _heard(self, line: str) -> None:
        if self._told or not line.startswith(_SERVING):
            return
        self._told = True  # what is said again and again must not fill a terminal
        path = line.removeprefix(_SERVING)
        if wrong := unfit(path):
            log.warning("%s says that it serves at %r: that %s", self.guest.destination, path, wrong)
            return
        self.path = path
        if not self.way:
            log.info("%s: linked, cardferry is at both ends", self.guest.destination)
        elif self.state != "up":
            log.warning("%s is back", self.guest.destination)
        self._serving = True
        self._serving_since = asyncio.get_running_loop().time()
        self.way, self.state = "link", "up"
        self._tell_path()

    def _words(self) -> list[str]:
        wanted, service = self._wanted, self._wanted.service
        words = ["guest", "--stdio", "--name", own_name(), "--token-stdin", "--grace", f"{wanted.grace:g}"]
        words += ["--mode", f"{service.access.mode:o}"]
        if service.access.group is not None:
            words += ["--group", service.access.group]
        if wanted.remote_socket is not None:
            words += ["--socket", wanted.remote_socket]
        if service.slots != FIXED_SLOTS:
            words += ["--reader-slots", str(service.slots)]
        if service.name_size == OLD_NAME_SIZE:
            words.append("--old-names")
        return words
