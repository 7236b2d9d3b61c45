"""What one program can take of our memory."""

from __future__ import annotations

from cardferry.manager.context import MAX_HANDLES
from cardferry.pcsc.constants import Protocol
from cardferry.pcsc.errors import ReturnCode
from tests.manager.desk import LEAVE, READER, SHARED, Desk, raises


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
