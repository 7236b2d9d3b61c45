"""What a fleet's directory costs: many hosts and guests at a real nats-server, all of them light, in this one process.

``python -m bench.directory --hosts 1000 --guests 10000 --members 10``: every host writes its entry as real ones do
(`cardferry.fleet.entry`: every `REFRESH` s, with one label; without waiting for the answer), every guest hears of the
hosts of one label, each of which ``--members`` hosts have. Hosts and guests share a few connections; what they cost a
server is its subscriptions, and memory beside that of a server without them. Counted at the server (``/varz``), over
``--seconds``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import subprocess
import tempfile
import time
import urllib.request
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from tests.lab.nats import PROGRAM

from cardferry.fleet import bucket
from cardferry.fleet.members import FleetHost, FleetReader, encode
from cardferry.transports.nats.connection import Connection, connected
from cardferry.transports.nats.settings import FleetSettings, host_and_port

_CONNECTIONS: Final = 20
_SUBJECT: Final = "CN=Signing {number},O=Example Laboratories,C=DE"


def free_ports() -> tuple[int, int]:
    """Two ports of 127.0.0.1 at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        return one.getsockname()[1], two.getsockname()[1]


class _Reader(asyncio.Protocol):
    """A connection of many guests, which only counts: what a guest does with what it hears is not the directory's."""

    def __init__(self) -> None:
        self.heard = 0
        self._answered = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(b'CONNECT {"verbose":false}\r\n')

    def data_received(self, data: bytes) -> None:
        self.heard += len(data)
        if data.endswith(b"PONG\r\n"):
            self._answered.set()
        if data.endswith(b"PING\r\n"):
            self._transport.write(b"PONG\r\n")

    def subscribe(self, subject: str, number: int) -> None:
        self._transport.write(f"SUB {subject} {number}\r\n".encode())

    async def ready(self) -> None:
        self._transport.write(b"PING\r\n")
        await self._answered.wait()

    def close(self) -> None:
        self._transport.close()


def document(number: int, members: int) -> FleetHost:
    """A host with two readers, as its entry has it."""
    subjects = {"9A": _SUBJECT.format(number=number), "9C": _SUBJECT.format(number=number)}
    readers = tuple(
        FleetReader(f"Yubico YubiKey OTP+FIDO+CCID 00 {slot:02}", "PIV (YubiKey 5)", "3B" * 20, ("12345678",), subjects)
        for slot in range(2)
    )
    pool = {"pool": f"p{number // members}"}
    return FleetHost(f"LAB-{number}", "lab (10.0.0.1)", pool, readers, "cardferry 0.1", "0" * 16)


async def write(connection: Connection, hosts: list[FleetHost], until: float) -> None:
    """Write the entries of hosts, spread over each `REFRESH` s."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    number = 0
    while loop.time() < until:
        host = hosts[number % len(hosts)]
        data = encode(host)
        connection.publish(bucket.SUBJECTS + bucket.host_key(host.name), data)
        for key, value in host.labels.items():
            connection.publish(bucket.SUBJECTS + bucket.label_key(key, value, host.name), data)
        number += 1
        await asyncio.sleep(max(0.0, begin + number * bucket.REFRESH / len(hosts) - loop.time()))


def counters(monitor: int, process: int) -> dict[str, Any]:
    """What the server counts, and its memory in bytes."""
    with urllib.request.urlopen(f"http://127.0.0.1:{monitor}/varz") as answer:
        found: dict[str, Any] = json.load(answer)
    found["resident"] = int(Path(f"/proc/{process}/statm").read_text().split()[1]) * 4096
    return found


async def measure(hosts: int, guests: int, members: int, seconds: float) -> dict[str, float]:
    """Run it; rates are per second."""
    port, monitor = free_ports()
    with tempfile.TemporaryDirectory() as folder:
        words = [PROGRAM, "-a", "127.0.0.1", "-p", str(port), "-m", str(monitor), "-js", "-sd", folder]
        server = subprocess.Popen(words, stderr=subprocess.DEVNULL)  # noqa: ASYNC220 - nothing runs yet
        try:
            while True:
                try:
                    before = counters(monitor, server.pid)
                    break
                except OSError:
                    await asyncio.sleep(0.05)
            settings = FleetSettings((f"nats://127.0.0.1:{port}",))
            return await _measured(settings, monitor, server.pid, before, (hosts, guests, members), seconds)
        finally:
            server.terminate()
            server.wait()


async def _measured(
    settings: FleetSettings,
    monitor: int,
    process: int,
    before: dict[str, Any],
    size: tuple[int, int, int],
    seconds: float,
) -> dict[str, float]:
    hosts, guests, members = size
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        writers = [await stack.enter_async_context(connected(settings)) for _ in range(_CONNECTIONS)]
        where = host_and_port(settings.servers[0])
        readers = [(await loop.create_connection(_Reader, *where))[1] for _ in range(_CONNECTIONS)]
        await bucket.opened(writers[0])
        pools = max(1, hosts // members)
        for guest in range(guests):
            key = f"{bucket.SUBJECTS}{bucket.label_key('pool', f'p{guest % pools}', '*')}"
            readers[guest % _CONNECTIONS].subscribe(key, guest)
        await asyncio.gather(*(one.ready() for one in readers))
        subscribed = counters(monitor, process)
        until = loop.time() + 2 * bucket.REFRESH + seconds
        all_hosts = [document(number, members) for number in range(hosts)]
        for number, connection in enumerate(writers):
            if mine := all_hosts[number::_CONNECTIONS]:
                tasks.create_task(write(connection, mine, until))
        await asyncio.sleep(2 * bucket.REFRESH)  # all have been written, and the way is warm
        heard = -sum(one.heard for one in readers)
        begin, first = time.monotonic(), counters(monitor, process)
        await asyncio.sleep(seconds - 0.5)
        took_seconds, last = time.monotonic() - begin, counters(monitor, process)
        heard += sum(one.heard for one in readers)
        for one in readers:
            one.close()
    rate = {
        name: (last[name] - first[name]) / took_seconds for name in ("in_msgs", "in_bytes", "out_msgs", "out_bytes")
    }
    return {
        "hosts": hosts,
        "guests": guests,
        "members": members,
        "bytes of an entry": len(encode(all_hosts[0])),
        **{f"{name} per s": round(value) for name, value in rate.items()},
        "bytes heard per s": round(heard / took_seconds),
        "memory without anybody, MiB": round(before["resident"] / (1 << 20), 1),
        "with subscriptions, MiB": round(subscribed["resident"] / (1 << 20), 1),
        "at work, MiB": round(last["resident"] / (1 << 20), 1),
        "server's CPU, %": last["cpu"],
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m bench.directory", description="what the fleet's directory costs")
    parser.add_argument("--hosts", type=int, default=100)
    parser.add_argument("--guests", type=int, default=1000)
    parser.add_argument("--members", type=int, default=10, help="hosts of one label")
    parser.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args()
    print(json.dumps(asyncio.run(measure(given.hosts, given.guests, given.members, given.seconds)), indent=1))


if __name__ == "__main__":
    main()
