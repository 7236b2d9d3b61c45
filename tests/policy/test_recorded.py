"""Every call is noted, with its outcome, and nothing changes for the caller."""

from __future__ import annotations

from typing import Any, cast
from unittest.mock import AsyncMock, Mock

import pytest

from cardferry.pcsc.caller import by_host_itself
from cardferry.pcsc.constants import Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.interface import ResourceManager
from cardferry.pcsc.reply import DONE, Reply, answered, failed
from cardferry.policy.recorded import CallRecord, Recorded
from tests.callers import somebody


def a_card(**replies: Reply[Any]) -> AsyncMock:
    """A card with these replies."""
    card = AsyncMock()
    for call in ("begin", "end", "transmit"):
        setattr(card, call, Mock(return_value=replies.get(call, DONE)))
    return card


def a_manager(card: AsyncMock) -> ResourceManager:
    card.reader = "R"
    card.protocol = Protocol.T1
    context = AsyncMock()
    context.connect.return_value = card
    manager = AsyncMock()
    manager.open.return_value = context
    return cast("ResourceManager", manager)


async def test_a_conversation_is_noted_in_order_with_outcomes() -> None:
    card = a_card(transmit=answered(b"\x90\x00"))
    card.reconnect.return_value = Protocol.T1
    card.control.return_value = b""
    records: list[CallRecord] = []
    context = await Recorded(a_manager(card), records.append).open(somebody("gpg"))
    handle = await context.connect("R", ShareMode.SHARED, Protocol.ANY)
    await handle.begin()
    assert await handle.transmit(bytes.fromhex("0020008008") + b"123456\xff\xff", 2) == b"\x90\x00"
    await handle.end(Disposition.LEAVE)
    await handle.reconnect(ShareMode.SHARED, Protocol.ANY, Disposition.RESET)
    await handle.control(1, b"", 10)
    await handle.attribute(2)
    await handle.set_attribute(2, b"")
    await handle.status()
    await handle.disconnect(Disposition.LEAVE)
    await context.close()
    assert [(record.call, record.what, record.outcome) for record in records] == [
        ("establish context", "", ""),
        ("connect", "shared", "T1"),
        ("begin transaction", "", ""),
        ("transmit", "VERIFY 00 80, 8 bytes", "90 00"),
        ("end transaction", "leave", ""),
        ("reconnect", "shared, reset", "T1"),
        ("control", "code 0x1", "0 bytes"),
        ("get attribute", "0x2", ""),
        ("set attribute", "0x2", ""),
        ("status", "", ""),
        ("disconnect", "leave", ""),
        ("release context", "", ""),
    ]
    assert {record.program for record in records} == {"gpg"}
    assert {record.principal for record in records} == {"local-user:tester"}
    assert not any(record.by_host for record in records)


async def test_a_failure_is_noted_and_passed_on() -> None:
    card = a_card(begin=failed(PcscError(ReturnCode.W_REMOVED_CARD)))
    records: list[CallRecord] = []
    context = await Recorded(a_manager(card), records.append).open(somebody("gpg"))
    handle = await context.connect("R", ShareMode.SHARED, Protocol.ANY)
    with pytest.raises(PcscError) as caught:
        await handle.begin()
    assert caught.value.code is ReturnCode.W_REMOVED_CARD
    assert records[-1].outcome == "W_REMOVED_CARD"


async def test_what_the_host_does_by_itself_is_marked_as_its_own() -> None:
    records: list[CallRecord] = []
    context = await Recorded(a_manager(a_card(transmit=answered(b"\x90\x00"))), records.append).open(somebody("gpg"))
    handle = await context.connect("R", ShareMode.SHARED, Protocol.ANY)
    with by_host_itself():
        ahead = handle.transmit(bytes.fromhex("00c0000010"), 2)
    assert await handle.transmit(bytes.fromhex("00c0000010"), 2) == await ahead
    assert [record.by_host for record in records[2:]] == [True, False]


async def test_an_answer_that_comes_later_is_noted_when_it_comes() -> None:
    response = Reply[bytes]()
    records: list[CallRecord] = []
    context = await Recorded(a_manager(a_card(transmit=response)), records.append).open(somebody("gpg"))
    reply = (await context.connect("R", ShareMode.SHARED, Protocol.ANY)).transmit(bytes.fromhex("00b0000000"), 2)
    assert records[-1].call == "connect"
    response.resolve(b"\x6a\x82")
    assert reply.result() == b"\x6a\x82"
    assert records[-1].outcome.startswith("6A 82")
