"""A reader goes and comes back before anybody has looked: the table is the same, the handles are dead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

import pytest

from cardferry.manager import LocalManager
from cardferry.manager.card import LocalCard
from cardferry.manager.context import LocalContext
from cardferry.pcsc.constants import Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.readers.pcscd.source import PcscdSource
from cardferry.wire.pcsclite.messages import Status
from tests.callers import somebody
from tests.readers.pcscd.fake import FakePcscd, FakeReader
from tests.readers.pcscd.test_source import LEVELS, A

SELECT = bytes.fromhex("00a40000023f00")


@asynccontextmanager
async def held(pcscd: FakePcscd) -> AsyncIterator[tuple[LocalManager, FakeReader, LocalCard]]:
    """A manager at that pcscd; a program holds a handle all the time, as ssh-agent and scdaemon do."""
    there = pcscd.add_reader(A)
    there.insert()
    async with LocalManager([PcscdSource(pcscd.dial, "the lab", chance=lambda: 0.5)]) as manager:
        await asyncio.sleep(1)
        agent = await connected(manager, "agent")
        assert await agent.transmit(SELECT, Protocol.T1) == b"\x90\x00"
        yield manager, there, agent


async def connected(manager: LocalManager, name: str) -> LocalCard:
    context = await manager.open(somebody(name), 1.0)
    return await context.connect(A, ShareMode.SHARED, Protocol.ANY)


async def code(card: LocalCard) -> ReturnCode:
    with pytest.raises(PcscError) as caught:
        await card.transmit(SELECT, Protocol.T1)
    return caught.value.code


async def works(manager: LocalManager) -> None:
    """Somebody new has no trouble at all."""
    card = await connected(manager, "somebody new")
    await card.begin()
    assert await card.transmit(SELECT, Protocol.T1) == b"\x90\x00"
    await card.end(Disposition.LEAVE)
    await card.disconnect(Disposition.LEAVE)


@LEVELS
@pytest.mark.parametrize("delay", [0.0, 0.025])
async def test_an_event_is_enough_to_notice_it(minor: int, delay: float) -> None:
    pcscd = FakePcscd(minor, delay)
    async with held(pcscd) as (manager, there, agent):
        there.replug()
        pcscd.signal()
        await asyncio.sleep(1)
        await works(manager)
        assert await code(agent) is ReturnCode.E_READER_UNAVAILABLE
        await agent.disconnect(Disposition.LEAVE)
        again = await cast("LocalContext", agent.state.context).connect(A, ShareMode.SHARED, Protocol.ANY)
        assert await again.transmit(SELECT, Protocol.T1) == b"\x90\x00"
        assert await code(agent) is ReturnCode.E_INVALID_HANDLE


@pytest.mark.parametrize("how", ["transmit", "begin", "control", "reset"])
async def test_without_an_event_the_next_command_notices_it(how: str) -> None:
    pcscd = FakePcscd(4)
    async with held(pcscd) as (manager, there, agent):
        there.replug()
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "transmit": lambda: agent.transmit(SELECT, Protocol.T1),
            "control": lambda: agent.control(1, b"", 10),
            "reset": lambda: agent.reconnect(ShareMode.SHARED, Protocol.ANY, Disposition.RESET),
        }
        if how == "begin":
            await agent.begin()
        with pytest.raises(PcscError) as caught:
            await calls["transmit" if how == "begin" else how]()
        assert caught.value.code is ReturnCode.E_READER_UNAVAILABLE
        await asyncio.sleep(1)
        for _ in range(20):
            await works(manager)
        assert await code(agent) is ReturnCode.E_READER_UNAVAILABLE


async def test_a_handle_that_lives_is_asked_for_once_an_event_and_nobody_notices() -> None:
    pcscd = FakePcscd(4)
    async with held(pcscd) as (manager, there, agent):
        connection = pcscd.connection_of(there)
        await agent.begin()
        for count in (1, 2, 3):
            pcscd.signal()
            await asyncio.sleep(1)
            assert sum(isinstance(request, Status) for request in connection.requests) == count
        assert await agent.transmit(SELECT, Protocol.T1) == b"\x90\x00"
        await agent.end(Disposition.LEAVE)
        await works(manager)


async def test_a_reader_that_stays_away_is_gone() -> None:
    pcscd = FakePcscd(4)
    async with held(pcscd) as (manager, _, agent):
        pcscd.remove_reader(A)
        await asyncio.sleep(1)
        assert manager.snapshot.readers == ()
        assert await code(agent) is ReturnCode.E_READER_UNAVAILABLE
        pcscd.add_reader(A).insert()
        await asyncio.sleep(1)
        await works(manager)
