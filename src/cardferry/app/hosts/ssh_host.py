"""A host that is reached with OpenSSH: over a link where cardferry is over there, too, else its pcscd is forwarded.

A forwarded pcscd is at a private socket here (``ssh -L``), so to the reader source it is a pcscd like the local one
that goes away and comes back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from cardferry.app.hosts.address import HostAddress
from cardferry.app.hosts.connect import OpenedReaders, ReachedHost, Way, reached_over_link, served_here
from cardferry.app.hosts.sources import WatchedPcscd
from cardferry.app.hosts.ssh_connection import SshConnector
from cardferry.app.hosts.ssh_link import linked
from cardferry.app.runtime.retry import Supervisor
from cardferry.transports.errors import AddressSyntaxError
from cardferry.transports.ssh import SshConnection, forward_pcscd

#: What ssh's own configuration may hand to a shell (``ProxyCommand``, ``Match exec``), as hints do that name a host;
#: OpenSSH refuses these since 9.6 (``ssh.c``: ``valid_hostname``, ``valid_ruser``).
_FOR_SHELLS: Final = frozenset("'`\"$;&<>|(){}")


@dataclass(frozen=True, slots=True)
class SshHost(HostAddress):
    """Another computer, reached with OpenSSH; ``destination`` is ssh's own word for it."""

    FORMS: ClassVar[tuple[str, ...]] = ("[user@]name", "ssh://[user@]name[:port]")

    destination: str

    @classmethod
    def parse(cls, rest: str, text: str) -> Self | None:
        """The destination is the whole text; None when it cannot be one for its form.

        Args:
            rest: what follows ``ssh:``; behind ``//``, with or without a scheme.

        Raises:
            AddressSyntaxError: for the characters in it.
        """
        name = text.removeprefix("ssh://")
        if not rest.startswith("//") or not name.strip("/"):
            return None
        if any(part.startswith("-") or not part for part in name.split("@")):
            return None
        if any(character.isspace() or not character.isprintable() for character in text):
            raise AddressSyntaxError(
                f"not a HOST: {text!r}", "a host's name has no blanks; give ssh's options with -e/--ssh"
            )
        if _FOR_SHELLS.intersection(text):
            raise AddressSyntaxError(
                f"not a HOST: {text!r}", "a host's name has no quotes, and nothing else that means something to a shell"
            )
        return cls(text)

    def __str__(self) -> str:
        return self.destination

    def _label(self) -> str:
        return self.destination.removeprefix("ssh://").rstrip("/")

    @asynccontextmanager
    async def open_readers(self, way: Way) -> AsyncIterator[OpenedReaders]:
        """The readers of the pcscd over there."""
        async with self._connector(way) as connector, forwarded(connector, way) as readers:
            yield readers

    @asynccontextmanager
    async def reach(self, way: Way) -> AsyncIterator[ReachedHost]:
        """The link, if there can be one; else the pcscd over there."""
        async with self._connector(way) as connector, AsyncExitStack() as stack:
            if (
                way.link
                and (
                    guest := await stack.enter_async_context(
                        linked(connector, way.timing, memory=way.memory, direct=way.direct)
                    )
                )
                is not None
            ):
                there = guest
                over = "ssh" if way.direct else ""
                yield reached_over_link(str(self), guest, lambda: "direct" if there.status.direct else over)
                return
            readers = await stack.enter_async_context(forwarded(connector, way))
            yield await stack.enter_async_context(served_here(str(self), readers, way.settings, "forwarding"))

    def _connector(self, way: Way) -> SshConnector:
        return SshConnector(self.destination, way.ssh, way.workdir, hurry=way.one_of_several)


@asynccontextmanager
async def forwarded(connector: SshConnector, way: Way) -> AsyncIterator[OpenedReaders]:
    """The readers of a host's pcscd, whose socket is forwarded for the block; losses are mended.

    Args:
        connector: to the host.
        way: how patiently, and where the socket shall be.
    """
    path = way.workdir / "pcscd"
    destination = connector.destination

    @asynccontextmanager
    async def dial() -> AsyncIterator[SshConnection]:
        connection = await connector.connection()
        try:
            await forward_pcscd(connection, path)
            yield connection
        finally:
            await connector.drop()

    async def known() -> None:
        if supervisor.error is None:
            await watched.known.wait()

    def on_up() -> None:
        watched.source.reconnect_now()

    supervisor = Supervisor(destination, dial, on_up, patient=way.patient, enduring=way.one_of_several, waits=way.wait)
    watched = WatchedPcscd(path, destination, lambda: supervisor.state)
    async with asyncio.TaskGroup() as tasks:
        keeping = tasks.create_task(supervisor.run(), name=f"connection to {destination}")
        await supervisor.tried.wait()
        yield OpenedReaders(watched.source, known, watched.state)
        keeping.cancel()
