"""Connecting to a Unix socket, real ones."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from cardferry.readers.pcscd import unix_connector
from cardferry.readers.pcscd.connection import Connection
from cardferry.readers.pcscd.failure import NoPcscdError, Reason


class Client(asyncio.Protocol):
    def __init__(self) -> None:
        self.made = asyncio.Event()
        self.transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.made.set()


def listener(path: Path, backlog: int) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen(backlog)
    server.setblocking(False)
    return server


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def filled(path: Path) -> list[socket.socket]:
    """Connections, as many as the backlog takes."""
    waiting: list[socket.socket] = []
    while True:
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        try:
            client.connect(str(path))
        except BlockingIOError:
            client.close()
            return waiting
        waiting.append(client)


async def test_a_listening_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    client = Client()
    with listener(path, 5) as server:
        await unix_connector(str(path))(lambda: client)
        await client.made.wait()
        accepted, _ = server.accept()
        accepted.close()
    assert client.transport is not None
    client.transport.close()


async def test_a_full_backlog_is_queued_at(tmp_path: Path) -> None:
    """pcscd listens with a backlog of 1: ten guests that come at once must all get in."""
    path = tmp_path / "s"
    with listener(path, 0) as server:
        loop = asyncio.get_running_loop()
        waiting = await filled(path)
        clients = [Client() for _ in range(10)]
        accepted: list[socket.socket] = []
        async with asyncio.TaskGroup() as tasks:
            for client in clients:
                tasks.create_task(unix_connector(str(path))(lambda client=client: client))  # type: ignore[arg-type, misc]
            await asyncio.sleep(0.05)
            assert not any(client.made.is_set() for client in clients)
            while len(accepted) < len(clients) + len(waiting):
                connection, _ = await loop.sock_accept(server)
                accepted.append(connection)
        for client in clients:
            await client.made.wait()
            assert client.transport is not None
            client.transport.close()
    for connection in (*accepted, *waiting):
        connection.close()


async def test_giving_up_in_the_queue_leaves_nothing_open(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listener(path, 0) as server:
        waiting = await filled(path)
        before = open_files()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await unix_connector(str(path))(Client)
        loop = asyncio.get_running_loop()
        for _ in range(len(waiting) + 1):  # the thread that queues gets in as well, and closes
            connection, _ = await loop.sock_accept(server)
            connection.close()
        for client in waiting:
            client.close()
        async with asyncio.timeout(10):
            while open_files() > before - len(waiting):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("there", ["nothing", "dead", "file"])
async def test_nobody_there(tmp_path: Path, there: str) -> None:
    path = tmp_path / "s"
    if there == "dead":
        listener(path, 1).close()
    elif there == "file":
        path.touch()
    with pytest.raises(NoPcscdError) as caught:
        await Connection.open(unix_connector(str(path)))
    assert caught.value.reason is (Reason.NO_SOCKET if there == "nothing" else Reason.NOBODY_LISTENS)


async def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(NoPcscdError) as caught:
        await Connection.open(unix_connector("/tmp/" + "x" * 200))
    assert caught.value.reason is Reason.UNREACHABLE
