"""What one program can take of our memory."""

from __future__ import annotations

import asyncio

import pytest

from cardferry.manager.context import MAX_HANDLES
from cardferry.pcsc.constants import Protocol
from cardferry.pcsc.errors import ReturnCode
from tests.manager.desk import APDU, ATR, LEAVE, READER, SHARED, T1, Desk, FakeReader, raises


async def test_a_program_that_never_disconnects_is_told_so() -> None:
    async with Desk() as desk:
        client = await desk.client()
        for _ in range(MAX_HANDLES - 1):
            await client.context.connect(READER, SHARED, Protocol.T1)
        with raises(ReturnCode.E_NO_MEMORY):
            await client.context.connect(READER, SHARED, Protocol.T1)
        assert desk.sharing == MAX_HANDLES
        await client.card.disconnect(LEAVE)
        await client.context.connect(READER, SHARED, Protocol.T1)
        other = await desk.client("another")
        await other.card.begin()
        await other.card.end(LEAVE)


async def test_two_thousand_contexts_take_turns_on_one_card() -> None:
    async with Desk() as desk:
        desk.reader.takes["transmit"] = 0.001
        clients = [await desk.client(str(number), patience=None) for number in range(2000)]
        served: list[int] = []

        async def turn(number: int) -> None:
            card = clients[number].card
            await card.begin()
            await card.transmit(APDU, T1)
            served.append(number)
            await card.end(LEAVE)

        start = asyncio.get_running_loop().time()
        calls = [desk.start(turn(number)) for number in range(len(clients))]
        for call in calls:
            await call
        assert served == list(range(2000))
        assert asyncio.get_running_loop().time() - start == pytest.approx(2.0)


async def test_64_readers_are_used_at_the_same_time() -> None:
    async with Desk() as desk:
        readers = [FakeReader(f"Reader {number:02X} 01") for number in range(64)]
        clients = []
        for reader in readers:
            desk.manager.reader_added(reader)
            desk.manager.card_inserted(reader, ATR)
            reader.empty = False
            reader.takes["transmit"] = 1.0
            client = await desk.client(reader.name, None)
            client.handle = await client.context.connect(reader.name, SHARED, T1)
            clients.append(client)
        assert len(desk.manager.snapshot.readers) == 65
        start = asyncio.get_running_loop().time()
        await asyncio.gather(*(client.card.transmit(APDU, T1) for client in clients))
        assert asyncio.get_running_loop().time() - start == pytest.approx(1.0)
        for reader in readers:
            assert reader.misuse == []
