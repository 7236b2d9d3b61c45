"""One host, and whatever way leads to it: what `attach` serves.

Guest( ssh )                         when cardferry is at the other end, too
Guest( unix, vsock )                 where no ssh is needed
LocalManager( pcscd over ssh -L )    when only sshd is there
LocalManager( ... )                  for what is on this computer
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cardferry.app.hosts.address import Host, SshHost, UnixHost, VsockHost, spelled
from cardferry.app.hosts.attachment import Attachment
from cardferry.app.hosts.direct_link import linked_directly
from cardferry.app.hosts.sources import Origin, forwarded, opened
from cardferry.app.hosts.ssh_connection import Carrier
from cardferry.app.hosts.ssh_link import linked, state
from cardferry.app.runtime.status_socket import Link
from cardferry.link import Guest
from cardferry.manager import LocalManager, Settings
from cardferry.manager.status import SlotStatus
from cardferry.pcsc.interface import ResourceManager


@dataclass(frozen=True, slots=True)
class Reached:
    """What can be served.

    Attributes:
        manager: what serves the cards.
        known: waits until the readers are known.
        links: the hosts, for ``status``; takes the path of the socket for applications.
        users: how many contexts there are, and who uses which reader.
    """

    manager: ResourceManager
    known: Callable[[], Awaitable[object]]
    links: Callable[[str], list[Link]]
    users: Callable[[], tuple[int, list[SlotStatus]]]


@asynccontextmanager
async def reached(
    host: Host, wanted: Attachment, parts: Path, *, one_of_several: bool = False
) -> AsyncIterator[Reached]:
    """Reach a host for the block, over a link where that can be; later losses are mended.

    Args:
        wanted: how.
        parts: a private folder for sockets between parts of this process.
        one_of_several: others wait for it, so the first attempt is given up sooner; and others go on without it, so
            nothing that happens to it later ends the block.

    Raises:
        UserError: it cannot be reached.
    """
    settings = wanted.service.settings
    match host:
        case SshHost(destination) if wanted.link:
            async with (
                Carrier(destination, wanted.ssh, parts, hurry=one_of_several) as carrier,
                linked(carrier, wanted.grace) as guest,
            ):
                if guest is not None:
                    yield _over_link(host, guest)
                    return
                async with (
                    forwarded(carrier, parts, enduring=one_of_several) as origin,
                    _local(host, origin, settings) as here,
                ):
                    yield here
        case UnixHost() | VsockHost() if wanted.link:
            async with linked_directly(host, wanted.grace) as guest:
                yield _over_link(host, guest)
        case _:
            async with (
                opened(host, wanted.ssh, parts, one_of_several=one_of_several) as origin,
                _local(host, origin, settings) as here,
            ):
                yield here


def _over_link(host: Host, guest: Guest) -> Reached:
    return Reached(
        guest,
        guest.ready,
        lambda path: [Link(spelled(host), state(guest), path, "link", guest.status)],
        lambda: (0, [SlotStatus.of(reader) for reader in guest.snapshot.readers]),
    )


@asynccontextmanager
async def _local(host: Host, origin: Origin, settings: Settings) -> AsyncIterator[Reached]:
    way = "forwarding" if isinstance(host, SshHost) else ""
    async with LocalManager([origin.source], settings) as manager:

        def users() -> tuple[int, list[SlotStatus]]:
            status = manager.status
            return status.contexts, status.readers

        yield Reached(manager, origin.known, lambda path: [Link(spelled(host), origin.state(), path, way)], users)
