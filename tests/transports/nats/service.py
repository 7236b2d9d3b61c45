"""A small NATS server in a thread of the tests' own process: subjects, wildcards and "no responders"; no JetStream.

Written after NATS' client protocol (docs.nats.io, "Client Protocol"). It can lose messages, and end connections.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from cardferry.transports.nats.address import FleetAddress
from tests.transports.tls import tls_lab

_NO_RESPONDERS = b"NATS/1.0 503\r\n\r\n"


def matches(pattern: str, subject: str) -> bool:
    """Whether a subscription is for a subject."""
    wanted, given = pattern.split("."), subject.split(".")
    for number, word in enumerate(wanted):
        if word == ">":
            return len(given) > number
        if number >= len(given) or word not in ("*", given[number]):
            return False
    return len(wanted) == len(given)


class _Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._data = b""
        self.subscriptions: dict[str, str] = {}

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._service.clients.append(self)
        info = {"server_id": "test", "version": "2.9.10", "max_payload": 1 << 20, "headers": True, "proto": 1}
        transport.write(f"INFO {json.dumps(info)}\r\n".encode())

    def connection_lost(self, exc: Exception | None) -> None:
        self._service.clients.remove(self)

    def data_received(self, data: bytes) -> None:
        self._data += data
        if self._service.silent:
            return
        while b"\r\n" in self._data:
            line, rest = self._data.split(b"\r\n", 1)
            verb, *words = line.decode().split()
            if verb in ("PUB", "HPUB"):
                size = int(words[-1])
                if len(rest) < size + 2:
                    return
                self._data = rest[size + 2 :]
                head = int(words[-2]) if verb == "HPUB" else 0
                self._service.publish(self, words[0], words[1] if len(words) == 3 + bool(head) else "", rest[head:size])
                continue
            self._data = rest
            if verb == "PING":
                self.transport.write(b"PONG\r\n")
            elif verb == "SUB":
                self.subscriptions[words[-1]] = words[0]
            elif verb == "UNSUB":
                self.subscriptions.pop(words[0], None)

    def deliver(self, subject: str, data: bytes, head: bytes = b"") -> int:
        found = [sid for sid, pattern in self.subscriptions.items() if matches(pattern, subject)]
        for sid in found:
            sizes = f"{len(head)} {len(head) + len(data)}" if head else f"{len(data)}"
            self.transport.write(
                f"{'H' if head else ''}MSG {subject} {sid} {sizes}\r\n".encode() + head + data + b"\r\n"
            )
        return len(found)


class Service:
    """See the module.

    Attributes:
        port: at 127.0.0.1.
        drop: of a subject and a message: whether it is lost.
        seen: all messages.
    """

    def __init__(self) -> None:
        self.clients: list[_Client] = []
        self.drop: Callable[[str, bytes], bool] = lambda subject, data: False
        self.silent = False
        self.seen: list[tuple[str, bytes]] = []
        ready = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._run(ready)), daemon=True).start()
        ready.wait()

    async def _run(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        server = await self._loop.create_server(lambda: _Client(self), "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await server.serve_forever()

    def publish(self, client: _Client, subject: str, reply: str, data: bytes) -> None:
        """Pass a message on."""
        self.seen.append((subject, data))
        if self.drop(subject, data):
            return
        if not sum([one.deliver(subject, data) for one in self.clients]) and reply:
            client.deliver(reply, b"", _NO_RESPONDERS)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Answer nobody for the block, and hang up after it."""
        self.silent = True
        try:
            yield
        finally:
            self.silent = False
            self.cut()

    def cut(self) -> None:
        """End all connections."""
        self._loop.call_soon_threadsafe(lambda: [one.transport.abort() for one in tuple(self.clients)])

    def reset(self) -> None:
        """End all connections as a computer does that knows nothing of them."""

        def reset() -> None:
            for one in tuple(self.clients):
                linger = struct.pack("ii", 1, 0)
                one.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                one.transport.abort()

        self._loop.call_soon_threadsafe(reset)

    def say(self, subject: str, data: bytes) -> None:
        """Send a message that nobody has written."""
        self._loop.call_soon_threadsafe(lambda: [one.deliver(subject, data) for one in self.clients])


@cache
def service() -> Service:
    """The one of all tests of this process."""
    return Service()


_numbers = iter(range(1, 1 << 30))


def joined_name(folder: Any, patch: Any) -> FleetAddress:
    """A name under which no host is there yet, and that was joined."""
    patch.setenv("XDG_DATA_HOME", str(folder))
    address = FleetAddress(f"LAB-{next(_numbers)}", (f"nats://127.0.0.1:{service().port}",))
    tls_lab.join(address)
    return address
