"""A reader that its driver cannot reach: nobody takes it for an empty one."""

from __future__ import annotations

import pytest

from cardferry.pcsc.constants import CardState, ShareMode
from cardferry.pcsc.errors import ReturnCode
from tests.manager.desk import APDU, DIRECT, EXCLUSIVE, LEAVE, OK, READER, SHARED, T1, Desk, quiet, raises


@pytest.mark.parametrize("share", [SHARED, EXCLUSIVE, DIRECT])
async def test_it_shows_and_connects_say_so(share: ShareMode) -> None:
    async with Desk() as desk:
        client = await desk.client("alice", None)
        desk.manager.reader_failed(desk.reader)
        assert desk.state.state is CardState.UNKNOWN
        assert desk.state.atr == b""
        assert desk.manager.status.readers[0].state == "unknown"
        with raises(ReturnCode.E_READER_UNAVAILABLE):
            await client.context.connect(READER, share, T1)
        desk.insert()
        await client.context.connect(READER, share, T1)


async def test_who_holds_it_is_told_and_the_next_one_as_well() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        await alice.card.begin()
        waiting = desk.start(bob.card.begin())
        await quiet()
        desk.manager.reader_failed(desk.reader)
        with raises(ReturnCode.W_REMOVED_CARD):
            await alice.card.transmit(APDU, T1)
        with raises(ReturnCode.W_REMOVED_CARD):
            await waiting
        with raises(ReturnCode.E_READER_UNAVAILABLE):
            await alice.card.reconnect(SHARED, T1, LEAVE)
        desk.insert()
        await alice.card.reconnect(SHARED, T1, LEAVE)
        assert await alice.card.transmit(APDU, T1) == OK


async def test_when_the_driver_is_back_without_a_card_the_reader_is_empty() -> None:
    async with Desk() as desk:
        client = await desk.client("alice", None)
        desk.manager.reader_failed(desk.reader)
        desk.remove()
        assert desk.state.state is CardState.ABSENT
        with raises(ReturnCode.E_NO_SMARTCARD):
            await client.context.connect(READER, SHARED, T1)


async def test_reports_about_an_unknown_reader_are_ignored() -> None:
    async with Desk() as desk:
        desk.manager.reader_failed(type(desk.reader)("stranger"))
        assert desk.state.state & CardState.PRESENT
