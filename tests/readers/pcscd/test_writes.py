"""Begin, commands and end as they go out: in how many writes, how long the lock is kept, and what follows a release."""

from __future__ import annotations

import asyncio

import pytest

from cardferry.pcsc.constants import Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.reply import Reply
from cardferry.readers.pcscd.neighbours import CONNECTING, FRESH, RECENT
from cardferry.wire.pcsclite.messages import BeginTransaction, EndTransaction, GetReadersState, Request, Transmit
from tests.readers.pcscd.fake import FakePcscd, FakeReader
from tests.readers.pcscd.neighbour import quiet
from tests.readers.pcscd.test_reader import SELECT, VERIFY, connected, kinds, now

OK = b"\x90\x00"


def asked(pcscd: FakePcscd, kind: type[Request]) -> int:
    return kinds(pcscd.dialled[0].requests).count(kind)


async def settled(there: FakeReader) -> None:
    await quiet(there)
    assert (there.owner, there.count) == (0, 0)


async def test_alone_a_command_is_one_write_and_its_response() -> None:
    pcscd, there, reader = await connected()
    writes = len(pcscd.dialled[0].writes)
    assert await reader.transmit(SELECT, Protocol.T1) == OK
    assert [kinds(write) for write in pcscd.dialled[0].writes[writes:]] == [[Transmit]]
    assert there.executed[0][1:] == (SELECT, 0)


async def test_begin_command_and_end_travel_together() -> None:
    pcscd, there, reader = await connected()
    assert reader.claim().done()
    writes = len(pcscd.dialled[0].writes)
    assert await reader.transmit(SELECT, Protocol.T1) == OK
    assert reader.release().done()
    await settled(there)
    sent = [kinds(write) for write in pcscd.dialled[0].writes[writes:]]
    assert sent == [[BeginTransaction, Transmit, BeginTransaction], [EndTransaction, EndTransaction]]
    assert [owner > 0 for _, _, owner in there.executed] == [True]


async def test_inside_a_lock_that_is_known_to_be_ours_a_command_is_alone() -> None:
    pcscd, _, reader = await connected()
    assert reader.claim().done()
    await reader.transmit(SELECT, Protocol.T1)
    await asyncio.sleep(0.01)
    writes = len(pcscd.dialled[0].writes)
    await reader.transmit(SELECT, Protocol.T1)
    assert [kinds(write) for write in pcscd.dialled[0].writes[writes:]] == [[Transmit]]


async def test_when_many_requests_are_unanswered_nothing_more_leaves() -> None:
    pcscd, there, reader = await connected()
    pcscd.dialled[0].sleep(10, lambda: None)
    sent = [reader.transmit(SELECT, Protocol.T1) for _ in range(100)]
    connection = reader._connection
    assert connection is not None
    assert connection.full
    assert len(connection._replies) < 40
    assert await asyncio.gather(*sent) == [OK] * len(sent)
    assert await reader.transmit(SELECT, Protocol.T1) == OK
    assert len(there.executed) == len(sent) + 1


async def test_another_protocol_in_force_is_used_and_raw_is_left_alone() -> None:
    pcscd, there, reader = await connected()
    there.protocol = Protocol.T0
    await reader.connect(ShareMode.SHARED, Protocol.ANY)
    await reader.transmit(SELECT, Protocol.T1)
    await reader.transmit(SELECT, Protocol.RAW)
    protocols = [request.protocol for request in pcscd.dialled[0].requests if isinstance(request, Transmit)]
    assert protocols == [Protocol.T0, Protocol.RAW]


async def test_the_reader_goes_away_meanwhile() -> None:
    _, there, reader = await connected()
    there.apdu_time = 1.0
    sent = reader.transmit(SELECT, Protocol.T1)
    asyncio.get_running_loop().call_later(0.5, reader.close)
    with pytest.raises(PcscError) as caught:
        await sent
    assert caught.value.code is ReturnCode.E_READER_UNAVAILABLE


