"""Programs that mean harm, or are broken: garbage, floods, replies that nobody reads, more of them than there is room.

Here the loop is the one of production: what is measured is what happens there.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import resource
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from cardferry.frontends.descriptors import TURNED_AWAY, possible_connections
from cardferry.frontends.pcsclite import PcscliteFrontend
from cardferry.frontends.pcsclite.connection import Connection
from cardferry.manager import LocalManager
from cardferry.pcsc.errors import ReturnCode
from cardferry.transports.listening import ListeningSocket
from cardferry.wire.pcsclite.server import ServerCodec
from tests.frontends.at_desk import MODERN, Program
from tests.frontends.library import BEGIN, ESTABLISH, STATES, VERSION
from tests.manager.desk import ATR, FakeReader

LOOPS = {"uvloop": uvloop.new_event_loop}
#: Bytes of a reply with 16 reader states.
STATES_SIZE = 16 * 184
#: Bytes of unread replies that we keep for a connection, besides what the kernel holds.
MOST_UNREAD = 256 << 10


@asynccontextmanager
async def front_at(folder: Path, **options: Any) -> AsyncIterator[tuple[PcscliteFrontend, Path]]:
    """A front with one reader and a card."""
    async with LocalManager([]) as manager:
        reader = FakeReader()
        manager.reader_added(reader)
        manager.card_inserted(reader, ATR)
        reader.empty = False
        with ListeningSocket(folder / "s") as listening:
            async with PcscliteFrontend(manager, listening, **options) as front:
                yield front, listening.path


async def until(condition: Callable[[], bool], witness: Program) -> None:
    """Wait for something that happens in this process, one round trip of another program after the other."""
    async with asyncio.timeout(10):
        while not condition():
            await witness.silence()


def unread(connection: Connection) -> int:
    """Bytes of replies that we keep for a program."""
    assert connection._transport is not None
    return connection._transport.get_write_buffer_size()


def garbage(numbers: random.Random) -> bytes:
    """What no library says: anything, or something that begins well."""
    version = struct.pack("<IIiiI", 12, 0x11, 4, 4, 0)
    kinds = [
        numbers.randbytes(numbers.randrange(8, 3000)),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        struct.pack("<II", 0xFFFFFFFF, 0x09),
        struct.pack("<II", 12, 0x99),
        struct.pack("<II", 13, 0x11) + bytes(13),
        version + struct.pack("<II", 32, 0x09) + struct.pack("<iIIIIIII", 1, 2, 16, 0xFFFFFFFF, 3, 16, 100, 0),
        version + numbers.randbytes(100),
        version[: numbers.randrange(1, 20)],
        struct.pack("<II", 280, 0x10) + bytes(272) + struct.pack("<II", 265, 0),
        b"",
    ]
    return numbers.choice(kinds)


class _Resources:
    """What a process has: file descriptors, tasks, objects, memory."""

    def __init__(self) -> None:
        gc.collect()
        self.descriptors = len(list(Path("/proc/self/fd").iterdir()))
        self.tasks = len(asyncio.all_tasks())
        self.objects = len(gc.get_objects())
        self.pages = int(Path("/proc/self/statm").read_text().split()[1])


async def test_thousand_garbage_connections_leave_the_process_as_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "cardferry")
    numbers = random.Random(4)
    async with front_at(tmp_path) as (front, path), Program(MODERN, path) as witness:
        await witness.establish()

        async def be_hostile(count: int) -> None:
            for _ in range(count):
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(garbage(numbers))
                if numbers.random() < 0.5:
                    writer.write_eof()
                    await reader.read()
                writer.close()
                await writer.wait_closed()
            await until(lambda: len(front.connections) == 1, witness)

        await be_hostile(100)
        before = _Resources()
        await be_hostile(1000)
        after = _Resources()
        assert after.descriptors == before.descriptors
        assert after.tasks == before.tasks
        assert after.objects - before.objects < 100
        assert (after.pages - before.pages) * resource.getpagesize() < 1 << 20


async def test_garbage_is_one_line_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with front_at(tmp_path) as (_, path), Program(MODERN, path) as program:
        program.write(b"\xff" * 100_000)
        assert await program.at_end()
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert f"process {os.getpid()}" in record.getMessage()


async def test_garbage_disturbs_nobody_else(tmp_path: Path) -> None:
    async with front_at(tmp_path) as (_, path), Program(MODERN, path) as good, Program(MODERN, path) as bad:
        card = await good.connected()
        await good.begin(card)
        bad.write(b"\xff" * 1000)
        assert await bad.at_end()
        assert await good.sending(card) == (2, 0)


async def test_program_that_does_not_read_its_replies_is_not_served_until_it_does(tmp_path: Path) -> None:
    async with front_at(tmp_path) as (front, path), AsyncExitStack() as stack:
        program = await stack.enter_async_context(Program(MODERN, path))
        other = await stack.enter_async_context(Program(MODERN, path))
        await program.establish()
        (connection,) = (each for each in front.connections if each._context is not None)
        count = 20_000  # 59 MB of replies, of which the program's end takes a few hundred kB
        program.write(struct.pack("<II", 0, STATES) * count)
        await until(lambda: connection._paused, other)
        await other.connected()  # others are served meanwhile
        assert unread(connection) < MOST_UNREAD
        for _ in range(count):
            await program.raw(STATES_SIZE)
        await program.silence()


async def test_flood_of_requests_is_taken_in_no_faster_than_it_is_answered(tmp_path: Path) -> None:
    async with front_at(tmp_path) as (front, path), Program(MODERN, path) as program, Program(MODERN, path) as other:
        card = await program.connected()
        (connection,) = (each for each in front.connections if each._context is not None)
        (reader,) = (slot.device.reader for slot in front.manager._slots.values())  # type: ignore[attr-defined]
        reader.gates["transmit"] = asyncio.Event()
        command = struct.pack("<IIiIIIIIII", 32, 0x09, card, 2, 16, 60_000, 3, 16, 65548, 0) + bytes(60_000)
        count = 300  # 18 MB
        program.write(command * count)
        await until(lambda: connection._transport is not None and not connection._transport.is_reading(), other)
        assert len(connection._requests) < 64
        reader.gates.pop("transmit").set()
        for _ in range(count):
            await program.hear("iIIIIIII")
            await program.raw(2)
        await program.silence()


async def test_flood_of_requests_has_a_little_of_each_pass_of_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = 0
    acknowledged = ServerCodec.acknowledged

    def counted(codec: ServerCodec, request: Any, rv: int = 0) -> bytes:
        nonlocal answered
        answered += 1
        return acknowledged(codec, request, rv)

    monkeypatch.setattr(ServerCodec, "acknowledged", counted)
    async with front_at(tmp_path) as (_, path), Program(MODERN, path) as program, asyncio.timeout(20):
        await program.establish()
        count, most = 5000, 0
        program.write(struct.pack("<IIiI", 8, BEGIN, 77, 0) * count)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(program.raw(8 * count))
            while answered < count:
                before = answered
                await asyncio.sleep(0)
                most = max(most, answered - before)
        assert most <= 64
        await program.silence()


async def test_more_programs_than_allowed_are_told_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with front_at(tmp_path, max_connections=3) as (front, path), AsyncExitStack() as stack:
        programs = [await stack.enter_async_context(Program(MODERN, path)) for _ in range(3)]
        for program in programs:
            await program.establish()
        for _ in range(2):
            async with Program(MODERN, path) as late:
                late.tell(VERSION, "iiI", 4, 4, 0)
                assert (await late.hear("iiI"))[-1] == ReturnCode.E_NO_MEMORY
                late.tell(ESTABLISH, "III", 0, 0, 0)
                assert await late.hear("III") == (0, 0, ReturnCode.E_NO_MEMORY)
                await programs[0].wait()
                assert await late.cancel(programs[0].context) == 0  # so much is possible
                assert await programs[0].event() == ReturnCode.E_CANCELLED
            await until(lambda: len(front.connections) == 3, programs[0])
        assert len([record for record in caplog.records if "turned away" in record.getMessage()]) == 1
        programs[1].hang_up()
        await until(lambda: len(front.connections) == 2, programs[0])
        async with Program(MODERN, path) as late:
            await late.establish()


async def test_many_more_programs_than_allowed_are_hung_up_on(tmp_path: Path) -> None:
    async with front_at(tmp_path, max_connections=3) as (front, path), AsyncExitStack() as stack:
        programs = [await stack.enter_async_context(Program(MODERN, path)) for _ in range(3 + TURNED_AWAY)]
        await programs[0].establish()
        async with Program(MODERN, path) as late:
            assert await late.at_end()
        await until(lambda: len(front.connections) == 3 + TURNED_AWAY, programs[0])
        await programs[0].silence()


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "possible"),
    [
        (1024, 524288, 524288, 65536 - 192),
        (1024, 4096, 4096, 4096 - 192),
        (256, 256, 256, 128),
        (100_000, 100_000, 100_000, 65536 - 192),
        (1024, resource.RLIM_INFINITY, 1 << 20, 65536 - 192),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, resource.RLIM_INFINITY, 65536 - 192),
    ],
)
def test_limit_of_file_descriptors_is_raised_as_far_as_allowed(
    soft: int, hard: int, raised: int, possible: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = [soft, hard]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.__setitem__(slice(None), new))
    assert possible_connections() == possible
    assert limits == [raised, hard]
