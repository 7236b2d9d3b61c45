"""What is done without a task: when it may be, what comes of it, and how long the lock is kept."""

from __future__ import annotations

import asyncio

import pytest

from cardferry.pcsc.constants import MAX_APDU_SIZE, Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.readers.base import Rest
from cardferry.readers.pcscd.neighbours import CONNECTING, FRESH
from cardferry.readers.pcscd.reader import PcscdReader
from cardferry.wire.pcsclite.messages import BeginTransaction, EndTransaction, GetReadersState, Request, Transmit
from tests.readers.pcscd.fake import LOCK_POLL, FakePcscd, FakeReader
from tests.readers.pcscd.neighbour import quiet, slip_in, untold_reset
from tests.readers.pcscd.test_reader import SELECT, VERIFY, connected, kinds, now

OK = b"\x90\x00"


@pytest.fixture(autouse=True)
def form() -> None:
    """These tests choose the form themselves."""


class Sent:
    """A command that was sent at once, and what has come of it."""

    def __init__(self, reader: PcscdReader, apdu: bytes = SELECT, protocol: Protocol = Protocol.T1) -> None:
        self.answers: list[tuple[bytes, Rest | None]] = []
        self._left = False
        self._came = asyncio.Event()
        self._left = reader.transmit_at_once(apdu, protocol, self._answered)
        assert self._left

    def _answered(self, response: bytes, rest: Rest | None) -> None:
        assert self._left, "answered before it was sent"
        self.answers.append((response, rest))
        self._came.set()

    async def came(self) -> tuple[bytes, Rest | None]:
        """Wait for the one answer."""
        await self._came.wait()
        assert len(self.answers) == 1
        return self.answers[0]

    async def response(self) -> bytes:
        """It is simply the response."""
        response, rest = await self.came()
        assert rest is None
        return response

    async def rest(self) -> bytes:
        """There is more to do than to take the response, and that is done now."""
        response, rest = await self.came()
        assert response == b""
        assert rest is not None
        return await rest()

    async def failure(self) -> ReturnCode:
        """It has failed, which only the rest finds out."""
        with pytest.raises(PcscError) as caught:
            await self.rest()
        return caught.value.code


def refused(response: bytes, rest: Rest | None) -> None:
    raise AssertionError(f"an answer to what was not sent: {response!r} {rest!r}")


def leaves(reader: PcscdReader, apdu: bytes = SELECT) -> bool:
    """Whether a command would leave now."""
    return reader.transmit_at_once(apdu, Protocol.T1, refused)


def asked(pcscd: FakePcscd, kind: type[Request]) -> int:
    return kinds(pcscd.dialled[0].requests).count(kind)


async def settled(there: FakeReader) -> None:
    await quiet(there)
    assert (there.owner, there.count) == (0, 0)


# a command


async def test_alone_a_command_is_one_write_and_its_response() -> None:
    pcscd, there, reader = await connected()
    writes = len(pcscd.dialled[0].writes)
    assert await Sent(reader).response() == OK
    assert [kinds(write) for write in pcscd.dialled[0].writes[writes:]] == [[Transmit]]
    assert there.executed[0][1:] == (SELECT, 0)


async def test_begin_command_and_end_travel_together() -> None:
    pcscd, there, reader = await connected()
    assert reader.claim_at_once()
    writes = len(pcscd.dialled[0].writes)
    assert await Sent(reader).response() == OK
    assert reader.release_at_once()
    await settled(there)
    sent = [kinds(write) for write in pcscd.dialled[0].writes[writes:]]
    assert sent == [[BeginTransaction, Transmit, BeginTransaction], [EndTransaction, EndTransaction]]
    assert [owner > 0 for _, _, owner in there.executed] == [True]


async def test_inside_a_lock_that_is_known_to_be_ours_a_command_is_alone() -> None:
    pcscd, _, reader = await connected()
    assert reader.claim_at_once()
    await Sent(reader).response()
    await asyncio.sleep(0.01)
    writes = len(pcscd.dialled[0].writes)
    await Sent(reader).response()
    assert [kinds(write) for write in pcscd.dialled[0].writes[writes:]] == [[Transmit]]


async def test_nothing_is_sent_before_there_is_a_handle_or_after_it_has_gone() -> None:
    _, _, reader = await connected()
    await reader.disconnect(Disposition.LEAVE)
    assert not leaves(reader)
    assert not reader.claim_at_once()
    await reader.connect(ShareMode.SHARED, Protocol.ANY)
    assert await Sent(reader).response() == OK
    reader.close()
    assert not leaves(reader)
    assert not reader.claim_at_once()
    assert reader.release_at_once()


