"""Every call of the interface across the link, and what it costs in round trips."""

from __future__ import annotations

from cardferry.pcsc.constants import GET_FEATURE_REQUEST, Attribute
from tests.link.cards import COUNT
from tests.link.desk import ALICE, ANY, LEAVE, READER, SHARED, T1, Desk

DELAY = 0.025


async def test_a_card_is_used_from_afar() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        assert [reader.name for reader in guest.snapshot.readers] == [READER]
        context = await guest.open(ALICE, 1.0)
        card = await context.connect(READER, SHARED, ANY)
        assert (card.reader, card.protocol) == (READER, T1)
        await card.begin()
        assert await card.transmit(COUNT, T1) == b"\0\0\0\1\x90\0"
        assert await card.transmit(COUNT, T1) == b"\0\0\0\2\x90\0"
        await card.end(LEAVE)
        assert await card.attribute(Attribute.ATR_STRING) == desk.card.atr
        assert await card.control(GET_FEATURE_REQUEST, b"", 256) == b""
        await card.status()
        await card.reconnect(SHARED, ANY, LEAVE)
        await card.disconnect(LEAVE)
        await context.close()
