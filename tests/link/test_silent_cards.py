"""A card that does not answer keeps only itself busy."""

from __future__ import annotations

import asyncio

import pytest

from cardferry.pcsc.constants import Protocol
from cardferry.pcsc.reply import Reply
from tests.link.cards import COUNT
from tests.link.desk import ALICE, ANY, LEAVE, READER, SHARED, T1, Desk
from tests.virtual_time import quiet

#: s that a manager waits for its cards at the end, and a little.
FAREWELL = 6.0


def reader_is_silent(desk: Desk) -> list[Reply[bytes]]:
    """From now on commands stay at the card; returns the replies that it owes."""
    asked: list[Reply[bytes]] = []

    def transmit(apdu: bytes, protocol: Protocol) -> Reply[bytes]:
        asked.append(Reply())
        return asked[-1]

    desk.reader.transmit = transmit  # type: ignore[method-assign]
    return asked


@pytest.mark.parametrize("ends", [False, True], ids=["in its transaction", "after its end"])
@pytest.mark.parametrize("given_up", [False, True], ids=["waiting", "given up"])
async def test_a_context_closes_although_its_card_does_not_answer(given_up: bool, ends: bool) -> None:
    async with asyncio.timeout(600.0), Desk() as desk:
        context = await (await desk.guest()).open(ALICE, 1.0)
        card = await context.connect(READER, SHARED, ANY)
        await card.begin()
        await card.transmit(COUNT, T1)
        asked = reader_is_silent(desk)
        transmit = card.transmit(COUNT, T1)
        await quiet()
        assert len(asked) == 1
        if given_up:
            transmit.cancel()
        if ends:
            await card.end(LEAVE)
            await asyncio.sleep(0.01)
        await context.close()
        await asyncio.sleep(0.01)
        assert not desk.manager.contexts, "whoever has gone is gone, whatever the card does"
        assert asked[0].done(), "nobody waits for the card any more"
        await quiet()
        assert transmit.done()
        assert desk.host.status.guests[0].waiting == 0
        await (await (await desk.guest()).open(ALICE, 1.0)).connect(READER, SHARED, ANY)
        assert desk.card.resets == (0 if ends else 1), "nobody inherits what was begun, and had not ended"


async def test_a_host_stops_although_a_card_does_not_answer() -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(600.0), Desk() as desk:
        card = await (await (await desk.guest()).open(ALICE, 1.0)).connect(READER, SHARED, ANY)
        await card.begin()
        await card.end(LEAVE)
        await card.transmit(COUNT, T1)
        asked = reader_is_silent(desk)
        transmit = card.transmit(COUNT, T1)
        await quiet()
        assert len(asked) == 1
        transmit.cancel()
        began = loop.time()
    assert loop.time() - began < FAREWELL
