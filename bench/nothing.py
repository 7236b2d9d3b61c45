"""A relay between a program and a pcscd that does nothing: what any hop through a Python process costs at least.

    python -m bench.nothing SOCKET PCSCD      listen at SOCKET, pass everything on to the socket PCSCD

Requests are passed on message by message, each in one write, as cardferry does; replies as they come.
"""

from __future__ import annotations

import asyncio
import struct
import sys
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

    def __init__(self, program: asyncio.Transport) -> None:
        self._program = program

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        self._program.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        """Hang up at the other side, too."""
        self._program.close()


class Requests(asyncio.Protocol):
    """The side of a program."""

    def __init__(self, path: str, tasks: asyncio.TaskGroup) -> None:
        self._path = path
        self._tasks = tasks
        self._pcscd: asyncio.Transport | None = None
        self._held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Dial."""
        self._tasks.create_task(self._dial(cast(asyncio.Transport, transport)))

    async def _dial(self, program: asyncio.Transport) -> None:
        loop = asyncio.get_running_loop()
        self._pcscd, _ = await loop.create_unix_connection(lambda: Replies(program), self._path)
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


async def main() -> None:
    """Relay until killed."""
    path, pcscd = sys.argv[1:]
    async with asyncio.TaskGroup() as tasks:
        await asyncio.get_running_loop().create_unix_server(lambda: Requests(pcscd, tasks), path)
        print("ready", flush=True)
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
