"""What was received is overwritten; that it works in whole processes, `tests/real/test_secrets_in_memory.py` shows."""

from __future__ import annotations

import asyncio
import ctypes
import socket

import pytest

from cardferry import wiping
from cardferry.wiping import Receiver, wipe_freed, wipe_soon


class Program(Receiver):
    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.lost = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        assert not any(wiping._buffer), "the buffer is overwritten before anybody acts on what came"
        self.got.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


async def test_what_comes_is_handed_on_and_kept_nowhere() -> None:
    near, far = socket.socketpair()
    loop = asyncio.get_running_loop()
    _, program = await loop.connect_accepted_socket(Program, near)
    with far:
        for piece in (b"secret", b"x" * 300_000, b"y"):
            await loop.run_in_executor(None, far.sendall, piece)
    await program.lost
    assert b"".join(program.got) == b"secret" + b"x" * 300_000 + b"y"


async def test_wiping_is_due_once_for_all_that_came(monkeypatch: pytest.MonkeyPatch) -> None:
    wiped: list[float] = []
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(wiping, "wipe_freed", lambda: wiped.append(loop.time()))
    for expected in (1, 2):
        for _ in range(100):
            wipe_soon()
        async with asyncio.timeout(10):
            while len(wiped) < expected:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.01)
    assert len(wiped) == 2


def test_what_was_freed_is_overwritten_although_more_was_freed_since() -> None:
    others = [bytes(30) for _ in range(5000)]  # so many that Python's pools of that size are full
    secret = b"%d" % (10**29 + 735192640000)
    place, size = id(secret), len(secret)
    del secret
    del others[::100]
    ours = ctypes.string_at(place, size + 32)
    assert b"73519264" in ours, "it is freed, and still there"
    wipe_freed()
    assert b"73519264" not in ctypes.string_at(place, size + 32)
