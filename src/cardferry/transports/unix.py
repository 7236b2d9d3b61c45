"""Pipes over Unix sockets (``unix:PATH``), and over any other connected stream socket.

The kernel says who is at the other end of a Unix socket, so access is decided by the rights of the path.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from cardferry.transports.base import HIGH_WATER, PipeUser
from cardferry.transports.delivery import Delivery
from cardferry.wiping import Receiver


class SocketPipe(Receiver):
    """A connected stream socket, as asyncio's protocol on one side and a pipe on the other.

    Args:
        name: where it leads.
        connected: called when the socket is ready.
    """

    def __init__(self, name: str, connected: Callable[[SocketPipe], None] | None = None) -> None:
        self.name = name
        self._connected = connected
        self._transport: asyncio.Transport
        self._delivery: Delivery

    # what asyncio tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is ready; nothing more is read before there is a user."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        self._delivery = Delivery(self._transport.pause_reading, self._transport.resume_reading)
        self._transport.pause_reading()
        if self._connected is not None:
            self._connected(self)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        self._delivery.received(data)

    def pause_writing(self) -> None:
        """The other end does not keep up."""
        self._delivery.congested(True)

    def resume_writing(self) -> None:
        """It has caught up."""
        self._delivery.congested(False)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self._delivery.lost(exc)

    # what the user asks

    def start(self, user: PipeUser) -> None:
        """Give the pipe its user."""
        self._delivery.start(user)

    def write(self, data: bytes) -> None:
        """Send bytes."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def pause_reading(self) -> None:
        """Deliver nothing for now."""
        self._delivery.pause()

    def resume_reading(self) -> None:
        """Deliver again."""
        self._delivery.resume()

    def close(self) -> None:
        """Deliver what was written, then end."""
        self._transport.close()

    def abort(self) -> None:
        """End now."""
        self._transport.abort()


def connected(path: Path) -> socket.socket:
    """A non-blocking socket that is connected to the one at ``path``, which the kernel does at once or not at all.

    An event loop's own way takes a queue that is full for a connection that is being made (asyncio).

    Raises:
        BlockingIOError: as many connections wait to be accepted there as may wait.
        OSError: there can be no connection.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        connection.connect(os.fspath(path))
    except BaseException:
        connection.close()
        raise
    return connection


async def dial(path: Path) -> SocketPipe:
    """Connect to the socket at ``path``; raises `OSError` as `connected` does."""
    loop = asyncio.get_running_loop()
    _, pipe = await loop.create_unix_connection(lambda: SocketPipe(f"unix:{path}"), sock=connected(path))
    return pipe


async def adopt(connection: socket.socket, name: str, read: bytes = b"") -> SocketPipe:
    """A pipe over a connected stream socket, which becomes the pipe's.

    Args:
        name: where it leads.
        read: what was read from the socket before; the pipe delivers it first.
    """

    def connected(pipe: SocketPipe) -> None:
        if read:
            pipe.data_received(read)

    loop = asyncio.get_running_loop()
    _, pipe = await loop.connect_accepted_socket(lambda: SocketPipe(name, connected), connection)
    return pipe


@asynccontextmanager
async def listen(listening: socket.socket, accepted: Callable[[SocketPipe], None]) -> AsyncIterator[None]:
    """Accept connections for the block; ``accepted`` gets each, and must end it sooner or later.

    Args:
        listening: a bound, listening Unix socket; it is closed at the end of the block.
        accepted: what to do with a new pipe.
    """
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(lambda: SocketPipe("unix:", accepted), sock=listening)
    try:
        yield
    finally:
        server.close()
