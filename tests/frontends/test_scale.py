"""Thousands of programs on one card, dozens of readers in one manager: on a real socket of a real process."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from cardferry.frontends.listening import ListeningSocket
from cardferry.frontends.pcsclite import PcscliteFrontend
from cardferry.manager import LocalManager
from cardferry.pcsc.constants import Protocol, ShareMode
from cardferry.readers.virtual import VirtualReaderSource
from cardferry.wire.pcsclite import messages as m
from cardferry.wire.pcsclite.client import ClientCodec

PROGRAMS = 2000
#: Bytes of memory that an idle context may cost.
MOST = 20 * 1024
R = TypeVar("R")


@dataclass
class Program:
    """A connection as libpcsclite has it, without libpcsclite."""

    connection: socket.socket
    codec: ClientCodec
    card: int = 0

    @classmethod
    def connect(cls, path: Path, minor: int = 4) -> Program:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(60)
        connection.connect(os.fspath(path))
        program = cls(connection, ClientCodec(minor=minor))
        program.ask(m.Version(4, minor), m.VersionReply)
        return program

    def ask(self, request: m.Request, kind: type[R]) -> R:
        self.connection.sendall(self.codec.send(request))
        while not (replies := self.codec.receive(self.connection.recv(65536))):
            pass
        (reply,) = replies
        assert isinstance(reply, kind)
        assert getattr(reply, "rv", 0) == 0
        return reply

    def open_card(self) -> None:
        context = self.ask(m.EstablishContext(0), m.ContextReply).context
        reader = self.ask(m.GetReadersState(), m.StatesReply).readers[0].name
        self.card = self.ask(m.Connect(context, reader, ShareMode.SHARED, Protocol.ANY), m.ConnectReply).card


@pytest.fixture
def folder() -> Iterator[Path]:
    """For sockets: pytest's own folders are too long."""
    with tempfile.TemporaryDirectory(prefix="scale-", dir="/tmp") as name:
        yield Path(name)


def memory(pid: int) -> int:
    """Resident memory of a process, in bytes."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def test_two_thousand_contexts_on_one_card_cost_at_most_20_kib_each_and_all_are_served(folder: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert hard == resource.RLIM_INFINITY or hard > 2 * PROGRAMS
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    path = folder / "s"
    command = [sys.executable, "-m", "cardferry", "attach", "virtual:", "--socket", str(path)]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder)}
    with ExitStack() as stack:
        server = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, env=environment))
        stack.callback(server.terminate)
        assert server.stdout is not None
        assert server.stdout.readline().startswith(b"ready")
        programs = []
        for number in range(PROGRAMS + 50):
            if number == 50:
                before = memory(server.pid)  # what the first ones cost once is there
            program = Program.connect(path)
            stack.callback(program.connection.close)
            program.open_card()
            programs.append(program)
        each = (memory(server.pid) - before) / PROGRAMS
        print(f"{each:.0f} bytes for each context")
        assert each <= MOST
        for program in programs[:: PROGRAMS // 100]:
            program.ask(m.BeginTransaction(program.card), m.Acknowledged)
            reply = program.ask(m.Transmit(program.card, Protocol.T1, bytes.fromhex("00a4040000")), m.TransmitReply)
            assert len(reply.response) >= 2
            program.ask(m.EndTransaction(program.card, 0), m.Acknowledged)


def test_64_readers_all_for_new_programs_and_the_first_16_for_old_ones(folder: Path) -> None:
    names = [f"Reader {number:02} 00 00" for number in range(64)]
    old, new = asyncio.run(_seen(folder / "s", names))
    assert old == names[:16]
    assert new == names


async def _seen(path: Path, names: list[str]) -> tuple[list[str], list[str]]:
    source = VirtualReaderSource()
    async with LocalManager([source]) as manager:
        await asyncio.sleep(0)
        for name in names:
            source.add_reader(name)
        with ListeningSocket(path) as listening:
            async with PcscliteFrontend(manager, listening):
                return await asyncio.to_thread(_names, path)


def _names(path: Path) -> tuple[list[str], list[str]]:
    old, new = Program.connect(path, 4), Program.connect(path, 6)
    with old.connection, new.connection:
        few = old.ask(m.GetReadersState(), m.StatesReply).readers
        assert new.ask(m.GetReadersStateSize(), m.StateCountReply).count >= 64
        all_of_them = new.ask(m.GetReadersStateArray(), m.StatesReply).readers
    return [reader.name for reader in few], [reader.name for reader in all_of_them]
