"""The link over real sockets in a real event loop: the same promises where time and the kernel have their say."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from cardferry.link import Guest, LinkServer
from cardferry.manager import LocalManager
from cardferry.readers.virtual import VirtualReaderSource
from cardferry.transports.base import Arrival, Pipe
from cardferry.transports.unix import UnixAddress
from tests.callers import TESTER
from tests.link.cards import CountingCard
from tests.link.desk import READER
from tests.link.test_breaks import count_in_transactions
from tests.transports.taking import taking


class Host2Guest:
    """A host that listens on a Unix socket, and all pipes that come in."""

    def __init__(self, host: LinkServer, tasks: asyncio.TaskGroup) -> None:
        self.host = host
        self.tasks = tasks
        self.pipes: list[Pipe] = []

    def take(self, arrival: Arrival) -> None:
        self.pipes.append(arrival.pipe)
        self.tasks.create_task(self.host.serve(arrival.pipe, TESTER, "guest"))


async def whole(folder: Path, breaks: int) -> None:
    address = UnixAddress(folder / "link")
    source, card = VirtualReaderSource(), CountingCard()
    chance = random.Random(breaks)
    async with (
        asyncio.timeout(60),
        LocalManager([source]) as manager,
        asyncio.TaskGroup() as tasks,
        LinkServer(manager) as host,
    ):
        source.add_reader(READER).insert(card)
        end = Host2Guest(host, tasks)
        async with taking(address, end.take), Guest(address.dial) as guest:
            await guest.ready()
            while not guest.snapshot.readers:
                await guest.changed(guest.snapshot.serial)
            answers: list[list[int]] = [[] for _ in range(8)]
            stop = asyncio.Event()

            async def program(mine: list[int]) -> None:
                while not stop.is_set():
                    await count_in_transactions(guest, 5, mine)

            async with asyncio.TaskGroup() as programs:
                for mine in answers:
                    programs.create_task(program(mine))
                for count in range(1, breaks + 1):
                    for _ in range(chance.randint(0, 300)):
                        await asyncio.sleep(0)
                    end.pipes[-1].abort()
                    while guest.status.resumes < count:
                        await guest._changes.wait()
                stop.set()
            assert all(mine and mine == sorted(mine) for mine in answers)
            assert sorted(answer for mine in answers for answer in mine) == list(range(1, card.count + 1))
            assert card.resets == 0
            assert guest.status.sessions == 1
        assert not host.status.guests


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_exactly_once_over_sockets_that_break(
    new_loop: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path
) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(whole(tmp_path, 30))
