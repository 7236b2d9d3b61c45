"""Relays that do nothing: what any hop through a Python process costs at least.

    python -m bench.nothing SOCKET PCSCD              listen at SOCKET, pass everything on to the socket PCSCD
    python -m bench.nothing SOCKET -- COMMAND...      likewise, to the standard streams of a command
    python -m bench.nothing - PCSCD                   pass standard input and output on to the socket PCSCD

A socket is a path, or ADDRESS:PORT for one over TCP.

Requests are passed on message by message, each in one write, as cardferry does; replies as they come.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from typing import cast

import uvloop

_HEADER = struct.Struct("=II")
_LENGTH = struct.Struct("=I")
#: Where transmit and control tell how many raw bytes follow.
_LENGTH_AT = {0x09: 20, 0x0A: 16}


def whole(data: bytes) -> int:
    """How many bytes at the start of ``data`` are whole requests."""
    end = 0
    while len(data) - end >= _HEADER.size:
        size, command = _HEADER.unpack_from(data, end)
        following = end + _HEADER.size + size
        if command in _LENGTH_AT and len(data) >= following:
            following += _LENGTH.unpack_from(data, end + _LENGTH_AT[command])[0]
        if len(data) < following:
            break
        end = following
    return end


class Replies(asyncio.Protocol):
    """The side of pcscd."""

    def __init__(self, program: asyncio.WriteTransport) -> None:
        self._program = program

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        self._program.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        """Hang up at the other side, too."""
        self._program.close()


#: Opens the way to pcscd, whose replies go to that protocol.
OpenPcscd = Callable[[Replies], Awaitable[asyncio.Transport]]


class Requests(asyncio.Protocol):
    """The side of a program.

    Args:
        dial: opens the way to pcscd.
        tasks: runs it.
        sink: where replies go, when that is not where requests come from.
    """

    def __init__(self, dial: OpenPcscd, tasks: asyncio.TaskGroup, sink: asyncio.WriteTransport | None = None) -> None:
        self._dial = dial
        self._tasks = tasks
        self._sink = sink
        self._pcscd: asyncio.Transport | None = None
        self._held = b""
        self.gone = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Dial."""
        self._tasks.create_task(self._connect(self._sink or cast(asyncio.Transport, transport)))

    async def _connect(self, program: asyncio.WriteTransport) -> None:
        self._pcscd = await self._dial(Replies(program))
        self.data_received(b"")

    def data_received(self, data: bytes) -> None:
        """Pass whole requests on."""
        data = self._held + data
        end = whole(data) if self._pcscd is not None else 0
        if end and self._pcscd is not None:
            self._pcscd.write(data[:end])
        self._held = data[end:]

    def connection_lost(self, error: Exception | None) -> None:
        """Hang up at the other side, too."""
        if self._pcscd is not None:
            self._pcscd.close()
        self.gone.set_result(None)


def over_tcp(text: str) -> tuple[str, int]:
    """Address and port; no port for a path."""
    address, _, port = text.rpartition(":")
    return (address, int(port)) if port.isdecimal() else ("", 0)


def to_socket(path: str) -> OpenPcscd:
    """The way to a socket."""

    async def dial(replies: Replies) -> asyncio.Transport:
        loop = asyncio.get_running_loop()
        address, port = over_tcp(path)
        if port:
            return (await loop.create_connection(lambda: replies, address, port))[0]
        return (await loop.create_unix_connection(lambda: replies, path))[0]

    return dial


def to_command(words: list[str]) -> OpenPcscd:
    """The way to a command's standard streams."""

    async def dial(replies: Replies) -> asyncio.Transport:
        near, far = socket.socketpair()
        with far:
            await asyncio.create_subprocess_exec(*words, stdin=far.fileno(), stdout=far.fileno())
        near.setblocking(False)
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: replies, sock=near)
        return transport

    return dial


async def main() -> None:
    """Relay until killed, or until standard input ends."""
    listen, *words = sys.argv[1:]
    dial = to_command(words[1:]) if words[0] == "--" else to_socket(words[0])
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as tasks:
        if listen == "-":
            sink, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, sys.stdout)
            requests = Requests(dial, tasks, sink)
            await loop.connect_read_pipe(lambda: requests, sys.stdin)
            await requests.gone
        else:
            address, port = over_tcp(listen)
            if port:
                await loop.create_server(lambda: Requests(dial, tasks), address, port)
            else:
                await loop.create_unix_server(lambda: Requests(dial, tasks), listen)
            print("ready", flush=True)
            await loop.create_future()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
