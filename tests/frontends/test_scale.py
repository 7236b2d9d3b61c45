"""Two thousand programs on one card, in other processes, with the event loop of production."""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import uvloop

from cardferry.frontends.pcsclite import PcscliteFrontend
from tests.frontends.at_desk import MODERN, Program
from tests.frontends.test_hostile import front_at
from tests.manager.desk import READER

LOOPS = {"uvloop": uvloop.new_event_loop}
CROWD = Path(__file__).with_name("crowd.py")
#: Programs, and what one may take of our memory while it is idle, in bytes.
MANY = 2000
IDLE_CONTEXT = 20 << 10


def resident() -> int:
    """Bytes of memory that this process has."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def crowd(path: Path, count: int) -> Process:
    """So many programs that have connected and wait."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(CROWD), str(path), str(count), READER, stdin=PIPE, stdout=PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    return process


async def leave(process: Process, front: PcscliteFrontend, witness: Program) -> None:
    """They go, and the front has noticed."""
    await process.communicate(b"\n")
    assert process.returncode == 0
    async with asyncio.timeout(10):
        while len(front.connections) > 1:
            await witness.silence()


async def test_idle_context_takes_less_than_20_kb(tmp_path: Path) -> None:
    async with front_at(tmp_path) as (front, path), Program(MODERN, path) as witness:
        await witness.establish()
        await leave(await crowd(path, 50), front, witness)
        before = resident()
        programs = await crowd(path, MANY)
        taken = resident() - before
        assert front.status.clients == MANY + 1
        assert front.manager.snapshot.readers[0].sharing == MANY
        assert taken / MANY < IDLE_CONTEXT
        await leave(programs, front, witness)
        assert front.manager.snapshot.readers[0].sharing == 0


async def test_card_is_usable_among_two_thousand_programs(tmp_path: Path) -> None:
    async with front_at(tmp_path) as (front, path), Program(MODERN, path) as program:
        programs = await crowd(path, MANY)
        card = await program.connected()
        for _ in range(100):
            assert await program.begin(card) == 0
            assert await program.sending(card) == (2, 0)
            assert await program.end(card) == 0
        assert await program.reconnect(card, initialization=1) == 0  # which all are told
        await leave(programs, front, program)