async def test_nothing_is_sent_through_a_handle_that_was_closed_because_of_a_reset() -> None:
    pcscd, there, reader = await connected()
    assert reader.claim_at_once()
    await Sent(reader).response()
    there.handles = dict.fromkeys(there.handles, ReturnCode.W_RESET_CARD)
    assert reader.release_at_once()
    await quiet(there)
    assert there.handles == {}
    requests = len(pcscd.dialled[0].requests)
    assert not leaves(reader)
    assert not reader.claim_at_once()
    assert len(pcscd.dialled[0].requests) == requests


async def test_a_reset_of_which_nobody_was_told_is_told_before_anything_is_sent() -> None:
    there, reader = await untold_reset()
    await reader.release()
    await asyncio.sleep(2)
    reader.table(there.record)
    assert reader._neighbours.alone(now())
    assert not leaves(reader)
    assert not reader.claim_at_once()
    with pytest.raises(PcscError) as caught:
        await reader.transmit(SELECT, Protocol.T1)
    assert caught.value.code is ReturnCode.W_RESET_CARD


async def test_what_is_too_long_does_not_leave() -> None:
    _, there, reader = await connected()
    assert not leaves(reader, bytes(MAX_APDU_SIZE + 1))
    there.response = lambda apdu: len(apdu).to_bytes(4, "big")
    assert await Sent(reader, bytes(MAX_APDU_SIZE)).response() == MAX_APDU_SIZE.to_bytes(4, "big")


async def test_when_many_requests_are_unanswered_nothing_more_leaves() -> None:
    pcscd, there, reader = await connected()
    pcscd.dialled[0].sleep(10, lambda: None)
    sent: list[Sent] = []
    while len(sent) < 100 and not (sent and reader._handle and reader._handle.crowded):
        sent.append(Sent(reader))
    assert len(sent) < 40
    assert not leaves(reader)
    assert not reader.claim_at_once()
    assert await asyncio.gather(*(each.response() for each in sent)) == [OK] * len(sent)
    assert await Sent(reader).response() == OK
    assert len(there.executed) == len(sent) + 1


async def test_a_claim_whose_lock_is_not_asked_for_is_no_case_for_a_command_at_once() -> None:
    """The lock was lost with a reset inside the claim: it must be taken first."""
    _, there, reader = await connected()
    await reader.claim()
    await reader.reset(Disposition.RESET, Protocol.ANY)
    there.owner = there.count = 0
    there.reset_by_other()
    assert await Sent(reader).failure() is ReturnCode.W_RESET_CARD
    assert not leaves(reader)
    assert await reader.transmit(SELECT, Protocol.T1) == OK
    assert there.executed[-1][2] > 0


async def test_another_protocol_in_force_is_used_and_raw_is_left_alone() -> None:
    pcscd, there, reader = await connected()
    there.protocol = Protocol.T0
    await reader.connect(ShareMode.SHARED, Protocol.ANY)
    await Sent(reader, protocol=Protocol.T1).response()
    await Sent(reader, protocol=Protocol.RAW).response()
    protocols = [request.protocol for request in pcscd.dialled[0].requests if isinstance(request, Transmit)]
    assert protocols == [Protocol.T0, Protocol.RAW]


# what comes instead of a response


async def test_refused_outside_a_claim_it_was_not_executed() -> None:
    _, there, reader = await connected()
    there.lock()
    assert await Sent(reader).failure() is ReturnCode.E_SHARING_VIOLATION
    assert there.executed == []
    there.unlock()
    assert not reader._neighbours.alone(now())
    assert await Sent(reader).response() == OK


async def test_refused_inside_a_claim_it_waits_and_runs_once() -> None:
    _, there, reader = await connected()
    there.lock()
    assert reader.claim_at_once()
    sent = Sent(reader, VERIFY)
    asyncio.get_running_loop().call_later(5, there.unlock)
    assert await sent.rest() == OK
    assert now() >= 1005
    assert [(what, owner > 0) for _, what, owner in there.executed] == [(VERIFY, True)]
    assert reader.release_at_once()
    await settled(there)


async def test_executed_when_the_lock_came_free_is_as_good_as_inside() -> None:
    _, there, reader = await connected()
    there.lock()
    assert reader.claim_at_once()
    sent = Sent(reader, VERIFY)
    asyncio.get_running_loop().call_later(LOCK_POLL / 2, there.unlock)
    assert await sent.rest() == OK
    assert there.commands == [VERIFY]
    assert there.owner > 0
    assert reader.release_at_once()
    await settled(there)


async def test_executed_outside_the_card_is_reset() -> None:
    _, there, reader = await connected()
    there.lock()
    assert reader.claim_at_once()
    sent = Sent(reader, VERIFY)
    asyncio.get_running_loop().call_later(LOCK_POLL / 2, there.unlock)
    slip_in(there)
    assert await sent.failure() is ReturnCode.W_RESET_CARD
    assert [(what, owner > 0) for _, what, owner in there.executed] == [(VERIFY, False), ("reset", True)]
    assert await Sent(reader, VERIFY).response() == OK
    assert there.executed[-1][2] > 0
    assert reader.release_at_once()
    await settled(there)


