"""The ssh connection to one host, as something to hold: made when it is needed, made anew when it is lost.

What is found out with the first connection (is cardferry over there?) and what is then done with it (a link, or a
forwarding) share it, so that a password is asked for once. A key that may do nothing but `cardferry host --stdio`
gets a connection for each session instead.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from cardferry.system.peers import tcp_peers
from cardferry.transports.ssh import (
    NoShellError,
    SshCommand,
    SshConnection,
    SshError,
    connect,
    open_alone,
    open_session,
    open_session_streams,
)
from cardferry.transports.ssh.session import SessionPipe, SessionStreams

log = logging.getLogger(__name__)

#: Seconds for the other side to show that a connection still leads to it.
_ALIVE_TIME: Final = 1.0
#: ssh gives a host so many seconds to answer when a connection is made anew: an attempt that began while the network
#: was away must not outlast the link's patience.
_RECONNECT_TIME: Final = 4
#: s after which a login is slow.
SLOW_LOGIN: Final = 5.0
#: So many attempts are made in a hurry; after that the host may simply be slow.
_HURRIED: Final = 4


@contextmanager
def _told_when_slow(destination: str, *, first: bool) -> Iterator[None]:
    """Say that the login takes its time, for the block; only the first one, at which a person may be waiting."""
    slow = asyncio.get_running_loop().call_later(
        SLOW_LOGIN, log.warning, "waiting for %s: no login yet after %g s", destination, SLOW_LOGIN
    )
    if not first:
        slow.cancel()
    try:
        yield
    finally:
        slow.cancel()


class SshConnector:
    """Holds the connection to a host; an asynchronous context manager that ends it.

    Args:
        destination: as for ssh.
        ssh: the ssh program.
        folder: a private folder for its control socket.
        hurry: give up the first attempt sooner, too.

    Attributes:
        alone: whether each session has a connection of its own.
    """

    def __init__(self, destination: str, ssh: SshCommand, folder: Path, *, hurry: bool = False) -> None:
        self.destination = destination
        self.alone = False
        self._ssh = ssh
        self._folder = folder
        self._hurry = hurry
        self._made = self._failures = 0
        self._stack = AsyncExitStack()
        self._connection: SshConnection | None = None
        self._alone: SessionPipe | None = None
        self._endings = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._endings.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.drop()
        finally:
            await self._endings.__aexit__(kind, error, trace)

    async def connection(self, *, hurry: bool = False) -> SshConnection:
        """The connection that stands, or a new one; raises `SshError` when there can be none.

        Args:
            hurry: give up sooner than a person would, as long as that may help.
        """
        if self._connection is not None and not await self._alive(self._connection):
            self._abandon()
        if self._connection is None:
            self._made += 1
            folder = self._folder / f"ssh{self._made}"
            folder.mkdir(mode=0o700)
            self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
            command = self._command(hurry=hurry)
            self._failures += 1
            with _told_when_slow(self.destination, first=self._made == 1):
                self._connection = await self._stack.enter_async_context(connect(self.destination, command, folder))
            self._failures = 0
        return self._connection

    def _command(self, *, hurry: bool) -> SshCommand:
        """The ssh program; less patient while others wait, or the network may have been away for a moment only."""
        if self._made < 2:
            hurry = self._hurry
        if not hurry or self._failures >= _HURRIED:
            return self._ssh
        return SshCommand((*self._ssh.program, "-o", f"ConnectTimeout={_RECONNECT_TIME}"), self._ssh.version)

    async def session(self, command: str, heard: Callable[[str], None] = lambda line: None) -> SessionPipe:
        """Run a command on the other side; its standard streams are the pipe.

        Args:
            heard: gets each line that it writes to its standard error.

        Raises:
            SshError: the host cannot be reached.
        """
        if not self.alone:
            try:
                return await open_session(await self.connection(hurry=True), command, heard)
            except NoShellError:
                if self._connection is not None or self._made > 1:
                    raise
                log.debug("%s gives no shell: perhaps the key is for the link only", self.destination)
        self.alone = True
        self._made += 1
        self._alone = await open_alone(self.destination, self._command(hurry=True), command, heard)
        return self._alone

    def peer(self) -> str:
        """The IP address to which ssh is connected; empty where it goes through something else, such as a jump host."""
        one = self._connection if self._connection is not None else self._alone
        peers = tcp_peers(one.pid) if one is not None else set()
        return peers.pop() if len(peers) == 1 else ""

    async def streams(self, command: str, heard: Callable[[str], None]) -> SessionStreams:
        """Run a command on the other side through the connection, for whoever gives its standard streams away.

        Args:
            heard: gets each line that it writes to its standard error.

        Raises:
            SshError: the host cannot be reached.
        """
        return await open_session_streams(await self.connection(hurry=True), command, heard)

    def _abandon(self) -> None:
        """Go on without the connection; it ends in its own time."""
        self._connection = None
        stack, self._stack = self._stack, AsyncExitStack()
        self._endings.create_task(stack.aclose(), name=f"the end of a connection to {self.destination}")

    async def drop(self) -> None:
        """End the connection, if there is one."""
        self._connection = None
        stack, self._stack = self._stack, AsyncExitStack()
        await stack.aclose()

    @staticmethod
    async def _alive(connection: SshConnection) -> bool:
        """Whether the other side answers. ssh itself takes longer to notice that a network is gone."""
        if not connection.up:
            return False
        try:
            async with asyncio.timeout(_ALIVE_TIME):
                await connection.ask("look", "/")
        except (TimeoutError, SshError):
            return False
        return True
