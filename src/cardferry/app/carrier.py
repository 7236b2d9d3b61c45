"""The ssh connection to one host, as something to hold: made when it is needed, made anew when it is lost.

What is found out with the first connection (is cardferry over there?) and what is then done with it (a link, or a
forwarding) share it, so that a password is asked for once.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from cardferry.transports.ssh import SshCommand, SshConnection, SshError, connect

#: Seconds for the other side to show that a connection still leads to it.
_ALIVE_TIME: Final = 2.0


class Carrier:
    """Holds the connection to a host; an asynchronous context manager that ends it.

    Args:
        destination: as for ssh.
        ssh: the ssh program.
        folder: a private folder for its control socket.
    """

    def __init__(self, destination: str, ssh: SshCommand, folder: Path) -> None:
        self.destination = destination
        self._ssh = ssh
        self._folder = folder
        self._stack = AsyncExitStack()
        self._connection: SshConnection | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.drop()

    async def connection(self) -> SshConnection:
        """The connection that stands, or a new one; raises `SshError` when there can be none."""
        if self._connection is not None and not await self._alive(self._connection):
            await self.drop()
        if self._connection is None:
            self._connection = await self._stack.enter_async_context(connect(self.destination, self._ssh, self._folder))
        return self._connection

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
