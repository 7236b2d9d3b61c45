"""The far end of somebody's ``share``: serves programs on this computer with readers that another one lends.

``ssh HOST cardferry guest --stdio`` finds it, or starts it, and hands its own standard streams over. So the programs'
sockets outlive connections: while the other computer is out of reach their calls wait, and then go on. It ends when the
other one says good-bye, has gone before it was there at all, or has not been heard of for `AWAY` s.

Frontend( Guest( handed-over streams ) )  ~~~~~  LinkServer( LocalManager( ... ) )
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cardferry.app.agent.handoff_server import HandoffServer, Tell
from cardferry.app.agent.stdio_session import remote_end_path
from cardferry.app.hosts.connect import users_over_link
from cardferry.app.hosts.ssh_link import SOFTWARE, RefusedError, link_state
from cardferry.app.runtime.handoff import Handoff
from cardferry.app.runtime.paths import runtime_folder
from cardferry.app.runtime.service import Service, fronts, offering
from cardferry.app.runtime.spawn import Starter, StartReport
from cardferry.app.runtime.status_socket import Link, Running, controllable, troubles_of
from cardferry.app.runtime.telling import telling
from cardferry.link import Guest, LinkRefusedError, LinkState, Timing
from cardferry.pcsc.errors import UserError
from cardferry.transports.base import Pipe
from cardferry.transports.listening import ListeningSocket, SocketInUseError, public_path
from cardferry.transports.passed import PassedPipe
from cardferry.wire.link.greeting import Reason

log = logging.getLogger(__name__)

#: Seconds without the computer that lends its readers until nobody waits for it any longer.
AWAY: Final = 120.0
#: What chooses the programs' socket, for who shares; it is they who read our hints.
_OPTION: Final = "--remote-socket"
_ELSEWHERE: Final = f"choose another path with {_OPTION} PATH"


@dataclass(frozen=True, slots=True)
class RemoteEndSettings:
    """What a guest serves, and how.

    Attributes:
        path: where programs connect.
        service: how they are served.
        grace: s that their calls wait for a host that is out of reach.
        away: s until it ends when nobody lends readers any more.
    """

    path: Path
    service: Service = field(default_factory=Service)
    grace: float = Timing().grace
    away: float = AWAY


class _HandedPipe(PassedPipe):
    """A pipe whose end somebody else waits for, too.

    Attributes:
        gone: done when the pipe is lost, or nobody will ever use it.
    """

    def __init__(self, pipe: Pipe) -> None:
        super().__init__(pipe)
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def lost(self, error: Exception | None) -> None:
        """The pipe is gone."""
        # An end in order is all that is seen here of a connection that the other side's ssh has lost.
        super().lost(error or ConnectionError("the session that brought the streams has ended"))
        if not self.gone.done():
            self.gone.set_result(None)

    def give_up(self) -> None:
        """Nobody uses it any more, or ever did."""
        self.abort()
        if self._user is None and not self.gone.done():
            self.gone.set_result(None)


class _HandedStreams:
    """Gives the link its pipes, made of streams that are handed over, and reports how it goes.

    Args:
        path: where programs connect.

    Attributes:
        latest: what came with the streams that came last.
        server: takes the streams.
    """

    def __init__(self, path: Path) -> None:
        self.latest = Handoff("nobody")
        self.server: HandoffServer | None = None
        self._path = path
        self._guest: Guest | None = None
        self._pipes: asyncio.Queue[_HandedPipe] = asyncio.Queue()
        self._present: _HandedPipe | None = None
        self._tell: Tell = lambda report: None

    def guest(self, timing: Timing) -> Guest:
        """The link's end; its pipes are those that are handed over."""
        self._guest = Guest(self._dial, name="the host", timing=timing, report=self._report, software=SOFTWARE)
        return self._guest

    async def _dial(self) -> Pipe:
        return await self._pipes.get()

    def _report(self, link: LinkState) -> None:
        log.info("%s: %s", self.latest.name, link.value)
        if link is LinkState.UP:
            self._tell(StartReport(serving=str(self._path)))
        elif link is LinkState.DOWN and self._guest is not None and self.server is not None:
            bye = self._guest.farewell
            if bye is not None and bye.reason is Reason.CLOSED:
                self.server.leave()

    def admit(self, handoff: Handoff) -> StartReport:
        """Whether it may come in: whoever lent readers before, or anybody when that one is out of reach."""
        up = self._guest is not None and self._guest.state is LinkState.UP
        if handoff.token != self.latest.token and up:
            return StartReport.of(
                SocketInUseError(
                    f"{self._path} is in use by cardferry of {self.latest.name}",
                    f"end that one, or {_ELSEWHERE}",
                )
            )
        self.latest = handoff
        return StartReport(taken=True)

    async def receive(self, pipe: Pipe, handoff: Handoff, tell: Tell) -> None:
        """Use streams until they are of no use."""
        if self._present is not None:
            self._present.give_up()
        handed = self._present = _HandedPipe(pipe)
        self._tell = tell
        self._pipes.put_nowait(handed)
        await handed.gone
        error = self._guest.error if self._guest is not None else None
        if isinstance(error, LinkRefusedError):
            if error.reason is Reason.VERSION and self.server is not None:
                self._path.unlink(missing_ok=True)  # before that is known: a forwarded socket comes in its place
                self.server.leave()
            tell(StartReport.of(RefusedError(f"no link: {error}", "install the same cardferry on both computers")))
        never_up = self._guest is not None and self._guest.state is LinkState.CONNECTING
        if never_up and self._present is handed and self.server is not None:
            self.server.leave()  # who came has gone again before there was anything to keep


async def serve_remote_end(wanted: RemoteEndSettings, ready: int | None = None) -> None:
    """Serve programs until the host says good-bye, or stays away.

    Args:
        ready: a descriptor that gets a line when streams can come, or cannot, and is closed.

    Raises:
        UserError: in words for people, when that cannot be.
    """
    starter = Starter(ready)
    try:
        await _serve(wanted, starter)
    except UserError as error:
        starter.tell(StartReport.of(error))
        raise


async def _serve(wanted: RemoteEndSettings, starter: Starter) -> None:
    folder = runtime_folder()
    since = time.time()
    service = wanted.service
    path = public_path(wanted.path, service.access, _OPTION)
    streams = _HandedStreams(path)
    with (
        ListeningSocket(path, service.access.mode, service.access.group, _ELSEWHERE) as programs,
        ListeningSocket(remote_end_path(folder, path)) as listening,
    ):
        async with (
            streams.guest(Timing(grace=wanted.grace)) as guest,
            fronts(offered := offering(guest, service), [(programs, None)], service),
            telling(offered),
        ):

            def describe() -> Running:
                link = Link(streams.latest.name, link_state(guest), str(path), "link", guest.status)
                contexts, slots = users_over_link(guest)
                return Running("guest", os.getpid(), since, [link], contexts, slots, troubles=troubles_of(offered))

            async with controllable(folder, describe):
                streams.server = HandoffServer(listening.socket, streams.receive, admit=streams.admit, idle=wanted.away)
                starter.tell(StartReport(taken=True))
                await streams.server.run()