async def test_the_card_goes_away_meanwhile_and_the_claim_with_it() -> None:
    _, there, reader = await connected()
    there.apdu_time = 1.0
    assert reader.claim().done()
    sent = reader.transmit(SELECT, Protocol.T1)
    await asyncio.sleep(0.5)
    there.remove()
    reader.card_gone()
    await asyncio.wait((sent,))  # type: ignore[type-var]
    assert reader.release().done()
    there.insert()
    await reader.connect(ShareMode.SHARED, Protocol.ANY)
    there.apdu_time = 0.0
    assert await reader.transmit(SELECT, Protocol.T1) == OK
    await settled(there)


async def test_what_breaks_behind_an_answer_disturbs_nobody_who_goes_on_from_it() -> None:
    """The answer and garbage come in one piece, and whoever gets the answer sends the next command from there."""
    pcscd, _, reader = await connected()
    connection = pcscd.dialled[0]
    reply = connection.reply
    connection.reply = lambda data: reply(data + b"\xff" * 40)  # type: ignore[method-assign]
    went_on: list[Reply[bytes]] = []

    def answered(response: Reply[bytes]) -> None:
        assert response.result() == OK
        reader.claim()
        went_on.append(reader.transmit(VERIFY, Protocol.T1))

    reader.transmit(SELECT, Protocol.T1).then(answered)
    await asyncio.sleep(0.1)
    assert isinstance(went_on[0].error, PcscError)
    assert went_on[0].error.code is ReturnCode.E_READER_UNAVAILABLE


@pytest.mark.parametrize("others", [0, 1])
async def test_a_claim_waits_for_the_lock_unless_nobody_else_is_there(others: int) -> None:
    pcscd, there, reader = await connected()
    there.others = others
    await reader.connect(ShareMode.SHARED, Protocol.ANY)
    await asyncio.sleep(0.01)
    begins = asked(pcscd, BeginTransaction)
    assert reader.claim().done() is (not others)
    await asyncio.sleep(0.01)
    assert asked(pcscd, BeginTransaction) == begins + 1


async def test_who_owes_a_pause_does_not_claim_at_once() -> None:
    _, there, reader = await connected()
    loop = asyncio.get_running_loop()
    began = loop.time()
    while loop.time() - began < CONNECTING.burst + 0.1:
        if not reader.claim().done():
            break
        await reader.transmit(SELECT, Protocol.T1)
        await asyncio.sleep(0.02)
        assert reader.release().done()
        await asyncio.sleep(0.001)
    assert loop.time() - began == pytest.approx(CONNECTING.burst, abs=0.1)
    assert there.owner == 0
    before = now()
    await reader.claim()
    assert now() - before >= CONNECTING.gap - 0.01


async def test_a_release_without_a_claim_sends_nothing() -> None:
    pcscd, there, reader = await connected()
    assert reader.release().done()
    await settled(there)
    assert asked(pcscd, EndTransaction) == 0


async def test_the_lock_is_kept_when_a_claim_follows_in_the_same_moment() -> None:
    pcscd, there, reader = await connected()
    assert reader.claim().done()
    await reader.transmit(SELECT, Protocol.T1)
    await asyncio.sleep(0.01)
    for _ in range(5):
        assert reader.release().done()
        assert reader.claim().done()
        await reader.transmit(SELECT, Protocol.T1)
    assert asked(pcscd, EndTransaction) == 0
    begins = asked(pcscd, BeginTransaction)
    assert begins <= 2
    assert all(owner > 0 for _, _, owner in there.executed)
    assert reader.release().done()
    await settled(there)
    assert (asked(pcscd, BeginTransaction), asked(pcscd, EndTransaction)) == (begins, begins)


async def test_the_lock_goes_back_when_no_claim_follows() -> None:
    _, there, reader = await connected()
    assert reader.claim().done()
    await reader.transmit(SELECT, Protocol.T1)
    assert reader.release().done()
    await asyncio.sleep(0.001)
    assert there.owner == 0
    assert reader.claim().done()
    await asyncio.sleep(0.001)
    assert there.owner > 0


async def test_releases_in_one_moment_give_the_lock_back_once() -> None:
    pcscd, there, reader = await connected()
    assert reader.claim().done()
    await reader.transmit(SELECT, Protocol.T1)
    await asyncio.sleep(0.01)
    begins = asked(pcscd, BeginTransaction)
    for _ in range(3):
        assert reader.release().done()
        assert reader.release().done()
        assert reader.claim().done()
    assert reader.release().done()
    await settled(there)
    assert asked(pcscd, EndTransaction) == begins


