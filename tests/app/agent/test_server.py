"""The agent as a process of its own: what a hostile guest, or many, can do to it and to honest ones."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest
import uvloop

from cardferry.app.hosts.direct_link import linked_directly
from cardferry.link import Guest
from cardferry.pcsc.constants import Disposition, Protocol, ShareMode
from cardferry.transports.unix import UnixAddress
from tests.callers import somebody
from tests.link.cards import COUNT

pytestmark = pytest.mark.alone

READER = "Slow Reader"
LEAVE, SHARED = Disposition.LEAVE, ShareMode.SHARED
#: s that the card takes for a command.
CARD = 0.003
#: s of each stretch with, and without, the hostile guest.
STRETCH = 1.5


# --- one hostile guest, and three honest ones


async def _work(guest: Guest, until: float) -> list[float]:
    """A program that works with the card all the time; how long each transaction took, in s."""
    context = await guest.open(somebody("honest", 0, os.getpid()))
    card = await context.connect(READER, SHARED, Protocol.ANY)
    took = []
    while (began := time.monotonic()) < until:
        await card.begin()
        for _ in range(2):
            assert len(await card.transmit(COUNT, Protocol.T1)) == 6
        await card.end(LEAVE)
        took.append(time.monotonic() - began)
    await context.close()
    return took


def _p99(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.99)]


async def _soak(path: Path, stretches: int) -> tuple[list[float], list[float]]:
    """How long transactions take without, and with, a hostile guest, taken by turns."""
    took: tuple[list[float], list[float]] = ([], [])
    async with AsyncExitStack() as stack:
        guests = [await stack.enter_async_context(linked_directly(UnixAddress(path))) for _ in range(3)]
        for number in range(2 * stretches):
            hostile = number % 2
            process = None
            if hostile:
                words = ("-m", "tests.app.hostile", str(path), READER, f"{STRETCH + 0.5}")
                process = await asyncio.create_subprocess_exec(sys.executable, *words)
                await asyncio.sleep(0.5)
            until = time.monotonic() + STRETCH
            async with asyncio.TaskGroup() as tasks:
                works = [tasks.create_task(_work(guest, until)) for guest in guests]
            for work in works:
                took[hostile].extend(work.result())
            if process is not None:
                assert await process.wait() == 0
        for guest in guests:
            assert (guest.status.sessions, guest.status.resumes) == (1, 0), guest.status
    return took


def _one_hostile_and_three_honest(folder: Path, stretches: int) -> tuple[float, float]:
    """The p99 of honest transactions without, and with, a hostile guest, in s."""
    path = folder / "link"
    words = [sys.executable, "-m", "tests.app.slow_agent", str(path), READER, f"{CARD}"]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log) as agent,
    ):
        assert agent.stdin is not None
        assert agent.stdout is not None
        try:
            assert agent.stdout.readline() == b"ready\n"
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                quiet, hostile = runner.run(_soak(path, stretches))
            assert agent.poll() is None
        finally:
            agent.stdin.close()
            agent.wait(30)
    return _p99(quiet), _p99(hostile)


def test_a_hostile_guest_at_most_doubles_what_honest_ones_wait(tmp_path: Path) -> None:
    """What else this computer does can spoil a round; an agent that can be stopped spoils all of them."""
    for _ in range(3):
        quiet, hostile = _one_hostile_and_three_honest(tmp_path, 4)
        if hostile < 2 * quiet:
            return
    assert hostile < 2 * quiet


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_hostile_guest_at_most_doubles_what_honest_ones_wait_for_minutes(tmp_path: Path) -> None:
    quiet, hostile = _one_hostile_and_three_honest(tmp_path, 100)
    assert hostile < 2 * quiet


# --- more guests than there are descriptors


@contextmanager
def _agent(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """An agent that may have 64 descriptors, and where it takes streams."""
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(folder)}
    folder.chmod(0o700)
    door = folder / "door"
    words = f"{sys.executable} -m cardferry host --readers virtual: --listen unix:{door}"
    limited = ["sh", "-c", f"ulimit -n 64; exec {words}"]
    with (folder / "log").open("w") as log, subprocess.Popen(limited, env=environ, stderr=log) as agent:
        try:
            while not (found := list(folder.glob("cardferry/agent"))) or not door.exists():
                assert agent.poll() is None
                time.sleep(0.01)
            yield agent, found[0]
        finally:
            agent.terminate()
            agent.wait(30)


def _hand_over(at: Path) -> tuple[socket.socket, ...]:
    """Hand a stream over; the connection at which that was done, and the stream's other end."""
    connection, (near, far) = socket.socket(socket.AF_UNIX), socket.socketpair()
    connection.connect(str(at))
    with far:
        said = json.dumps({"name": "visitor"}).encode()
        socket.send_fds(connection, [said], [far.fileno(), far.fileno()])
    connection.setblocking(False)
    return connection, near


async def test_more_guests_than_descriptors_end_nothing(tmp_path: Path) -> None:
    with _agent(tmp_path) as (agent, at):
        async with linked_directly(UnixAddress(tmp_path / "door")) as honest:
            crowd = [_hand_over(at) for _ in range(20)]
            for _ in range(80):  # who says nothing costs a descriptor, too
                silent = socket.socket(socket.AF_UNIX)
                silent.connect(str(at))
                crowd.append((silent,))
            await asyncio.sleep(2)
            assert agent.poll() is None
            for one in crowd:
                for end in one:
                    end.close()
            async with asyncio.timeout(30):
                card = await (await honest.open(somebody("honest", 0, 1))).connect(
                    honest.snapshot.readers[0].name, SHARED, Protocol.ANY
                )
                assert await card.transmit(bytes.fromhex("00a4040000"), Protocol.T1)
                async with linked_directly(UnixAddress(tmp_path / "door")) as another:
                    assert another.snapshot.readers
        assert agent.poll() is None
