"""Distance: a relay that passes each byte on a fixed time after it came, in order, without limiting how many.

Executed as a file with the standard library only. Both ends are TCP, or Unix sockets where a host's name is a path (the
port does not matter then). On start it prints `listening`. Orders, one a line on standard input:

    black            from now on everything that comes, either way, is swallowed; connections stay open
    light            from now on bytes are passed again (on new connections: what was swallowed is missing for ever)
    cut              close all connections with a reset
    count            print {"connections": n, "up": bytes, "down": bytes, "turns": n, "quiet": seconds}; turns counts
                     how often the conversation went from upward to downward, that is round trips, over all connections;
                     quiet is how long ago the last byte came
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import sys
import time
from collections import deque
from dataclasses import dataclass


@dataclass(slots=True)
class Link:
    """What all connections of the relay share."""

    one_way: float
    black: bool = False
    connections: int = 0
    up: int = 0
    down: int = 0
    turns: int = 0
    last_up: bool = False
    last_at: float = 0.0

    def counted(self, size: int, upward: bool) -> None:
        """Note that ``size`` bytes came."""
        if upward:
            self.up += size
        else:
            self.down += size
            self.turns += self.last_up
        self.last_up = upward
        self.last_at = time.monotonic()


class Side(asyncio.Protocol):
    """One of the two ends of a relayed connection."""

    def __init__(self, link: Link, upward: bool) -> None:
        self.link = link
        self.upward = upward
        self.other: Side | None = None
        self.transport: asyncio.Transport | None = None
        self._under_way: deque[tuple[float, bytes | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to write."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        # a network has no memory of its own worth mentioning, but it never pushes back either
        transport.set_write_buffer_limits(high=1 << 30)

    def data_received(self, data: bytes) -> None:
        """Send it on its way."""
        if self.link.black:
            return
        self.link.counted(len(data), self.upward)
        self._depart(data)

    def eof_received(self) -> bool:
        """The end travels like data."""
        if not self.link.black:
            self._depart(None)
        return True

    def connection_lost(self, error: Exception | None) -> None:
        """A lost connection ends the other one, after the same time."""
        if not self.link.black:
            self._depart(None)
        if error is not None and self.other is not None and self.other.transport is not None and not self.link.black:
            asyncio.get_running_loop().call_later(self.link.one_way, self.other.transport.abort)

    def _depart(self, data: bytes | None) -> None:
        self._under_way.append((asyncio.get_running_loop().time() + self.link.one_way, data))
        if self._timer is None:
            self._arrive()

    def _arrive(self) -> None:
        """Deliver what has travelled long enough and set the timer for the next."""
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._under_way:
            due, data = self._under_way[0]
            if due > loop.time():
                self._timer = loop.call_at(due, self._arrive)
                return
            if self.other is None or self.other.transport is None:
                self._timer = loop.call_later(0.001, self._arrive)  # the far end is still being connected
                return
            self._under_way.popleft()
            target = self.other.transport
            if self.link.black or target.is_closing():
                continue
            if data is None:
                with contextlib.suppress(OSError):  # it was reset, and that is not known here yet
                    target.write_eof()
            else:
                target.write(data)

    def reset(self) -> None:
        """Close with RST."""
        if self.transport is not None and not self.transport.is_closing():
            end = self.transport.get_extra_info("socket")
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()


class Relay:
    """The relay: listens, connects, obeys."""

    def __init__(self, link: Link, host: str, port: int) -> None:
        self.link = link
        self.host, self.port = host, port
        self.sides: list[Side] = []

    async def connect(self, near: Side) -> None:
        """Make the far half of a new connection; the journey there and back takes its time, too."""
        await asyncio.sleep(2 * self.link.one_way)
        far = Side(self.link, upward=False)
        try:
            loop = asyncio.get_running_loop()
            if self.host.startswith("/"):
                await loop.create_unix_connection(lambda: far, self.host)
            else:
                await loop.create_connection(lambda: far, self.host, self.port)
        except OSError:
            near.reset()
            return
        self.sides.append(far)
        near.other, far.other = far, near

    def obey(self, order: str) -> None:
        """One line of standard input."""
        match order.strip():
            case "black":
                self.link.black = True
                print("black", flush=True)
            case "light":
                self.link.black = False
                print("light", flush=True)
            case "cut":
                for side in self.sides:
                    side.reset()
                self.sides.clear()
                print("cut", flush=True)
            case "count":
                link = self.link
                counts = {
                    "connections": link.connections,
                    "up": link.up,
                    "down": link.down,
                    "turns": link.turns,
                    "quiet": time.monotonic() - link.last_at,
                }
                print(json.dumps(counts), flush=True)


async def serve(listen_host: str, listen_port: int, host: str, port: int, one_way: float) -> None:
    """Relay until standard input ends."""
    loop = asyncio.get_running_loop()
    relay = Relay(Link(one_way), host, port)
    async with asyncio.TaskGroup() as tasks:

        def accept() -> Side:
            near = Side(relay.link, upward=True)
            relay.link.connections += 1
            relay.sides.append(near)
            tasks.create_task(relay.connect(near))
            return near

        if listen_host.startswith("/"):
            server: asyncio.AbstractServer = await loop.create_unix_server(accept, listen_host)
        else:
            server = await loop.create_server(accept, listen_host, listen_port)
        print("listening", flush=True)
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            relay.obey(line.decode())
        server.close()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), float(sys.argv[5])))
