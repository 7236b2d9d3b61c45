"""The host's end of the link: serves any resource manager to guests, whatever pipes they come through.

`LinkServer.serve` is given a pipe that a guest has opened. The guest's hello says which session it belongs to: a new
one, or one that has lost its pipe. All pipes of a host meet the same table of sessions.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from cardferry.changes import Changes
from cardferry.labelled import Labelled
from cardferry.link.channel import FAULT, PipeEnd
from cardferry.link.facts import About, Known, ReaderFacts
from cardferry.link.host_budget import Budget
from cardferry.link.host_direct import Introducer
from cardferry.link.host_memory import Memories
from cardferry.link.host_readers import use_pause
from cardferry.link.host_session import HostSession
from cardferry.link.host_status import HostSessionStatus, LinkCount
from cardferry.link.settings import Limits
from cardferry.pcsc.caller import Principal
from cardferry.pcsc.constants import GET_FEATURE_REQUEST
from cardferry.pcsc.errors import CardferryError
from cardferry.pcsc.interface import ResourceManager
from cardferry.transports.base import Pipe, PipeUser
from cardferry.wire.errors import WireError
from cardferry.wire.link.frames import Frame, FrameReader, Kind, encode
from cardferry.wire.link.greeting import Bye, Hello, Reason, Role, VersionError, agree
from cardferry.wire.link.session import Bounds, Session, Timing

log = logging.getLogger(__name__)

#: Numbers of sessions, unique in this process, however many hosts there are in it.
_numbers: Final = itertools.count(1)

#: Bytes that a guest may send before we have answered its hello.
_MOST_EARLY: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class LinkServerStatus:
    """What ``cardferry status`` shows of a host's end."""

    guests: list[HostSessionStatus]
    remembered: int = 0


class _RefusedError(CardferryError):
    """This guest is not served."""

    def __init__(self, bye: Bye) -> None:
        super().__init__(bye.text)
        self.bye = bye


