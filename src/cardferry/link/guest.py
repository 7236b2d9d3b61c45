"""The guest's end of the link: a resource manager that is answered by another computer.

`Guest` keeps a pipe to its host as well as it can. While the host is out of reach, the readers stay as they were and
calls wait; when that takes longer than ``grace``, calls end with ``E_READER_UNAVAILABLE``, the readers go, and they
come back with the host, in a new session. Contexts live on through all this, handles do not.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from types import TracebackType
from typing import Final, Self

from cardferry.backoff import HOURLY, RARELY, Backoff, Seldom
from cardferry.changes import Changes
from cardferry.link.guest_context import GuestContext
from cardferry.link.guest_direct import DialDirect, DirectLink
from cardferry.link.guest_flapping import Flapping
from cardferry.link.guest_readers import ReadersReceiver
from cardferry.link.guest_session import Counters, GuestSession
from cardferry.pcsc.caller import Caller
from cardferry.pcsc.errors import CardferryError, PcscError, ReturnCode
from cardferry.pcsc.interface import SeenAlike
from cardferry.pcsc.reader_state import Queue, Snapshot
from cardferry.pcsc.reply import Reply, failed, straight
from cardferry.transports.base import Dial
from cardferry.wire.link.greeting import IDENTITY_SIZE, Bye, Reason, Role
from cardferry.wire.link.session import Bounds, Session, Timing

log = logging.getLogger(__name__)

#: s between attempts to reach the host: the first, and the most while the session lives, and afterwards.
_FIRST_PAUSE: Final = 0.05
_MOST_PAUSE: Final = 1.0
_MOST_PAUSE_WITHOUT_SESSION: Final = 5.0
#: Likewise, afterwards, where the guest is patient.
_MOST_PAUSE_OF_PATIENT: Final = 60.0
#: So many pipes in a row may be lost within so many s; then there is a pause of so many s before the next one.
#: A network may break again and again, but a host that greets and hangs up for ever is not to keep us busy.
_HASTY: Final = 3
_BRIEF: Final = 0.1
_BREATH: Final = 0.25
#: s that the last words may take.
_GOOD_BYE: Final = 0.5


class LinkState(Enum):
    """How the guest stands with its host."""

    #: The host has not been reached yet.
    CONNECTING = "connecting"
    #: All is well.
    UP = "up"
    #: The host is out of reach; calls wait.
    BROKEN = "broken"
    #: The host was out of reach for too long, or has ended the session; readers are gone.
    DOWN = "down"


class LinkRefusedError(CardferryError):
    """The host does not want this guest.

    Attributes:
        reason: why; see `Reason`.
    """

    def __init__(self, bye: Bye) -> None:
        super().__init__(bye.text or bye.reason.name.lower())
        self.reason = bye.reason


@dataclass(frozen=True, slots=True)
class GuestStatus:
    """What ``cardferry status`` shows of a link. Times in s.

    Attributes:
        unexplained: resumes within the last hour for which the network was not to blame.
        direct: whether it runs over a connection of its own, beside that over which the host was reached.
    """

    state: str
    host: str
    software: str
    round_trip: float | None
    last_error: str
    sessions: int
    resumes: int
    unexplained: int
    messages_sent: int
    messages_received: int
    bytes_sent: int
    bytes_received: int
    counters: Counters
    direct: bool = False


class Guest(SeenAlike):
    """Serves another computer's readers; an asynchronous context manager that keeps the link meanwhile.

    Args:
        dial: opens a pipe to the host; called again whenever there is none.
        name: what the host is called, for people.
        timing: see `Timing`; ``grace`` is how long calls wait for a host that is out of reach.
        bounds: see `Bounds`.
        accelerate: whether the host may run ahead.
        remember: whether to believe what cards have said before.
        report: called with every new state.
        software: name and version of this program, told to the host.
        host: the computer at which readers are, in what keeps them away (`Trouble`): ``name`` unless it is given.
        direct: opens a connection of the link's own, once the host is reached; None to stay with the pipes of ``dial``.

    Attributes:
        counters: see `Counters`.
        readers: what is known of the readers.
        contexts: those of programs that are open.
        session: the session in force, None before the first and after the last one's end.
        state: see `LinkState`.
        error: why the host could not be reached last time, None when it could.
        farewell: how the last session ended, None before one has.
    """

    def __init__(
        self,
        dial: Dial,
        *,
        name: str = "",
        timing: Timing | None = None,
        bounds: Bounds | None = None,
        accelerate: bool = True,
        remember: bool = True,
        report: Callable[[LinkState], None] | None = None,
        software: str = "",
        host: str | None = None,
        direct: DialDirect | None = None,
    ) -> None:
        self.accelerate = accelerate
        self.remember = remember
        self.counters = Counters()
        self.readers = ReadersReceiver(name if host is None else host, self.queue)
        self.contexts: set[GuestContext] = set()
        self.session: GuestSession | None = None
        self.state = LinkState.CONNECTING
        self.error: Exception | None = None
        self.farewell: Bye | None = None
        self._dial = dial
        self._name = name
        self._timing = timing or Timing()
        self._bounds = bounds or Bounds()
        self._report = report
        self._software = software
        self._latest: GuestSession | None = None
        self._sessions = 0
        self._past = (0, 0, 0, 0, 0)
        self._changes = Changes()
        patient = self._timing.patient
        self._backoff = Backoff(_FIRST_PAUSE, _MOST_PAUSE_OF_PATIENT if patient else _MOST_PAUSE_WITHOUT_SESSION)
        self._seldom = Seldom(4, every=HOURLY if patient else RARELY)
        #: Why the pipe was lost last, while it is; and what came of such breaks.
        self._break: Exception | None = None
        self._flapping = Flapping()
        #: Whether the last pipe was good for anything; otherwise there is a pause before the next one.
        self._met = False
        self._tasks = asyncio.TaskGroup()
        self._running: list[asyncio.Task[None]] = []
        self._direct = None if direct is None else DirectLink(direct, self, name, self._changes)

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._running = [self._tasks.create_task(self._run(), name=f"link to {self._name}")]
        if self._direct is not None:
            self._running.append(self._tasks.create_task(self._direct.run(), name=f"direct link to {self._name}"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._running:
            task.cancel()
        if self._latest is not None:
            await self._say_good_bye(self._latest)
        await self._tasks.__aexit__(kind, error, trace)

    async def _say_good_bye(self, session: GuestSession) -> None:
        """Let the host free everything at once; a pipe that is slow is not waited for."""
        end = session.channel.end
        session.channel.close(Bye(Reason.CLOSED, "the guest stops"))
        if end is not None:
            await asyncio.wait({end.gone}, timeout=_GOOD_BYE)

    # ResourceManager

    @property
    def snapshot(self) -> Snapshot:
        """All readers as they were told last."""
        return self.readers.snapshot

    async def changed(self, serial: int) -> Snapshot:
        """Wait until the snapshot's serial is another one than ``serial``."""
        while self.snapshot.serial == serial:
            await self._changes.wait()
        return self.snapshot

    async def open(self, caller: Caller, patience: float | None = None) -> GuestContext:
        """Open a context; the host hears of it when it is used."""
        context = GuestContext(
            lambda: self.session, caller, patience, self.contexts.discard, accelerate=self.accelerate
        )
        self.contexts.add(context)
        return context

    @straight
    def queue(self, reader: str) -> Reply[Queue]:
        """How long the queue of a reader is; ``E_READER_UNAVAILABLE`` while the host is out of reach."""
        if self.session is None or self.state is not LinkState.UP:
            return failed(PcscError(ReturnCode.E_READER_UNAVAILABLE, "its host is out of reach"))
        return self.session.queue(reader)

    def clients(self, reader: str) -> list[str]:
        """The programs here that are connected to a reader, in words, one for each handle."""
        return sorted(
            str(context.caller) for context in self.contexts for card in context.cards if card.reader == reader
        )

    async def ready(self) -> None:
        """Wait until the readers are known.

        Raises:
            OSError | CardferryError: the host could not be reached at the first attempt. (Attempts go on.)
        """
        while self.state is LinkState.CONNECTING:
            if self.error is not None:
                raise self.error
            await self._changes.wait()
        while self.state is LinkState.UP and self.snapshot.serial == 0:
            await self._changes.wait()

    # keeping the link

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        brief = 0
        while True:
            try:
                pipe = await self._dial()
                latest = self._latest
                if latest is None or latest.dead:
                    latest = self._latest = self._new_session()
            except (OSError, CardferryError) as error:
                self._missed(error)
                await self._rest()
                continue
            except Exception as bug:  # the programs that wait are not to pay for it
                log.exception("a bug on the way to %s", self._name or "the host")
                self._missed(bug)
                await self._rest()
                continue
            self._met = False
            began = loop.time()
            await latest.channel.attach(pipe).unused
            brief = brief + 1 if loop.time() - began < _BRIEF else 0
            if not self._met:
                await self._rest()
            elif brief > _HASTY:
                await asyncio.sleep(_BREATH)

    def _new_session(self) -> GuestSession:
        self._sessions += 1
        session = Session(
            Role.GUEST,
            secrets.token_bytes(IDENTITY_SIZE),
            asyncio.get_running_loop().time(),
            timing=self._timing,
            bounds=self._bounds,
            software=self._software,
        )
        return GuestSession(self, session)

    async def _rest(self) -> None:
        await asyncio.sleep(self._backoff.pause(None if self.session is None else _MOST_PAUSE))

    def _missed(self, error: Exception) -> None:
        self.error = error
        # The first attempt's error is for whoever waits for it.
        quiet = self.state is LinkState.CONNECTING
        quiet = quiet or not self._seldom.due(str(error), asyncio.get_running_loop().time())
        level = logging.DEBUG if quiet else logging.INFO
        log.log(level, "%s cannot be reached: %s", self._name or "the host", error)
        self._changes.announce()

    # what sessions tell

    def connected(self, session: GuestSession) -> None:
        """The host is there."""
        if self.state is LinkState.BROKEN:
            self._resumed()
        self.session = session
        self.error = None
        self._seldom.reset()
        self._met = True
        self._become(LinkState.UP)

    def _resumed(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._flapping.resumed(self._break, now):
            log.warning(
                "the link to %s was mended %d times within an hour, and not because of the network: %s",
                self._name or "the host",
                self._flapping.recent(now),
                repr(self._break)
                if self._break is not None
                else "its pipe was closed; the log at the other end may say why",
            )

    def disconnected(self, session: GuestSession, error: Exception | None) -> None:
        """The pipe is gone."""
        if session is self.session:
            if self.state is LinkState.UP:
                self._backoff.reset()
            self._break = error
            self._become(LinkState.BROKEN)
        else:
            self._missed(error or ConnectionError("the host closed the connection before it said hello"))

    def returned(self, session: GuestSession, error: Exception | None) -> None:
        """The connection of the link's own is gone, and the link has gone back to the other one."""
        if self._direct is not None:
            self._direct.returned(error)
        self._changes.announce()

    def ended(self, session: GuestSession) -> None:
        """A session is over."""
        self._remember(session)
        bye = self.farewell = session.bye
        self._met = False
        if bye is not None and bye.reason is Reason.UNKNOWN_SESSION:
            self._met = session.channel.session.established  # then a new session is welcome at once
        elif bye is not None and bye.reason is not Reason.CLOSED:
            self.error = LinkRefusedError(bye)
        if session is self.session:
            self.session = None
            self.readers.vanish()
            self._become(LinkState.DOWN)
        self._changes.announce()

    def readers_changed(self) -> None:
        """The snapshot is a new one."""
        self._changes.announce()

    def _become(self, state: LinkState) -> None:
        if state is not self.state:
            level = logging.INFO if self._report is None else logging.DEBUG
            log.log(level, "link to %s: %s", self._name or "the host", state.value)
            self.state = state
            if self._report is not None:
                self._report(state)
        self._changes.announce()

    # status

    def _remember(self, session: GuestSession) -> None:
        self._past = self._sums(session)
        if session is self._latest:
            self._latest = None

    def _sums(self, session: GuestSession | None) -> tuple[int, int, int, int, int]:
        if session is None:
            return self._past
        channel = session.channel
        resumes, sent, received, bytes_sent, bytes_received = self._past
        return (
            resumes + channel.session.resumes,
            sent + channel.messages_sent,
            received + channel.messages_received,
            bytes_sent + channel.bytes_sent,
            bytes_received + channel.bytes_received,
        )

    @property
    def status(self) -> GuestStatus:
        """How it goes."""
        resumes, sent, received, bytes_sent, bytes_received = self._sums(self._latest)
        machine = self._latest.channel.session if self._latest is not None else None
        return GuestStatus(
            state=self.state.value,
            host=self._name,
            software=machine.peer.software if machine is not None and machine.peer is not None else "",
            round_trip=machine.round_trip if machine is not None else None,
            last_error=str(self.error) if self.error is not None else "",
            sessions=self._sessions,
            resumes=resumes,
            unexplained=self._flapping.recent(asyncio.get_running_loop().time()),
            messages_sent=sent,
            messages_received=received,
            bytes_sent=bytes_sent,
            bytes_received=bytes_received,
            counters=replace(self.counters),
            direct=self._direct is not None and self._direct.used,
        )
