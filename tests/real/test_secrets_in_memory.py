"""A PIN is in the memory of no process of ours a moment after it has passed through, and none of them can be dumped."""

from __future__ import annotations

import asyncio
import os
import struct
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from cardferry.app.runtime.status_socket import running
from tests.frontends.at_desk import MODERN, Program
from tests.frontends.library import BEGIN, END, TRANSMIT
from tests.lab.memory import holds, limits, readable
from tests.lab.process import Running, wait_until

pytestmark = pytest.mark.real

#: No card's; as the test itself is no process that is looked into, it may keep it.
SECRET = b"73519264"
VERIFY = bytes.fromhex("0020008008") + SECRET
READ = bytes.fromhex("00cb3fff055c035fc10200")


class Computers:
    """Programs - attach ~~~~ agent - pcscd (which is an `attach`, too, with an agent) - reader - card.

    Each is a process of its own.

    Attributes:
        pids: of those that commands pass through; the `attach` that is a pcscd has lent its socket to its agent.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, Running] = {}
        self.pids: dict[str, int] = {}

    @property
    def programs(self) -> Path:
        """Where programs connect."""
        return self.folder / "programs"

    def start(self, name: str, *words: str) -> Running:
        """A command of ours that runs as long as the test."""
        runtime = self.folder / name
        runtime.mkdir(mode=0o700)
        command = readable([sys.executable, "-m", "cardferry", *words])
        started = Running(command, {**os.environ, "XDG_RUNTIME_DIR": str(runtime)})
        self.processes[name] = started
        self.pids[name] = started.pid
        return started

    def where(self, content: bytes) -> dict[str, int]:
        """Which of the processes have this in their memory, and how often."""
        forms = (content, content.hex().encode(), content.hex(" ").encode())
        found = {name: sum(holds(pid, form) for form in forms) for name, pid in self.pids.items()}
        return {name: count for name, count in found.items() if count}


@pytest.fixture(scope="module")
def computers() -> Iterator[Computers]:
    with TemporaryDirectory() as folder:
        one = Computers(Path(folder))
        try:
            pcscd, door, reader = (f"{folder}/{name}" for name in ("pcscd.comm", "door", "reader"))
            one.start("pcscd", "attach", f"vpicc:unix:{reader}", "--socket", pcscd).wait_for("^export ")
            (lent,) = running(Path(folder) / "pcscd" / "cardferry")
            one.pids["pcscd"] = lent.agent
            one.start("card", "card", "--dial", f"unix:{reader}").wait_for("^ready ")
            one.start("agent", "host", "--readers", f"pcscd:{pcscd}", "--listen", f"unix:{door}")
            wait_until(lambda: Path(door).exists(), "the agent listens")
            words = ("--socket", str(one.programs), "--record", f"{folder}/record", "-vv", f"unix:{door}")
            one.start("attach", "attach", *words).wait_for("^export ")
            yield one
        finally:
            for process in reversed(one.processes.values()):
                process.close()


@asynccontextmanager
async def program(computers: Computers) -> AsyncIterator[tuple[Program, int]]:
    """A program that is connected to the card: its library, and its handle."""
    async with Program(MODERN, computers.programs) as library:
        await library.establish()
        async with asyncio.timeout(20):
            while not (readers := await library.readers()) or not readers[0].atr:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        card, _ = await library.connect(readers[0].name)
        await library.transmit(card, 2, bytes.fromhex("00a4040005a000000308"))
        yield library, card


async def test_looking_finds_what_is_there(computers: Computers) -> None:
    async with program(computers) as (library, _):
        (reader,) = await library.readers()
        there = computers.where(reader.name.encode())
        assert set(there) == set(computers.pids) - {"card"}


@pytest.mark.parametrize("way", ["by itself", "in a transaction", "in pieces", "after a turn", "long"])
async def test_a_pin_that_has_passed_is_nowhere(computers: Computers, way: str) -> None:
    async with program(computers) as (one, card), program(computers) as (other, its_card):
        if way == "in a transaction":
            await one.ask(BEGIN, "II", card, 0)
        if way == "after a turn":
            await other.ask(BEGIN, "II", its_card, 0)
        command = VERIFY
        if way == "long":  # CHANGE REFERENCE DATA with more than anybody wants
            command = bytes.fromhex("00240080f0") + SECRET * 30
        async with asyncio.TaskGroup() as tasks:
            transmit = in_pieces if way == "in pieces" else Program.transmit
            verifying = tasks.create_task(transmit(one, card, 2, command))
            if way == "after a turn":
                await other.transmit(its_card, 2, READ)
                await other.ask(END, "IiI", its_card, 0, 0)
        assert verifying.result()[0] in (0x63, 0x69, 0x6A)  # wrong, blocked by now, or no PIN at all
        if way == "in a transaction":
            await one.transmit(card, 2, READ)
            await one.ask(END, "IiI", card, 0, 0)
        await asyncio.to_thread(wait_until, lambda: computers.where(SECRET) == {}, "the PIN is nowhere")


async def in_pieces(library: Program, card: int, protocol: int, apdu: bytes) -> bytes:
    """SCardTransmit, a byte at a time."""
    whole = struct.pack("<IIiIIIIIII", 32, TRANSMIT, card, protocol, 16, len(apdu), 3, 16, 65548, 0) + apdu
    for byte in whole:
        library._out.write(bytes([byte]))
        await asyncio.sleep(0.001)  # or the kernel would put them together again
    *_, size, rv = await library.hear("iIIIIIII")
    assert rv == 0
    return await library.raw(size)


def test_no_process_leaves_a_core(computers: Computers) -> None:
    """That it is not dumped in other ways either, `tests/app/test_limits.py` shows of the same function."""
    for name, pid in computers.pids.items():
        assert limits(pid)["Max core file size"][0] == "0", name