@pytest.mark.parametrize("claimed", [False, True])
async def test_after_a_reset_by_others_the_handle_is_a_fresh_one(claimed: bool) -> None:
    _, there, reader = await connected()
    there.reset_by_other()
    if claimed:
        assert reader.claim_at_once()
    assert await Sent(reader).failure() is ReturnCode.W_RESET_CARD
    assert there.executed == []
    assert await reader.transmit(SELECT, Protocol.T1) == OK
    await reader.release()
    await settled(there)
    assert len(there.handles) == 1


async def test_a_removed_card() -> None:
    _, there, reader = await connected()
    there.remove()
    assert await Sent(reader).failure() is ReturnCode.W_REMOVED_CARD


@pytest.mark.parametrize("response", [b"", b"\x90"])
async def test_a_response_shorter_than_a_status_word_is_passed_on(response: bytes) -> None:
    _, there, reader = await connected()
    there.response = lambda apdu: response
    assert await Sent(reader).response() == response


async def test_a_response_that_is_only_a_status_word() -> None:
    _, there, reader = await connected()
    there.response = lambda apdu: b"\x6d\x00"
    assert await Sent(reader).response() == b"\x6d\x00"


async def test_pcscd_goes_away_meanwhile() -> None:
    pcscd, there, reader = await connected()
    there.apdu_time = 1.0
    sent = Sent(reader)
    asyncio.get_running_loop().call_later(0.5, pcscd.stop)
    assert await sent.failure() is ReturnCode.E_READER_UNAVAILABLE
    assert not leaves(reader)


async def test_the_reader_goes_away_meanwhile() -> None:
    _, there, reader = await connected()
    there.apdu_time = 1.0
    sent = Sent(reader)
    asyncio.get_running_loop().call_later(0.5, reader.close)
    assert await sent.failure() is ReturnCode.E_READER_UNAVAILABLE


async def test_the_card_goes_away_meanwhile_and_the_claim_with_it() -> None:
    _, there, reader = await connected()
    there.apdu_time = 1.0
    assert reader.claim_at_once()
    sent = Sent(reader)
    await asyncio.sleep(0.5)
    there.remove()
    reader.card_gone()
    await sent.came()
    assert reader.release_at_once()
    there.insert()
    await reader.connect(ShareMode.SHARED, Protocol.ANY)
    there.apdu_time = 0.0
    assert await Sent(reader).response() == OK
    await settled(there)


async def test_what_breaks_behind_an_answer_disturbs_nobody_who_goes_on_from_it() -> None:
    """The answer and garbage come in one piece, and whoever gets the answer sends the next command from there."""
    pcscd, _, reader = await connected()
    connection = pcscd.dialled[0]
    reply = connection.reply
    connection.reply = lambda data: reply(data + b"\xff" * 40)  # type: ignore[method-assign]
    went_on: list[bool] = []

    def answered(response: bytes, rest: Rest | None) -> None:
        assert (response, rest) == (OK, None)
        went_on.append(reader.claim_at_once() or leaves(reader))

    assert reader.transmit_at_once(SELECT, Protocol.T1, answered)
    await asyncio.sleep(0.1)
    assert went_on == [False]


# a claim


@pytest.mark.parametrize("others", [0, 1])
async def test_a_claim_is_made_at_once_by_who_is_alone(others: int) -> None:
    pcscd, there, reader = await connected()
    there.others = others
    await reader.connect(ShareMode.SHARED, Protocol.ANY)
    await asyncio.sleep(0.01)
    begins = asked(pcscd, BeginTransaction)
    assert reader.claim_at_once() is (not others)
    await asyncio.sleep(0.01)
    assert asked(pcscd, BeginTransaction) == begins + (not others)


async def test_who_owes_a_pause_does_not_claim_at_once() -> None:
    _, there, reader = await connected()
    loop = asyncio.get_running_loop()
    began = loop.time()
    while loop.time() - began < CONNECTING.burst + 0.1:
        if not reader.claim_at_once():
            break
        await Sent(reader).response()
        await asyncio.sleep(0.02)
        assert reader.release_at_once()
        await asyncio.sleep(0.001)
    assert loop.time() - began == pytest.approx(CONNECTING.burst, abs=0.1)
    assert there.owner == 0
    before = now()
    await reader.claim()
    assert now() - before >= CONNECTING.gap - 0.01


async def test_a_release_without_a_claim_sends_nothing() -> None:
    pcscd, there, reader = await connected()
    assert reader.release_at_once()
    await settled(there)
    assert asked(pcscd, EndTransaction) == 0


# how long the lock is kept


