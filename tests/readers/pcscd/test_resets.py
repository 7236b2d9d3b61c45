"""Programs of the host's that come, reset the card and go: a claim tells of it, and not the first command after it."""

from __future__ import annotations

import asyncio

import pytest

from cardferry.pcsc.constants import GET_FEATURE_REQUEST, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.readers.pcscd.neighbours import RECENT, WARY
from cardferry.readers.pcscd.reader import PcscdReader
from tests.readers.pcscd.fake import FakePcscd
from tests.readers.pcscd.neighbour import quiet
from tests.readers.pcscd.test_lock import RTT, transaction, with_others
from tests.readers.pcscd.test_reader import NAME, SELECT, VERIFY, connected, failure, now, transmit


async def claim_time(reader: PcscdReader) -> float:
    """How long a claim takes, in s."""
    before = now()
    await reader.claim()
    await reader.release()
    return now() - before


async def test_a_reset_by_a_program_that_has_come_and_gone_is_told_by_the_claim() -> None:
    _, there, reader = await connected()
    await transaction(reader, SELECT)
    await asyncio.sleep(1.1 * RECENT)
    there.reset_by_other()
    with pytest.raises(PcscError) as caught:
        await reader.claim()
    assert caught.value.code is ReturnCode.W_RESET_CARD
    await transaction(reader, VERIFY)
    assert there.commands == [SELECT, VERIFY]
    await quiet(there)


async def test_a_claim_is_not_waited_for_while_nobody_can_have_come() -> None:
    _, _, reader = await connected(delay=RTT / 2)
    await transaction(reader, SELECT)
    await asyncio.sleep(0.9 * RECENT)
    assert await claim_time(reader) == 0
    await transaction(reader, SELECT)
    await asyncio.sleep(1.1 * RECENT)
    assert await claim_time(reader) == pytest.approx(RTT)
    assert await claim_time(reader) == 0


async def test_nobody_can_have_come_while_the_lock_was_ours() -> None:
    _, _, reader = await connected(delay=RTT / 2)
    await reader.claim()
    await transmit(reader)
    await asyncio.sleep(2 * RECENT)
    await reader.release()
    await asyncio.sleep(0.9 * RECENT)
    assert await claim_time(reader) == 0


async def test_a_control_is_no_sign_that_nobody_has_come() -> None:
    _, there, reader = await connected()
    await transaction(reader, SELECT)
    await asyncio.sleep(1.1 * RECENT)
    there.reset_by_other()
    await reader.control(GET_FEATURE_REQUEST, b"", 100)
    with pytest.raises(PcscError):
        await reader.claim()


async def test_who_has_reset_the_card_is_expected_again_for_a_while() -> None:
    _, there, reader = await connected(delay=RTT / 2)
    there.reset_by_other()
    assert await failure(reader) is ReturnCode.W_RESET_CARD
    since = now()
    while now() - since < WARY + 1:
        await transaction(reader, SELECT)
        await asyncio.sleep(RTT)
        if now() - since < WARY:
            assert await claim_time(reader) >= RTT - 1e-6
        await asyncio.sleep(0.5)
    await transaction(reader, SELECT)
    await asyncio.sleep(RTT)
    assert await claim_time(reader) == 0


async def test_who_was_seen_to_leave_may_have_reset_the_card() -> None:
    _, there, reader = await with_others(RTT / 2)
    await transaction(reader, SELECT)
    await asyncio.sleep(RTT)
    there.others = 0
    reader.table(there.record)
    assert await claim_time(reader) == pytest.approx(RTT)
    await asyncio.sleep(RTT)
    assert await claim_time(reader) == 0


async def test_that_there_are_others_and_that_there_are_none_is_told() -> None:
    pcscd = FakePcscd(4)
    there = pcscd.add_reader(NAME)
    there.insert()
    told: list[bool] = []
    reader = PcscdReader(NAME, pcscd.dial, 4, lambda _: None, lambda _, present: told.append(present))
    await reader.connect(ShareMode.SHARED, Protocol.ANY)
    await transaction(reader, SELECT)
    assert told == []
    there.others = 1
    reader.table(there.record)
    assert told == [True]
    there.others = 0
    reader.table(there.record)
    assert told == [True]  # it may have reset the card
    await transaction(reader, SELECT)
    assert told == [True, False]
    await quiet(there)
    there.reset_by_other()
    assert await failure(reader) is ReturnCode.W_RESET_CARD
    await transaction(reader, SELECT)
    assert told == [True, False, True]
    await asyncio.sleep(WARY)
    await transaction(reader, SELECT)
    assert told == [True, False, True, False]