@pytest.mark.parametrize("answered", [False, True])
async def test_a_command_right_after_a_release_is_none_of_the_transaction(answered: bool) -> None:
    """The lock, asked for or ours, is on its way back: the command must not be taken for one that counts on it."""
    _, there, reader = await connected()
    assert reader.claim().done()
    if answered:
        await reader.transmit(SELECT, Protocol.T1)
        await asyncio.sleep(0.01)
    assert reader.release().done()
    assert await reader.transmit(VERIFY, Protocol.T1) == OK
    assert there.commands[-1] == VERIFY
    assert "reset" not in there.commands
    await settled(there)


@pytest.mark.parametrize("call", ["control", "attribute", "reset"])
async def test_other_calls_right_after_a_release(call: str) -> None:
    _, there, reader = await connected()
    assert reader.claim().done()
    assert reader.release().done()
    if call == "control":
        assert await reader.control(1, b"echo", 100) == b"echo"
    elif call == "attribute":
        assert await reader.attribute(1) == b"value"
    else:
        await reader.reset(Disposition.RESET, Protocol.ANY)
    assert there.commands == ["reset"] * (call == "reset")
    await settled(there)


@pytest.mark.parametrize("how", ["disconnect", "connect", "card_gone", "close"])
async def test_a_lock_on_its_way_back_when_the_handle_goes(how: str) -> None:
    _, there, reader = await connected()
    assert reader.claim().done()
    await reader.transmit(SELECT, Protocol.T1)
    assert reader.release().done()
    match how:
        case "disconnect":
            await reader.disconnect(Disposition.LEAVE)
        case "connect":
            await reader.connect(ShareMode.SHARED, Protocol.ANY)
        case "card_gone":
            reader.card_gone()
        case "close":
            reader.close()
    await settled(there)
    if how != "close":
        await reader.connect(ShareMode.SHARED, Protocol.ANY)
        assert reader.claim().done()
        await reader.transmit(SELECT, Protocol.T1)
        assert there.executed[-1][2] > 0
        assert reader.release().done()
        await settled(there)


async def test_with_others_the_lock_is_not_kept_although_a_claim_follows() -> None:
    pcscd, there, reader = await connected()
    assert reader.claim().done()
    await reader.transmit(SELECT, Protocol.T1)
    await asyncio.sleep(0.01)
    reader._neighbours.seen(now())
    assert reader.release().done()
    assert not reader.claim().done()
    ends = asked(pcscd, EndTransaction)
    await reader.claim()
    assert asked(pcscd, EndTransaction) > ends
    assert there.owner > 0


async def test_the_table_is_looked_at_once_a_second_although_the_lock_is_kept() -> None:
    pcscd, there, reader = await connected()
    there.apdu_time = 0.01
    looks = asked(pcscd, GetReadersState)
    assert reader.claim().done()
    began = now()
    while now() - began < 5.5 * FRESH:
        await reader.transmit(SELECT, Protocol.T1)
        assert reader.release().done()
        assert reader.claim().done()
    assert 5 <= asked(pcscd, GetReadersState) - looks <= 12
    assert asked(pcscd, EndTransaction) <= 12
    there.others = 1
    began = now()
    while reader.claim().done():
        await reader.transmit(SELECT, Protocol.T1)
        assert reader.release().done()
    assert now() - began < FRESH + 0.1


async def test_the_table_is_looked_at_along_with_a_claim_after_a_while() -> None:
    pcscd, _, reader = await connected()
    await asyncio.sleep(2 * FRESH)
    await reader.claim()
    assert kinds(pcscd.dialled[0].writes[-1]) == [GetReadersState, BeginTransaction]
    while not reader._neighbours.stale(now()):
        await reader.transmit(SELECT, Protocol.T1)
        await asyncio.sleep(RECENT / 2)
    await reader.release()
    await asyncio.sleep(RECENT / 10)
    assert kinds(pcscd.dialled[0].writes[-1]) == [EndTransaction, GetReadersState]
    await reader.claim()
    await reader.transmit(SELECT, Protocol.T1)
    assert kinds(pcscd.dialled[0].writes[-1]) == [BeginTransaction, Transmit, BeginTransaction]
