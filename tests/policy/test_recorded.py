"""Every call is noted, with its outcome, and nothing changes for the caller."""

from __future__ import annotations

from typing import cast
from unittest.mock import AsyncMock

import pytest

from cardferry.pcsc.constants import Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.interface import Peer, ResourceManager
from cardferry.policy.recorded import CallRecord, Recorded


def a_manager(card: AsyncMock) -> ResourceManager:
    card.reader = "R"
    card.protocol = Protocol.T1
    context = AsyncMock()
    context.connect.return_value = card
    manager = AsyncMock()
    manager.open.return_value = context
    return cast("ResourceManager", manager)


async def test_a_conversation_is_noted_in_order_with_outcomes() -> None:
    card = AsyncMock()
    card.transmit.return_value = b"\x90\x00"
    card.reconnect.return_value = Protocol.T1
    card.control.return_value = b""
    records: list[CallRecord] = []
    context = await Recorded(a_manager(card), records.append).open(Peer("gpg"))
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
    assert {record.peer for record in records} == {"gpg"}


async def test_a_failure_is_noted_and_passed_on() -> None:
    card = AsyncMock()
    card.begin.side_effect = PcscError(ReturnCode.W_REMOVED_CARD)
    records: list[CallRecord] = []
    context = await Recorded(a_manager(card), records.append).open(Peer("gpg"))
    handle = await context.connect("R", ShareMode.SHARED, Protocol.ANY)
    with pytest.raises(PcscError) as caught:
        await handle.begin()
    assert caught.value.code is ReturnCode.W_REMOVED_CARD
    assert records[-1].outcome == "W_REMOVED_CARD"
