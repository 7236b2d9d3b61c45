"""Messages with open files: whole whatever the pieces, and nothing is left open."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import msgspec
import pytest

from cardferry.app.runtime.conversation import Conversation

PATIENCE = 10.0


class Word(msgspec.Struct, frozen=True, tag=True):
    text: str


class Number(msgspec.Struct, frozen=True, tag=True):
    value: int


Message = Word | Number


class End:
    """One end, and what it has heard."""

    def __init__(self, connection: socket.socket, early: bytes = b"") -> None:
        self.heard: list[tuple[Message, list[int]]] = []
        self.more = asyncio.Event()
        self.talk: Conversation[Message] = Conversation(connection, Message, self._hear, early)

    def _hear(self, message: Message, descriptors: list[int]) -> None:
        self.heard.append((message, descriptors))
        self.more.set()

    async def until(self, count: int) -> list[Message]:
        async with asyncio.timeout(PATIENCE):
            while len(self.heard) < count:
                self.more.clear()
                await self.more.wait()
        return [message for message, _ in self.heard]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_messages_and_files_arrive_together_and_in_order(tmp_path: Path) -> None:
    before = descriptors()
    one, two = (End(connection) for connection in socket.socketpair())
    for number in range(20):
        path = tmp_path / str(number)
        path.write_text(f"content {number}")
        with path.open("rb") as file:
            one.talk.send(Word(str(number)), [file.fileno()] * (number % 3))
    one.talk.send(Number(7))
    two.talk.send(Word("\udc80 answer"))
    assert await two.until(21) == [*(Word(str(number)) for number in range(20)), Number(7)]
    for message, found in two.heard[:-1]:
        number = int(message.text)  # type: ignore[union-attr]
        assert [os.pread(one, 100, 0) for one in found] == [f"content {number}".encode()] * (number % 3)
        for each in found:
            os.close(each)
    assert await one.until(1) == [Word("\udc80 answer")]
    one.talk.close()
    async with asyncio.timeout(PATIENCE):
        await two.talk.over
    two.talk.close()
    assert descriptors() == before


async def test_more_than_the_socket_holds_waits_unless_it_can_be_missed() -> None:
    near, far = socket.socketpair()
    one = End(near)
    for _ in range(200):
        one.talk.send(Word("x" * 10_000), missable=True)
    one.talk.send(Number(1))
    two = End(far)
    async with asyncio.timeout(PATIENCE):
        while not any(isinstance(message, Number) for message, _ in two.heard):
            two.more.clear()
            await two.more.wait()
    assert 20 < len(two.heard) < 150
    one.talk.close()
    two.talk.close()


@pytest.mark.parametrize(
    "said",
    [
        b"\xff\n", b"{}\n", b"[]\n", b'{"message":{"type":"Word","text":"x"},"descriptors":2}\n',
        b'{"message":{"type":"Word"},"descriptors":0}\n', b'{"message":{"type":"Word","text":"x"},"descriptors":-1}\n',
        b"[" * 100_000 + b"\n", b"x" * (17 << 20),
    ],
    ids=lambda said: said[:30],
)  # fmt: skip
async def test_what_nobody_understands_ends_it_with_the_files_that_came(said: bytes) -> None:
    before = descriptors()
    near, far = socket.socketpair()
    two = End(far)
    socket.send_fds(near, [said[:1]], [near.fileno()])
    near.setblocking(False)
    sending = asyncio.get_running_loop().sock_sendall(near, said[1:])
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(sending)
        await two.talk.over
        task.cancel()
    assert two.heard == []
    two.talk.close()
    near.close()
    assert descriptors() == before


async def test_what_came_before_is_heard_first() -> None:
    near, far = socket.socketpair()
    two = End(far, b'{"message":{"type":"Number","value":1},"descriptors":0}\n{"message":{"type":"Num')
    two.talk.read_early()
    near.send(b'ber","value":2},"descriptors":0}\n')
    assert await two.until(2) == [Number(1), Number(2)]
    two.talk.close()
    near.close()
