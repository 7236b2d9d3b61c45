"""Several hosts, each reached by itself and in its own way, and their readers side by side.

Union( Guest( ssh ), LocalManager( pcscd over ssh -L ), Guest( unix ), ... )

Whether there is a link to a host can be seen when it is reached, so each is decided about then. One that is away is
tried again and again, and joins the others when it comes; they do not wait for it. With ``--wait`` one host is served
so, too: programs see no reader of it yet.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from cardferry.app.hosts.address import HostAddress
from cardferry.app.hosts.attachment import Attachment
from cardferry.app.hosts.connect import ReachedHost, Way
from cardferry.app.runtime.retry import REFUSED_PAUSE, Supervisor
from cardferry.app.runtime.signals import root_cause
from cardferry.app.runtime.status_socket import Link
from cardferry.backoff import HOURLY, Seldom
from cardferry.fleet import Member, Union
from cardferry.fleet.union import FIRST_CHOICE
from cardferry.manager.status import SlotStatus
from cardferry.pcsc.errors import UserError
from cardferry.system.terminal import in_foreground
from cardferry.transports.errors import TransportError

log = logging.getLogger(__name__)

#: s that the other hosts get to be reached for the first time, once one is: then all that are there have their names.
_OTHERS_TIME: Final = FIRST_CHOICE
#: s between two looks whether this computer has joined a host meanwhile that has refused it.
_LOOK: Final = 2.0


class Start:
    """The time in which hosts are tried for the first time, and a person is there to read what is wrong.

    Attributes:
        over: nothing that happens to a host ends the command from now on.
        some: set when a host was reached, or none can be.
    """

    def __init__(self, hosts: int) -> None:
        self.over = False
        self.some = asyncio.Event()
        self._untried = hosts
        # At a terminal ssh may ask for a password: for one host after the other.
        self._asking: AbstractAsyncContextManager[object] = asyncio.Lock() if in_foreground() else nullcontext()

    def first_attempt(self) -> AbstractAsyncContextManager[object]:
        """To be held during a host's first attempt."""
        return self._asking

    def tried(self, *, well: bool) -> None:
        """A host's first attempt is over."""
        self._untried -= 1
        if well or not self._untried:
            self.some.set()


class AttachedHost:
    """One host of several.

    Args:
        host: which.
        way: how to reach it.
        start: what the hosts share in the beginning.

    Attributes:
        member: its place in the union.
        reached: what it serves, None before it was reached for the first time.
        error: why the last attempt failed, None when it did not.
    """

    def __init__(self, host: HostAddress, way: Way, start: Start) -> None:
        self.member = Member(host.label)
        self.reached: ReachedHost | None = None
        self.error: UserError | None = None
        self._host = host
        self._way = way
        self._start = start
        self._attempts = 0
        self._proof: object = None
        self._seldom = Seldom(every=HOURLY)
        self._supervisor = Supervisor(
            str(host), self._dial, lambda: None, self._sleep, patient=True, enduring=True, waits=way.wait
        )

    async def run(self) -> None:
        """Serve the host as soon as it can be reached.

        Raises:
            UserError: it will never be, and that is known from the start.
        """
        while True:
            try:
                await self._supervisor.run()
                return
            except UserError as error:
                if not self._start.over:
                    raise
                if not self._way.wait:
                    log.error("%s; it is not tried again", error.message)
                    return
                level = logging.ERROR if self._seldom.due(error.message, time.monotonic()) else logging.DEBUG
                log.log(level, "%s; trying again in %.0f s", error.message, REFUSED_PAUSE)
            await self._sleep(REFUSED_PAUSE)

    async def _sleep(self, seconds: float) -> None:
        """Wait for the next attempt; not longer than until there is something else to prove oneself with there."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while (left := end - loop.time()) > 0 and self._host.proof() == self._proof:  # noqa: ASYNC110 - files say nothing
            await asyncio.sleep(min(left, _LOOK))

    @asynccontextmanager
    async def _dial(self) -> AsyncIterator[AttachedHost]:
        self._attempts += 1
        self._proof = self._host.proof()
        first = self._attempts == 1
        try:
            async with AsyncExitStack() as stack:
                async with self._start.first_attempt() if first else nullcontext():
                    self.reached = await stack.enter_async_context(self._host.reach(self._way))
                self.error = None
                self.member.join(self.reached.manager)
                if first:
                    self._start.tried(well=True)
                yield self
        except (BaseExceptionGroup, UserError) as error:
            cause = root_cause(error)
            if isinstance(cause, UserError):
                self._failed(cause, first=first)
            raise cause from None

    def _failed(self, error: UserError, *, first: bool) -> None:
        self.error = error
        self.member.known.set()
        if first:
            self._start.tried(well=False)

    async def lost(self) -> TransportError:
        """Never: whoever has reached the host mends what happens to it."""
        if self.reached is not None:
            await self.reached.known()
        self.member.known.set()
        never: asyncio.Future[TransportError] = asyncio.get_running_loop().create_future()
        return await never

    def links(self, path: str) -> list[Link]:
        """The host for ``status``; takes the path of the socket for applications."""
        if self.reached is not None:
            return self.reached.links(path)
        return [Link(str(self._host), "connecting" if self.error is None else self.error.message, path)]


@asynccontextmanager
async def reached_all(
    wanted: Attachment, workdir: Path, beside: Sequence[Member] = (), *, patient: bool = False
) -> AsyncIterator[ReachedHost]:
    """Reach all hosts for the block; one that is away does not disturb the others.

    Args:
        wanted: which, and how.
        workdir: a private folder for sockets between parts of this process.
        beside: what is served in front of them.
        patient: nothing that happens to a host ends the block, from the start; nobody need ask when they are known.

    Raises:
        UserError: none of them can be reached, or one never will, unless they are waited for. From the time on when the
            readers are known, nothing that happens to a host ends the block.
    """
    start = Start(len(wanted.hosts))
    ways = [wanted.way(_folder(workdir, number), one_of_several=True) for number in range(len(wanted.hosts))]
    hosts = [AttachedHost(host, way, start) for host, way in zip(wanted.hosts, ways, strict=True)]
    start.over = patient
    async with Union([*beside, *(host.member for host in hosts)]) as union, asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(host.run(), name=f"host {host.member.host}") for host in hosts]

        async def known() -> None:
            if not wanted.wait:
                await start.some.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(_OTHERS_TIME):
                    await union.ready()
            errors = [host.error for host in hosts]
            if errors[0] is not None and None not in errors and not wanted.wait:
                raise errors[0]
            start.over = True

        yield ReachedHost(
            union,
            known,
            lambda path: [link for host in hosts for link in host.links(path)],
            lambda: (union.contexts, _users(union, hosts)),
        )
        for task in running:
            task.cancel()


def _folder(workdir: Path, number: int) -> Path:
    folder = workdir / str(number)
    folder.mkdir(mode=0o700)
    return folder


def _users(union: Union, hosts: Sequence[AttachedHost]) -> list[SlotStatus]:
    """Who uses which reader, under the names of the union and in its order."""
    there = [host.reached for host in hosts if host.reached is not None]
    slots = {(one.manager, slot.reader): slot for one in there for slot in one.users()[1]}
    shown = [(reader.name, slots.get(union.find(reader.name))) for reader in union.snapshot.readers]
    return [replace(slot, reader=name) for name, slot in shown if slot is not None]