async def test_the_lock_is_kept_when_a_claim_follows_in_the_same_moment() -> None:
    pcscd, there, reader = await connected()
    assert reader.claim_at_once()
    await Sent(reader).response()
    await asyncio.sleep(0.01)
    for _ in range(5):
        assert reader.release_at_once()
        assert reader.claim_at_once()
        await Sent(reader).response()
    assert asked(pcscd, EndTransaction) == 0
    begins = asked(pcscd, BeginTransaction)
    assert begins <= 2
    assert all(owner > 0 for _, _, owner in there.executed)
    assert reader.release_at_once()
    await settled(there)
    assert (asked(pcscd, BeginTransaction), asked(pcscd, EndTransaction)) == (begins, begins)


async def test_the_lock_goes_back_when_no_claim_follows() -> None:
    _, there, reader = await connected()
    assert reader.claim_at_once()
    await Sent(reader).response()
    assert reader.release_at_once()
    await asyncio.sleep(0.001)
    assert there.owner == 0
    assert reader.claim_at_once()
    await asyncio.sleep(0.001)
    assert there.owner > 0


async def test_releases_in_one_moment_give_the_lock_back_once() -> None:
    pcscd, there, reader = await connected()
    assert reader.claim_at_once()
    await Sent(reader).response()
    await asyncio.sleep(0.01)
    begins = asked(pcscd, BeginTransaction)
    for _ in range(3):
        assert reader.release_at_once()
        assert reader.release_at_once()
        assert reader.claim_at_once()
    assert reader.release_at_once()
    await settled(there)
    assert asked(pcscd, EndTransaction) == begins


@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize("at_once", [False, True])
async def test_a_command_right_after_a_release_is_none_of_the_transaction(answered: bool, at_once: bool) -> None:
    """The lock, asked for or ours, is on its way back: the command must not be taken for one that counts on it."""
    _, there, reader = await connected()
    assert reader.claim_at_once()
    if answered:
        await Sent(reader).response()
        await asyncio.sleep(0.01)
    assert reader.release_at_once()
    if at_once:
        assert await Sent(reader, VERIFY).response() == OK
    else:
        assert await reader.transmit(VERIFY, Protocol.T1) == OK
    assert there.commands[-1] == VERIFY
    assert "reset" not in there.commands
    await settled(there)


@pytest.mark.parametrize("call", ["control", "attribute", "reset"])
async def test_other_calls_right_after_a_release(call: str) -> None:
    _, there, reader = await connected()
    assert reader.claim_at_once()
    assert reader.release_at_once()
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
    assert reader.claim_at_once()
    await Sent(reader).response()
    assert reader.release_at_once()
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
        assert reader.claim_at_once()
        await Sent(reader).response()
        assert there.executed[-1][2] > 0
        assert reader.release_at_once()
        await settled(there)


async def test_with_others_the_lock_is_not_kept_although_a_claim_follows() -> None:
    pcscd, there, reader = await connected()
    assert reader.claim_at_once()
    await Sent(reader).response()
    await asyncio.sleep(0.01)
    reader._neighbours.seen(now())
    assert reader.release_at_once()
    assert not reader.claim_at_once()
    ends = asked(pcscd, EndTransaction)
    await reader.claim()
    assert asked(pcscd, EndTransaction) > ends
    assert there.owner > 0


async def test_a_coroutines_claim_in_the_same_moment_asks_anew() -> None:
    _, there, reader = await connected()
    assert reader.claim_at_once()
    await Sent(reader).response()
    assert reader.release_at_once()
    await reader.claim()
    assert await Sent(reader).response() == OK
    assert there.executed[-1][2] > 0
    await asyncio.sleep(0.01)
    assert there.owner > 0
    assert reader.release_at_once()
    await settled(there)


async def test_the_table_is_looked_at_once_a_second_although_the_lock_is_kept() -> None:
    pcscd, there, reader = await connected()
    there.apdu_time = 0.01
    looks = asked(pcscd, GetReadersState)
    assert reader.claim_at_once()
    began = now()
    while now() - began < 5.5 * FRESH:
        await Sent(reader).response()
        assert reader.release_at_once()
        assert reader.claim_at_once()
    assert 5 <= asked(pcscd, GetReadersState) - looks <= 12
    assert asked(pcscd, EndTransaction) <= 12
    there.others = 1
    began = now()
    while reader.claim_at_once():
        await Sent(reader).response()
        assert reader.release_at_once()
    assert now() - began < FRESH + 0.1


async def test_the_table_is_looked_at_along_with_a_claim_after_a_while() -> None:
    pcscd, _, reader = await connected()
    await asyncio.sleep(2 * FRESH)
    assert reader.claim_at_once()
    await Sent(reader).response()
    assert kinds(pcscd.dialled[0].writes[-1]) == [BeginTransaction, GetReadersState, Transmit, BeginTransaction]
