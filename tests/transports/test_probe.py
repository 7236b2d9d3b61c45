from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cardferry.transports.probe import Answer, ask_version, speaks_pcsclite
from tests.transports.queues import full_queue

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def answer_of(path: Path, serve: Serve, timeout: float = 5.0) -> Answer:
    server = await asyncio.start_unix_server(serve, path)
    async with server:
        return await ask_version(path, timeout)


async def test_whoever_speaks_has_answered(tmp_path: Path) -> None:
    asked = b""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked = await reader.readexactly(20)
        writer.write(b"\x04\0\0\0\x06\0\0\0\0\0\0\0")
        writer.close()

    assert await answer_of(tmp_path / "s", speak) is Answer.ANSWERED
    assert asked == bytes.fromhex("0c000000 11000000 04000000 06000000 00000000")


async def test_a_connection_closed_without_a_word(tmp_path: Path) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    assert await answer_of(tmp_path / "s", hang_up) is Answer.CLOSED


async def test_somebody_who_listens_and_says_nothing(tmp_path: Path) -> None:
    finished = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        finished.set()

    assert await answer_of(tmp_path / "s", say_nothing, timeout=0.05) is Answer.SILENT
    await finished.wait()


async def test_nobody_at_the_socket(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await ask_version(tmp_path / "nothing")


async def test_a_full_queue_is_told_from_nobody(tmp_path: Path) -> None:
    with full_queue(tmp_path / "s"):
        with pytest.raises(BlockingIOError):
            await ask_version(tmp_path / "s", 0.01)
        assert not await speaks_pcsclite(tmp_path / "s")


async def test_a_full_queue_may_have_room_in_a_moment(tmp_path: Path) -> None:
    """pcscd's own holds one connection."""
    with full_queue(tmp_path / "s") as listening:
        asking = asyncio.gather(ask_version(tmp_path / "s"), return_exceptions=True)
        await asyncio.sleep(0)
        waiting, _ = listening.accept()
        waiting.close()
        listening.setblocking(False)
        while True:
            connection, _ = await asyncio.get_running_loop().sock_accept(listening)
            with connection:
                connection.setblocking(False)
                if await asyncio.get_running_loop().sock_recv(connection, 20):
                    connection.send(bytes(12))
                    break
        assert list(await asking) == [Answer.ANSWERED]


@pytest.mark.parametrize(
    ("said", "speaks"),
    [
        (b"\x04\0\0\0\x06\0\0\0\0\0\0\0", True),
        (b"\x04\0\0\0\x04\0\0\0\x06\0\0\0", True),
        (b"\x04\0\0\0\x06", False),
        (b"220 mail.example.org ESMTP\r\n", False),
        (b"", False),
    ],
)
async def test_a_pcscd_is_told_from_others_by_its_answer(tmp_path: Path, said: bytes, speaks: bool) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        writer.close()

    async with await asyncio.start_unix_server(answer, tmp_path / "s"):
        assert await speaks_pcsclite(tmp_path / "s") is speaks
    assert not await speaks_pcsclite(tmp_path / "s")
