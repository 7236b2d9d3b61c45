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

from cardferry.app.agent.handoff_client import Visitor
from cardferry.app.agent.handoff_server import Reception, Tell
from cardferry.app.agent.stdio_session import guest_door
from cardferry.app.hosts.ssh_link import SOFTWARE, RefusedError, state
from cardferry.app.runtime.paths import runtime_folder
from cardferry.app.runtime.service import Service, fronts
from cardferry.app.runtime.spawn import News, Starter
from cardferry.app.runtime.status_socket import Link, Running, controllable
from cardferry.link import Guest, LinkRefusedError, LinkState, Timing
from cardferry.manager.status import SlotStatus
from cardferry.pcsc.errors import UserError
from cardferry.transports.base import Pipe, PipeUser
from cardferry.transports.listening import ListeningSocket, SocketInUseError, public_path
from cardferry.wire.link.greeting import Reason

log = logging.getLogger(__name__)

#: Seconds without the computer that lends its readers until nobody waits for it any longer.
AWAY: Final = 120.0
#: What chooses the programs' socket, for who shares; it is they who read our hints.
_OPTION: Final = "--remote-socket"
_ELSEWHERE: Final = f"choose another path with {_OPTION} PATH"


@dataclass(frozen=True, slots=True)
class Lodging:
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


class _Handed:
    """A pipe whose end somebody else waits for, too."""

    def __init__(self, pipe: Pipe) -> None:
        self.name = pipe.name
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pipe = pipe
        self._user: PipeUser | None = None
        self.write, self.close, self.abort = pipe.write, pipe.close, pipe.abort
        self.pause_reading, self.resume_reading = pipe.pause_reading, pipe.resume_reading

    def start(self, user: PipeUser) -> None:
        self._user = user
        self._pipe.start(self)

    def received(self, data: bytes) -> None:
        if self._user is not None:
            self._user.received(data)

    def congested(self, congested: bool) -> None:
        if self._user is not None:
            self._user.congested(congested)

    def lost(self, error: Exception | None) -> None:
        if self._user is not None:
            # An end in order is all that is seen here of a connection that the other side's ssh has lost.
            self._user.lost(error or ConnectionError("the session that brought the streams has ended"))
        if not self.gone.done():
            self.gone.set_result(None)

    def give_up(self) -> None:
        """Nobody uses it any more, or ever did."""
        self._pipe.abort()
        if self._user is None and not self.gone.done():
            self.gone.set_result(None)


class _Door:
    """Where streams come in: gives the link its pipes, and tells visitors how it goes."""

    def __init__(self, path: Path) -> None:
        self.visitor = Visitor("nobody")
        self.reception: Reception | None = None
        self._path = path
        self._guest: Guest | None = None
        self._pipes: asyncio.Queue[_Handed] = asyncio.Queue()
        self._present: _Handed | None = None
        self._tell: Tell = lambda news: None

    def guest(self, timing: Timing) -> Guest:
        """The link's end; its pipes are the visitors'."""
        self._guest = Guest(self._dial, name="the host", timing=timing, report=self._report, software=SOFTWARE)
        return self._guest

    async def _dial(self) -> Pipe:
        return await self._pipes.get()

    def _report(self, link: LinkState) -> None:
        log.info("%s: %s", self.visitor.name, link.value)
        if link is LinkState.UP:
            self._tell(News(serving=str(self._path)))
        elif link is LinkState.DOWN and self._guest is not None and self.reception is not None:
            bye = self._guest.farewell
            if bye is not None and bye.reason is Reason.CLOSED:
                self.reception.leave()

    def welcome(self, visitor: Visitor) -> News:
        """Whether it may come in: whoever lent readers before, or anybody when that one is out of reach."""
        up = self._guest is not None and self._guest.state is LinkState.UP
        if visitor.token != self.visitor.token and up:
            return News.of(
                SocketInUseError(
                    f"{self._path} is in use by cardferry of {self.visitor.name}",
                    f"end that one, or {_ELSEWHERE}",
                )
            )
        self.visitor = visitor
        return News(taken=True)

    async def receive(self, pipe: Pipe, visitor: Visitor, tell: Tell) -> None:
        """Use a visitor's streams until they are of no use."""
        if self._present is not None:
            self._present.give_up()
        handed = self._present = _Handed(pipe)
        self._tell = tell
        self._pipes.put_nowait(handed)
        await handed.gone
        error = self._guest.error if self._guest is not None else None
        if isinstance(error, LinkRefusedError):
            if error.reason is Reason.VERSION and self.reception is not None:
                self._path.unlink(missing_ok=True)  # before that is known: a forwarded socket comes in its place
                self.reception.leave()
            tell(News.of(RefusedError(f"no link: {error}", "install the same cardferry on both computers")))
        never_up = self._guest is not None and self._guest.state is LinkState.CONNECTING
        if never_up and self._present is handed and self.reception is not None:
            self.reception.leave()  # who came has gone again before there was anything to keep


async def lodge(lodging: Lodging, ready: int | None = None) -> None:
    """Serve programs until the host says good-bye, or stays away.

    Args:
        ready: a descriptor that gets a line of news when streams can come, or cannot, and is closed.

    Raises:
        UserError: in words for people, when that cannot be.
    """
    starter = Starter(ready)
    try:
        await _lodge(lodging, starter)
    except UserError as error:
        starter.tell(News.of(error))
        raise


async def _lodge(lodging: Lodging, starter: Starter) -> None:
    folder = runtime_folder()
    since = time.time()
    service = lodging.service
    path = public_path(lodging.path, service.access, _OPTION)
    door = _Door(path)
    with (
        ListeningSocket(path, service.access.mode, service.access.group, _ELSEWHERE) as programs,
        ListeningSocket(guest_door(folder, path)) as listening,
    ):
        async with (
            door.guest(Timing(grace=lodging.grace)) as guest,
            fronts(guest, [(programs, None)], service),
        ):

            def describe() -> Running:
                link = Link(door.visitor.name, state(guest), str(path), "link", guest.status)
                slots = [SlotStatus.of(reader) for reader in guest.snapshot.readers]
                return Running("guest", os.getpid(), since, [link], 0, slots)

            async with controllable(folder, describe):
                door.reception = Reception(listening.socket, door.receive, welcome=door.welcome, idle=lodging.away)
                starter.tell(News(taken=True))
                await door.reception.run()
