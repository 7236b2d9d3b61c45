"""The way to a host's readers, whatever it is: what it needs, and what is served at its end.

Guest( ssh )                         when cardferry is at the other end, too
Guest( unix, vsock, exec, ... )      where no ssh is needed
LocalManager( pcscd over ssh -L )    when only sshd is there
LocalManager( ... )                  for what is on this computer
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cardferry.app.hosts.ssh_link import link_state, patience
from cardferry.app.runtime.status_socket import Link
from cardferry.link import Guest, Timing
from cardferry.manager import LocalManager, Settings
from cardferry.manager.status import SlotStatus
from cardferry.pcsc.interface import ResourceManager
from cardferry.readers.base import ReaderSource
from cardferry.transports.ssh import SshCommand


@dataclass(frozen=True, slots=True)
class Way:
    """How to get to a host.

    Attributes:
        workdir: a private folder for sockets between parts of this process.
        ssh: the ssh program.
        settings: bounds of the resource manager, where it is one of ours.
        link: whether to use the cardferry over there, if there is one.
        grace: s that programs wait for a host that is out of reach, None for the link's own.
        patient: whether the host may be away at first.
        one_of_several: others wait for it, so the first attempt is given up sooner; and others go on without it, so
            nothing that happens to it later ends the way.
        memory: whether to believe what cards have said before.
        wait: whether it is waited for whatever happens to it, in no hurry.
        direct: whether a link over ssh makes a connection of its own beside it.
    """

    workdir: Path
    ssh: SshCommand = field(default_factory=SshCommand)
    settings: Settings = field(default_factory=Settings)
    link: bool = True
    grace: float | None = None
    patient: bool = False
    one_of_several: bool = False
    memory: bool = True
    wait: bool = False
    direct: bool = False

    @property
    def timing(self) -> Timing:
        """The times of a link."""
        return patience(self.grace, wait=self.wait)


@dataclass(frozen=True, slots=True)
class OpenedReaders:
    """Readers that are about to be served.

    Attributes:
        source: what reports them.
        known: waits until the first list of readers has been reported, or it is known that this will take longer;
            call it while the source runs.
        state: ``up``, or why the readers cannot be reached.
    """

    source: ReaderSource
    known: Callable[[], Awaitable[object]]
    state: Callable[[], str]


@dataclass(frozen=True, slots=True)
class ReachedHost:
    """What can be served.

    Attributes:
        manager: what serves the cards.
        known: waits until the readers are known.
        links: the hosts, for ``status``; takes the path of the socket for applications.
        users: how many contexts programs have open here, and who uses which reader.
    """

    manager: ResourceManager
    known: Callable[[], Awaitable[object]]
    links: Callable[[str], list[Link]]
    users: Callable[[], tuple[int, list[SlotStatus]]]


def reached_over_link(name: str, guest: Guest, over: Callable[[], str] = lambda: "") -> ReachedHost:
    """A host at which a cardferry is.

    Args:
        over: what carries the link now, for ``status``; see `Link`.
    """
    return ReachedHost(
        guest,
        guest.ready,
        lambda path: [Link(name, link_state(guest), path, "link", guest.status, over=over())],
        lambda: users_over_link(guest),
    )


def users_over_link(guest: Guest) -> tuple[int, list[SlotStatus]]:
    """See `ReachedHost.users`: who has a card and who waits is what the host says, the clients are programs here."""
    now = asyncio.get_running_loop().time()
    readers = guest.snapshot.readers
    return len(guest.contexts), [SlotStatus.of(one, one.use, now, guest.clients(one.name)) for one in readers]


@asynccontextmanager
async def served_here(
    name: str, readers: OpenedReaders, settings: Settings, way: str = ""
) -> AsyncIterator[ReachedHost]:
    """Readers with a resource manager of this process, for the block.

    Args:
        way: what leads to them, for ``status``; see `Link`.
    """
    async with LocalManager([readers.source], settings) as manager:

        def users() -> tuple[int, list[SlotStatus]]:
            status = manager.status
            return status.contexts, status.readers

        yield ReachedHost(manager, readers.known, lambda path: [Link(name, readers.state(), path, way)], users)
