"""The agent at work, in the tests' own process, and guests that come to it as through ssh."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from cardferry.app.agent.server import AgentSettings, serve
from cardferry.app.runtime.handoff import Handoff
from cardferry.app.runtime.paths import agent_path, runtime_folder
from cardferry.app.runtime.spawn import StartReport, decode
from cardferry.app.runtime.status_socket import Running, running
from cardferry.link import Guest
from cardferry.pcsc.caller import PrincipalKind
from cardferry.pcsc.constants import Protocol, ShareMode
from cardferry.pcsc.errors import UserError
from cardferry.transports.base import Pipe
from cardferry.transports.unix import adopt
from tests.app.handoffs import PATIENCE, Session
from tests.callers import somebody

SELECT = bytes.fromhex("00a4040005a000000308")
BUILD1 = Handoff("build1 at 10.0.0.9", principal=(PrincipalKind.SSH, "build1"))


class Agent:
    """The agent at work.

    Attributes:
        ended: done when it has left.
    """

    def __init__(self, ended: asyncio.Task[None], stack: AsyncExitStack) -> None:
        self.ended = ended
        self._stack = stack

    async def guest(self, handoff: Handoff) -> Guest:
        """A guest that comes through ssh."""

        async def dial() -> Pipe:
            session = Session(agent_path(runtime_folder()), handoff)
            self._stack.callback(session.close)
            assert await session.told() == StartReport(taken=True)
            return await adopt(session.stream, "the agent")

        guest = await self._stack.enter_async_context(Guest(dial))
        await guest.ready()
        return guest

    async def status(self) -> Running:
        (one,) = await asyncio.to_thread(running, runtime_folder())
        return one


@asynccontextmanager
async def agent(wanted: AgentSettings) -> AsyncIterator[Agent]:
    """The agent, once guests can come."""
    reading, writing = os.pipe()
    async with AsyncExitStack() as stack:
        task = asyncio.get_running_loop().create_task(serve(wanted, writing))
        try:
            with os.fdopen(reading, "rb") as ready:
                line = await asyncio.to_thread(ready.readline)
            decode(line).check()
            async with asyncio.timeout(PATIENCE), stack:
                yield Agent(task, stack)
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, UserError):
                await task


async def use(guest: Guest) -> None:
    """A program selects the card's application, and stays connected."""
    context = await guest.open(somebody("opensc-tool", 4711, 1000))
    (reader,) = guest.snapshot.readers
    card = await context.connect(reader.name, ShareMode.SHARED, Protocol.ANY)
    assert (await card.transmit(SELECT, Protocol.T1))[-2:] == b"\x90\0"


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that changes with the turns of the loop."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)
