"""A command that was passed straight through keeps only the card busy, not the context, the guest or the host."""

from __future__ import annotations

import asyncio

import pytest

from cardferry.pcsc.constants import Protocol
from cardferry.readers.base import Answered
from tests.link.desk import ALICE, ANY, LEAVE, READER, SHARED, T1, Desk
from tests.virtual_time import quiet

APDU = bytes.fromhex("00a40000023f00")
#: s that a manager waits for its cards at the end, and a little.
FAREWELL = 6.0


class SilentCard:
    """What a reader does at once whose card does not answer."""

    def __init__(self, desk: Desk) -> None:
        self.asked: list[Answered] = []
        desk.reader.transmit_at_once = self.transmit_at_once  # type: ignore[method-assign]

    def transmit_at_once(self, apdu: bytes, protocol: Protocol, answered: Answered) -> bool:
        self.asked.append(answered)
        return True


def patience() -> asyncio.Timeout:
    """What does not end by itself shall end all the same."""
    return asyncio.timeout(600.0)


@pytest.mark.parametrize("ends", [False, True], ids=["in its transaction", "an end waits behind the command"])
async def test_a_context_closes_although_its_card_does_not_answer(ends: bool) -> None:
    async with patience(), Desk() as desk:
        context = await (await desk.guest()).open(ALICE, 1.0)
        card = await context.connect(READER, SHARED, ANY)
        await card.begin()
        await card.transmit(APDU, int(T1))
        silent = SilentCard(desk)
        transmit = desk.start(card.transmit(APDU, int(T1)))
        await quiet()
        assert silent.asked
        transmit.cancel()
        if ends:
            await card.end(LEAVE)
            await asyncio.sleep(0.01)
        await context.close()
        await asyncio.sleep(0.01)
        assert not desk.manager.contexts, "whoever has gone is gone, whatever the card does"
        silent.asked[0](b"\x90\x00", None)
        await quiet()
        assert desk.host.status.guests[0].waiting == 0
        await (await (await desk.guest()).open(ALICE, 1.0)).connect(READER, SHARED, ANY)
        assert desk.card.resets == 1, "nobody inherits what was begun, and had not ended"


async def test_a_host_stops_although_a_card_does_not_answer() -> None:
    loop = asyncio.get_running_loop()
    async with patience(), Desk() as desk:
        card = await (await (await desk.guest()).open(ALICE, 1.0)).connect(READER, SHARED, ANY)
        await card.begin()
        await card.end(LEAVE)
        await card.transmit(APDU, int(T1))
        silent = SilentCard(desk)
        transmit = desk.start(card.transmit(APDU, int(T1)))
        await quiet()
        assert silent.asked
        transmit.cancel()
        began = loop.time()
    assert loop.time() - began < FAREWELL
