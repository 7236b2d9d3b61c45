"""A pipe over two file descriptors (``stdio:``): one to read, one to write.

This is how a program speaks that ssh has started at the other end. The descriptors may be pipes, sockets or character
devices. Both may be the same socket, as OpenSSH's server has it for its commands: then it is treated as one.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Callable
from typing import Any

from cardferry.transports.base import HIGH_WATER, Pipe, PipeUser
from cardferry.transports.delivery import Delivery
from cardferry.transports.unix import adopt
from cardferry.wiping import Receiver


class _Direction(Receiver):
    """asyncio's side of one descriptor."""

    def __init__(
        self, pipe: StdioPipe, ready: Callable[[Any], None], ended: Callable[[Exception | None], None]
    ) -> None:
        self._pipe = pipe
        self._ready = ready
        self._ended = ended

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._ready(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended(exc)

    def data_received(self, data: bytes) -> None:
        self._pipe._received(data)

    def pause_writing(self) -> None:
        self._pipe._delivery.congested(True)

    def resume_writing(self) -> None:
        self._pipe._delivery.congested(False)


class StdioPipe:
    """A pipe made of a descriptor to read and another to write; `open_pipe` makes one.

    It is lost when nothing more can be read: what the other end wrote before it went is still delivered.

    Args:
        name: where it leads.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._source: asyncio.ReadTransport
        self._sink: asyncio.WriteTransport
        self._delivery: Delivery
        self._closing = self._source_gone = self._sink_gone = False
        self._error: Exception | None = None

    def start(self, user: PipeUser) -> None:
        """Give the pipe its user."""
        self._delivery.start(user)

    def write(self, data: bytes) -> None:
        """Send bytes."""
        if not self._sink.is_closing():
            self._sink.write(data)

    def pause_reading(self) -> None:
        """Deliver nothing for now."""
        self._delivery.pause()

    def resume_reading(self) -> None:
        """Deliver again."""
        self._delivery.resume()

    def close(self) -> None:
        """Deliver what was written, then end."""
        self._closing = True
        if self._sink_gone:
            self._source.close()
        else:
            self._sink.close()

    def abort(self) -> None:
        """End now."""
        self._closing = True
        if not self._source_gone:
            self._source.close()
        if not self._sink_gone:
            self._sink.abort()

    def _source_ready(self, transport: asyncio.ReadTransport) -> None:
        self._source = transport
        self._delivery = Delivery(self._pause, self._resume)
        self._pause()

    def _sink_ready(self, transport: asyncio.WriteTransport) -> None:
        self._sink = transport
        transport.set_write_buffer_limits(high=HIGH_WATER)

    def _pause(self) -> None:
        if not self._source_gone:
            self._source.pause_reading()

    def _resume(self) -> None:
        if not self._source_gone:
            self._source.resume_reading()

    def _received(self, data: bytes) -> None:
        if not self._closing:
            self._delivery.received(data)

    def _source_ended(self, error: Exception | None) -> None:
        self._source_gone = True
        self._error = self._error or error
        if self._sink_gone:
            self._delivery.lost(self._error)
        else:
            self._sink.close()

    def _sink_ended(self, error: Exception | None) -> None:
        self._sink_gone = True
        self._error = self._error or error
        if self._source_gone:
            self._delivery.lost(self._error)
        elif self._closing:
            self._source.close()


def _one_socket(source: int, sink: int) -> bool:
    return stat.S_ISSOCK(os.fstat(source).st_mode) and os.path.sameopenfile(source, sink)


async def open_pipe(source: int, sink: int, name: str = "stdio:") -> Pipe:
    """A pipe over two open descriptors, which become the pipe's; they may be the same.

    Raises:
        OSError: these are no pipes, sockets or character devices.
    """
    if _one_socket(source, sink):
        if sink != source:
            os.close(sink)
        return await adopt(socket.socket(fileno=source), name)
    loop = asyncio.get_running_loop()
    pipe = StdioPipe(name)
    reading = os.fdopen(source, "rb", buffering=0)
    writing = os.fdopen(sink if sink != source else os.dup(sink), "wb", buffering=0)
    try:
        # This one first: what is read may be at its end already, and that closes what is written to.
        await loop.connect_write_pipe(lambda: _Direction(pipe, pipe._sink_ready, pipe._sink_ended), writing)
        await loop.connect_read_pipe(lambda: _Direction(pipe, pipe._source_ready, pipe._source_ended), reading)
    except (OSError, ValueError) as error:
        reading.close()
        writing.close()
        raise OSError(f"these are no pipes or sockets: {error}") from error
    return pipe