class _Greeting:
    """Reads a pipe up to the guest's hello, and is a pipe for the session from there on."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe
        self.name = pipe.name
        self.hello: asyncio.Future[Hello] = asyncio.get_running_loop().create_future()
        self._reader = FrameReader(_MOST_EARLY)
        self._early = b""
        self._user: PipeUser | None = None
        self._lost: tuple[Exception | None] | None = None
        pipe.start(self)

    # a pipe's user

    def received(self, data: bytes) -> None:
        if self._user is not None:
            self._user.received(data)
            return
        self._early += data
        if self.hello.done():
            if len(self._early) > _MOST_EARLY:
                self.pipe.abort()
            return
        try:
            frames = self._reader.receive(data)
            if frames:
                self.hello.set_result(_checked(frames[0]))
        except WireError as error:
            self.hello.set_exception(error)

    def congested(self, congested: bool) -> None:
        if self._user is not None:
            self._user.congested(congested)

    def lost(self, error: Exception | None) -> None:
        self._lost = (error,)
        if not self.hello.done():
            self.hello.set_exception(ConnectionError("the pipe was closed before a guest said hello"))
        if self._user is not None:
            self._user.lost(error)

    # a pipe

    def start(self, user: PipeUser) -> None:
        asyncio.get_running_loop().call_soon(self._begin, user)

    def _begin(self, user: PipeUser) -> None:
        self._user = user
        early, self._early = self._early, b""
        user.received(early)
        if self._lost is not None:
            user.lost(self._lost[0])

    def write(self, data: bytes) -> None:
        self.pipe.write(data)

    def pause_reading(self) -> None:
        self.pipe.pause_reading()

    def resume_reading(self) -> None:
        self.pipe.resume_reading()

    def close(self) -> None:
        self.pipe.close()

    def abort(self) -> None:
        self.pipe.abort()


def _checked(frame: Frame) -> Hello:
    if frame.kind is not Kind.HELLO:
        raise WireError(f"the first frame is {frame.kind.name}, not HELLO")
    hello = Hello.parse(frame.payload)
    if hello.role is not Role.GUEST:
        raise WireError("the other end is a host, too")
    return hello


class LinkServer:
    """Serves a resource manager to guests; an asynchronous context manager that owns their sessions.

    Args:
        manager: whose cards are served; it must outlive the host.
        timing: see `Timing`; ``grace`` is how long a guest that is out of reach keeps what it holds.
        limits: see `Limits`.
        bounds: see `Bounds`.
        accelerate: whether to run ahead.
        software: name and version of this program, told to guests.
        memories: what cards have said before, as the manager feeds it; None to tell nobody.
        sessions: the table of sessions, where several servers share one: a guest that has lost its pipe finds its
            session through each of them.
    """

    def __init__(
        self,
        manager: ResourceManager,
        *,
        timing: Timing | None = None,
        limits: Limits | None = None,
        bounds: Bounds | None = None,
        accelerate: bool = True,
        software: str = "",
        memories: Memories | None = None,
        sessions: dict[bytes, HostSession] | None = None,
    ) -> None:
        self.manager = manager
        self.memories = memories
        self.limits = limits or Limits()
        self.accelerate = accelerate
        #: What readers say to each principal: rules may give one a pinpad, and not another.
        self._facts: dict[Principal, ReaderFacts] = {}
        self.budget = Budget(self.limits.memory)
        self._timing = timing or Timing()
        self._bounds = bounds or Bounds()
        self._software = software
        #: Of all servers that share the table; and of this one.
        self._sessions = {} if sessions is None else sessions
        self._own: dict[bytes, HostSession] = {}
        #: By principal; of what sessions have done only those that are over.
        self._past = Labelled(LinkCount)
        self._came_or_went = Changes()
        self._greetings: set[_Greeting] = set()
        self._tasks = asyncio.TaskGroup()
        self._watcher: asyncio.Task[None] | None = None
        self._facts_events: int | None = None
        self._closing = False

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._watcher = self.start(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        if self._watcher is not None:
            self._watcher.cancel()
        for greeting in tuple(self._greetings):
            greeting.abort()
        for session in tuple(self._own.values()):
            session.channel.close(Bye(Reason.CLOSED, "the host stops"))
        await self._tasks.__aexit__(kind, error, trace)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something in a task of this host; it must not raise."""
        return self._tasks.create_task(work)

    async def serve(
        self,
        pipe: Pipe,
        principal: Principal,
        guest: str = "",
        introducer: Introducer | None = None,
        leaving: asyncio.Future[bool] | None = None,
    ) -> None:
        """Serve the guest at the other end of a pipe, until the pipe is lost. It may come back with another one.

        Args:
            pipe: connected, and without a user.
            principal: who the guest is, as this computer has proved it. A session's pipes all come from the same one.
            guest: what the guest calls itself; the pipe's name when it is empty.
            introducer: takes further connections of this guest; None when it may have none.
            leaving: done when whoever has brought the pipe goes; with whether the guest's session ends with that.
        """

        def attach(greeting: _Greeting, hello: Hello) -> tuple[HostSession, PipeEnd]:
            session = self._session(hello, principal, guest or pipe.name)
            session.direct.came(introducer)
            return session, session.channel.attach(greeting)

        await self._serve(pipe, attach, leaving)

    async def _serve_directly(self, session: HostSession, pipe: Pipe) -> None:
        """Likewise, over a pipe of which it is proved that it leads to the guest of that session."""

        def attach(greeting: _Greeting, hello: Hello) -> tuple[HostSession, PipeEnd]:
            if hello.identity != session.channel.session.identity or session.channel.ended:
                raise _RefusedError(Bye(Reason.UNKNOWN_SESSION, "this connection is for another session"))
            return session, session.direct.attach(greeting)

        await self._serve(pipe, attach)

    async def _serve(
        self,
        pipe: Pipe,
        attach: Callable[[_Greeting, Hello], tuple[HostSession, PipeEnd]],
        leaving: asyncio.Future[bool] | None = None,
    ) -> None:
        greeting = _Greeting(pipe)
        self._greetings.add(greeting)
        try:
            async with asyncio.timeout(self._timing.greeting):
                hello = await greeting.hello
            if self._closing:
                raise _RefusedError(Bye(Reason.CLOSED, "the host stops"))
            session, end = attach(greeting, hello)
        except (WireError, _RefusedError, TimeoutError, ConnectionError) as error:
            self._refuse(pipe, error)
            return
        except Exception:  # the boundary that `cardferry.link.channel` describes
            log.exception("%s: a bug before its session", pipe.name)
            self._refuse(pipe, _RefusedError(FAULT))
            return
        finally:
            self._greetings.discard(greeting)
        try:
            if leaving is not None:
                await asyncio.wait((end.gone, leaving), return_when=asyncio.FIRST_COMPLETED)
                if not end.gone.done():
                    if not leaving.result():
                        return
                    session.channel.close(Bye(Reason.CLOSED, "the host stops"))
            await end.gone
        finally:
            pipe.abort()

    def _session(self, hello: Hello, principal: Principal, guest: str) -> HostSession:
        known = self._sessions.get(hello.identity)
        if known is not None:
            if known.principal != principal:
                raise _RefusedError(Bye(Reason.REFUSED, "the session is somebody else's"))
            return known
        if hello.established:
            raise _RefusedError(Bye(Reason.UNKNOWN_SESSION, "the host does not know this session any more"))
        if len(self._own) >= self.limits.guests:
            raise _RefusedError(Bye(Reason.FULL, f"the host serves {self.limits.guests} guests, and no more"))
        session = Session(
            Role.HOST,
            hello.identity,
            asyncio.get_running_loop().time(),
            timing=self._timing,
            bounds=self._bounds,
            software=self._software,
        )
        agree(session.hello, hello)
        serving = HostSession(self, session, next(_numbers), principal, guest)
        serving.direct.serve = partial(self._serve_directly, serving)
        self._sessions[hello.identity] = self._own[hello.identity] = serving
        self._past.of(str(principal)).links += 1
        self.budget.open(serving)
        self._came_or_went.announce()
        return serving

    @staticmethod
    def _refuse(pipe: Pipe, error: Exception) -> None:
        if isinstance(error, _RefusedError):
            bye = error.bye
        elif isinstance(error, VersionError):
            bye = Bye(Reason.VERSION, str(error))
        else:
            bye = Bye(Reason.PROTOCOL, str(error) or "no hello came")
        log.warning("%s: not served: %s", pipe.name, bye.text)
        pipe.write(encode(Kind.BYE, 0, 0, bye.encode()))
        pipe.close()
        asyncio.get_running_loop().call_later(1.0, pipe.abort)

    def hang_up(self) -> None:
        """Abort all pipes without a word; to guests, this host is out of reach."""
        for session in tuple(self._own.values()):
            session.channel.drop()

    def forget(self, session: bytes) -> None:
        """The session of that identity is over."""
        self._sessions.pop(session, None)
        if (own := self._own.pop(session, None)) is not None:
            self._past.of(str(own.principal)).add(own.status)
        self._came_or_went.announce()

    def serves(self, session: int) -> bool:
        """Whether the guest session of that number is one of this server's."""
        return any(one.number == session for one in self._own.values())

    async def occupied(self) -> None:
        """Wait until there is a session."""
        while not self._own:
            await self._came_or_went.wait()

    async def empty(self) -> None:
        """Wait until no session is left, also none whose guest is out of reach."""
        while self._own:
            await self._came_or_went.wait()

    # what all guests are told

    @property
    def use_pause(self) -> float:
        """s between two pieces of news for people; longer with many guests, of all servers that share the table."""
        return use_pause(len(self._sessions))

    async def _watch(self) -> None:
        snapshot = self.manager.snapshot
        while True:
            snapshot = await self.manager.changed(snapshot.serial)
            try:
                self.check_facts()
            except Exception:  # no guest is to pay for it
                log.exception("a bug behind what is known of the readers")
            for session in tuple(self._own.values()):
                session.guarded(session.readers_changed)

    def check_facts(self) -> None:
        """Forget what was known about readers when readers have come or gone."""
        events = self.manager.snapshot.reader_events
        if events != self._facts_events:
            self._facts_events = events
            self._facts.clear()

    def facts(self, who: Principal) -> ReaderFacts:
        """What readers always say to a principal."""
        return self._facts.setdefault(who, ReaderFacts())

    def knows(self, who: Principal, reader: str) -> bool:
        """Whether the principal has asked for that reader's features."""
        return self.facts(who).find(reader, About.CONTROL, GET_FEATURE_REQUEST) is not None

    def learn(self, who: Principal, reader: str, about: About, key: int, known: Known) -> None:
        """A guest has asked a reader for something: if it is a fact, none of its principal need ask again."""
        self.check_facts()
        if self.facts(who).learn(reader, about, key, known):
            for session in tuple(self._own.values()):
                if session.principal == who:
                    session.guarded(partial(session.tell_fact, reader, about, key, known))

    @property
    def counts(self) -> dict[str, LinkCount]:
        """What was done since this server is there, by principal."""
        found = Labelled(LinkCount)
        found.values = {name: replace(count) for name, count in self._past.values.items()}
        for session in self._own.values():
            found.of(str(session.principal)).add(session.status)
        return found.values

    @property
    def status(self) -> LinkServerStatus:
        """Who is served."""
        remembered = 0 if self.memories is None else self.memories.size
        return LinkServerStatus([session.status for session in self._own.values()], remembered)
