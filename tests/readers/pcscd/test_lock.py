"""pcscd's lock: asked for without waiting, waited for when others are there, never held longer than claimed."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import pytest

from cardferry.pcsc.constants import GET_FEATURE_REQUEST, Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.readers.base import ExecutedError
from cardferry.readers.pcscd.neighbours import CONNECTED, CONNECTING
from cardferry.readers.pcscd.reader import PcscdReader
from cardferry.wire.pcsclite.messages import BeginTransaction, EndTransaction, GetReadersState, Transmit
from tests.readers.pcscd.fake import LOCK_POLL, OTHER, FakePcscd, FakeReader
from tests.readers.pcscd.neighbour import quiet, slip_in, untold_reset
from tests.readers.pcscd.test_reader import SELECT, VERIFY, connected, failure, kinds, now, transmit

RTT = 0.05
BURST, GAP = CONNECTED.burst, CONNECTED.gap


async def transaction(reader: PcscdReader, *apdus: bytes) -> None:
    await reader.claim()
    for apdu in apdus:
        await transmit(reader, apdu)
    await reader.release()


def executed_inside(there: FakeReader) -> bool:
    """Whether each command ran while the lock was ours."""
    return all(owner > 0 for _, _, owner in there.executed)


# alone


@pytest.mark.parametrize("count", [1, 3, 10])
async def test_a_transaction_of_n_commands_takes_n_round_trips(count: int) -> None:
    _, there, reader = await connected(delay=RTT / 2)
    before = now()
    for _ in range(4):
        await transaction(reader, *[VERIFY] * count)
    assert now() - before == pytest.approx(4 * count * RTT)
    assert len(there.executed) == 4 * count
    assert executed_inside(there)
    await quiet(there)


async def test_the_lock_is_ours_from_claim_to_release_and_no_longer() -> None:
    _, there, reader = await connected()
    await reader.claim()
    await asyncio.sleep(0.01)
    assert there.owner > 0
    await asyncio.sleep(3600)
    assert there.owner > 0
    await reader.release()
    await asyncio.sleep(0.01)
    assert there.owner == 0


async def test_a_claim_without_a_command() -> None:
    _, there, reader = await connected(delay=RTT / 2)
    before = now()
    await transaction(reader)
    await transaction(reader)
    assert now() == before
    await quiet(there)
    assert there.owner == 0


async def test_disconnect_ends_a_claim() -> None:
    _, there, reader = await connected()
    await reader.claim()
    await reader.disconnect(Disposition.LEAVE)
    await quiet(there)
    assert there.owner == 0
    await reader.release()
    await reader.connect(ShareMode.SHARED, Protocol.ANY)
    await transmit(reader)
    await quiet(there)
    assert there.owner == 0


async def test_release_without_claim_sends_nothing() -> None:
    pcscd, _, reader = await connected()
    await reader.release()
    await asyncio.sleep(1)
    assert EndTransaction not in kinds(pcscd.dialled[0].requests)


# a local program was quicker; we did not know of it


async def test_refused_twice_the_command_waits_and_runs_once_inside() -> None:
    _, there, reader = await connected()
    there.lock()
    await reader.claim()
    asyncio.get_running_loop().call_later(5, there.unlock)
    before = now()
    assert await transmit(reader, VERIFY) == b"\x90\x00"
    assert 5 <= now() - before < 5 + 2 * LOCK_POLL
    assert there.commands == [VERIFY]
    assert executed_inside(there)
    await reader.release()
    await quiet(there)


@pytest.mark.parametrize("begin_time", [0.0, 0.01])
async def test_a_command_that_ran_when_the_lock_came_free_is_as_good_as_inside(begin_time: float) -> None:
    pcscd, there, reader = await connected()
    pcscd.begin_time = begin_time
    there.lock()
    await reader.claim()
    asyncio.get_running_loop().call_later(LOCK_POLL / 2, there.unlock)
    assert await transmit(reader, VERIFY) == b"\x90\x00"
    assert there.owner > 0
    assert await transmit(reader, VERIFY) == b"\x90\x00"
    assert there.commands == [VERIFY, VERIFY]
    assert there.executed[1][2] > 0
    await reader.release()
    await quiet(there)
    assert there.owner == 0


async def test_when_somebody_slips_in_behind_a_command_the_card_is_reset() -> None:
    _, there, reader = await connected()
    there.lock()
    await reader.claim()
    asyncio.get_running_loop().call_later(LOCK_POLL / 2, there.unlock)
    slip_in(there)
    with pytest.raises(ExecutedError) as caught:
        await transmit(reader, VERIFY)
    assert caught.value.code is ReturnCode.W_RESET_CARD
    assert [(what, owner > 0) for _, what, owner in there.executed] == [(VERIFY, False), ("reset", True)]
    assert await transmit(reader, VERIFY) == b"\x90\x00"
    assert there.executed[-1][2] > 0
    await reader.release()
    await quiet(there)
    assert there.owner == 0


async def test_a_reset_of_ours_whose_caller_was_cancelled_is_told_to_the_next_one() -> None:
    there, reader = await untold_reset()
    assert there.commands == [VERIFY]
    await reader.release()
    assert await failure(reader, SELECT) is ReturnCode.W_RESET_CARD
    assert await transmit(reader, SELECT) == b"\x90\x00"
    await quiet(there)
    assert there.owner == 0


@pytest.mark.parametrize("call", ["control", "attribute", "reset"])
async def test_other_calls_when_the_lock_comes_free(call: str) -> None:
    _, there, reader = await connected()
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "control": lambda: reader.control(GET_FEATURE_REQUEST, b"", 100),
        "attribute": lambda: reader.attribute(1),
        "reset": lambda: reader.reset(Disposition.RESET, Protocol.ANY),
    }
    there.lock()
    await reader.claim()
    asyncio.get_running_loop().call_later(LOCK_POLL / 2, there.unlock)
    await calls[call]()
    assert there.owner > 0
    await reader.release()
    await quiet(there)
    assert there.owner == 0


async def test_a_cancelled_command_behind_begin_leaves_the_count_right() -> None:
    for held_up in (False, True):
        _, there, reader = await connected(delay=RTT / 2)
        if held_up:
            there.lock()
            asyncio.get_running_loop().call_later(LOCK_POLL / 2 + RTT, there.unlock)
        await reader.claim()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(RTT / 4):
                await transmit(reader, VERIFY)
        await transmit(reader, SELECT)
        assert there.executed[-1][2] > 0
        await reader.release()
        await quiet(there)
        assert (there.owner, there.count) == (0, 0)


async def test_a_refused_begin_that_is_known_before_the_command() -> None:
    _, there, reader = await connected()
    there.lock()
    await reader.claim()
    await asyncio.sleep(2 * LOCK_POLL)
    there.unlock()
    assert await transmit(reader, VERIFY) == b"\x90\x00"
    assert executed_inside(there)
    assert there.commands == [VERIFY]


async def test_release_after_a_refused_begin_leaves_the_others_lock() -> None:
    pcscd, there, reader = await connected()
    there.lock()
    await reader.claim()
    await reader.release()
    await asyncio.sleep(1)
    assert there.owner == OTHER
    assert kinds(pcscd.dialled[0].requests).count(EndTransaction) == 1


async def test_begin_is_never_repeated_faster_than_pcscd_would_answer() -> None:
    pcscd, _, reader = await connected()
    hostile = pcscd.dialled[0]
    hostile.sleep = lambda seconds, then: then()  # type: ignore[method-assign]
    pcscd.script[BeginTransaction] = [ReturnCode.E_SHARING_VIOLATION] * 1000
    await reader.claim()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(10):
            await transmit(reader, VERIFY)
    assert kinds(hostile.requests).count(BeginTransaction) <= 10 / LOCK_POLL + 2


async def test_a_lock_that_somebody_else_has_although_it_should_be_ours() -> None:
    """A removal frees the lock without a word; another program may come before our next command."""
    _, there, reader = await connected()
    await reader.claim()
    await transmit(reader)
    there.exchange_card()
    there.lock()
    asyncio.get_running_loop().call_later(3, there.unlock)
    assert await failure(reader, VERIFY) is ReturnCode.W_REMOVED_CARD
    assert there.commands == [SELECT]


async def test_a_reset_does_not_hide_that_the_lock_is_somebody_elses() -> None:
    _, there, reader = await connected()
    await reader.claim()
    await transmit(reader)
    there.exchange_card()
    there.lock()
    asyncio.get_running_loop().call_later(3, there.unlock)
    with pytest.raises(PcscError) as caught:
        await reader.reset(Disposition.RESET, Protocol.ANY)
    assert caught.value.code is ReturnCode.W_REMOVED_CARD
    assert there.commands == [SELECT]


# others are known to be there


async def with_others(delay: float = 0.0) -> tuple[FakePcscd, FakeReader, PcscdReader]:
    pcscd, there, reader = await connected(delay=delay)
    there.others = 1
    await reader.connect(ShareMode.SHARED, Protocol.ANY)
    await asyncio.sleep(2 * delay)
    return pcscd, there, reader


async def test_with_others_a_claim_waits_for_the_lock() -> None:
    _, there, reader = await with_others(RTT / 2)
    before = now()
    await reader.claim()
    assert now() - before == pytest.approx(RTT)
    assert there.owner > 0
    there_since = now()
    await transmit(reader)
    assert now() - there_since == pytest.approx(RTT)
    await reader.release()
    await quiet(there)


async def test_a_cancelled_claim_takes_nothing_with_it() -> None:
    _, there, reader = await with_others()
    for moment in (0.05, 0.1, 0.15, 0.2):
        there.lock()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(moment):
                await reader.claim()
        there.unlock()
        await reader.release()
        await quiet(there)
        assert there.owner == 0


async def test_a_cancelled_claim_owes_nobody_a_pause() -> None:
    _, there, reader = await with_others()
    there.lock()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.35):
            await reader.claim()
    there.unlock()
    await asyncio.sleep(0.06)
    await reader.release()
    before = now()
    await reader.claim()
    assert now() == before


async def test_a_lock_that_comes_after_its_claim_was_cancelled_is_given_back() -> None:
    _, there, reader = await with_others(RTT / 2)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(RTT / 4):
            await reader.claim()
    await asyncio.sleep(RTT)
    assert there.owner == 0
    await reader.claim()
    assert there.owner > 0


async def test_a_claim_fails_when_others_have_reset_the_card() -> None:
    _, there, reader = await with_others()
    there.reset_by_other()
    with pytest.raises(PcscError) as caught:
        await reader.claim()
    assert caught.value.code is ReturnCode.W_RESET_CARD
    await quiet(there)
    assert there.owner == 0
    await transaction(reader, VERIFY)
    assert executed_inside(there)


async def test_others_who_came_without_a_word_are_seen_within_a_second() -> None:
    """pcscd tells of new handles late; the table is always right, and is looked at along with END and BEGIN."""
    pcscd, there, reader = await connected()
    there.others = 1
    before = now()
    while True:
        await transaction(reader, SELECT)
        await asyncio.sleep(0.01)
        if not reader._neighbours.alone(now()):
            break
    assert now() - before < 1.2
    looks = kinds(pcscd.dialled[0].requests).count(GetReadersState)
    assert looks <= 3


async def test_others_who_have_gone_are_forgotten() -> None:
    _, there, reader = await with_others(RTT / 2)
    there.others = 0
    for _ in range(30):
        await transaction(reader, SELECT)
    before = now()
    await transaction(reader, SELECT)
    assert now() - before == pytest.approx(RTT)


async def test_a_reader_beyond_the_sixteenth_keeps_what_is_known() -> None:
    pcscd, there, reader = await with_others()
    others = {f"Other {number}": pcscd.readers[there.name] for number in range(16)}
    pcscd.readers = {**others, **pcscd.readers}
    for reader_before in others:
        pcscd.readers[reader_before] = FakeReader(pcscd, reader_before)
    for _ in range(5):
        await transaction(reader, SELECT)
        await asyncio.sleep(0.5)
    assert not reader._neighbours.alone(now())


# politeness


def stretches(there: FakeReader) -> list[float]:
    """Times from one command to the next."""
    return [after - before for (before, *_), (after, *_) in itertools.pairwise(there.executed)]


async def test_local_programs_get_a_gap_within_each_second_of_continuous_use() -> None:
    _, there, reader = await with_others()
    there.apdu_time = 0.02
    begin = now()
    while now() - begin < 20:
        await transaction(reader, SELECT)
    gaps = [index for index, gap in enumerate(stretches(there)) if gap >= GAP]
    starts = [there.executed[0][0]] + [there.executed[index + 1][0] for index in gaps]
    ends = [there.executed[index][0] for index in gaps] + [there.executed[-1][0]]
    assert len(gaps) >= 20 / (BURST + GAP + 0.05) - 1
    assert all(end - start <= BURST + 0.03 for start, end in zip(starts, ends, strict=True))


async def test_alone_no_time_is_given_away() -> None:
    _, there, reader = await connected()
    there.apdu_time = 0.02
    begin = now()
    while now() - begin < 20:
        await transaction(reader, SELECT)
    assert len(there.executed) >= 0.97 * 20 / 0.02


async def test_a_local_program_that_connects_is_let_in() -> None:
    """It shows nowhere, and pcscd looks for it every 100 ms whether the lock is free."""
    _, there, reader = await connected()
    there.apdu_time = 0.02

    async def local() -> None:
        while there.owner:  # noqa: ASYNC110 - this is what pcscd does
            await asyncio.sleep(0.1)

    async def remote() -> None:
        while True:
            await transaction(reader, SELECT)

    async with asyncio.TaskGroup() as tasks:
        loop = tasks.create_task(remote())
        for _ in range(5):
            await asyncio.sleep(0.0073)
            asked = now()
            await tasks.create_task(local())
            assert now() - asked <= CONNECTING.burst + CONNECTING.gap + 0.03
        loop.cancel()


async def test_a_local_program_that_asks_every_200_ms_is_served_within_a_burst_and_a_gap() -> None:
    """libpcsclite's loop: a refused BEGIN takes 100 ms, then the library sleeps 100 ms."""
    _, there, reader = await with_others()
    there.apdu_time = 0.02
    waits: list[float] = []

    async def local() -> None:
        for _ in range(10):
            asked = now()
            while there.owner:  # noqa: ASYNC110 - this is what libpcsclite does
                await asyncio.sleep(0.2)
            waits.append(now() - asked)
            there.lock()
            await asyncio.sleep(0.02)
            there.unlock()
            await asyncio.sleep(0.5)

    async def remote() -> None:
        while True:
            await transaction(reader, SELECT)

    async with asyncio.TaskGroup() as tasks:
        loop = tasks.create_task(remote())
        await tasks.create_task(local())
        loop.cancel()
    assert len(waits) == 10
    assert max(waits) <= BURST + GAP + 0.2


# resets and removals inside a claim


async def test_after_a_reset_inside_a_claim_the_lock_is_taken_again() -> None:
    _, there, reader = await connected()
    await reader.claim()
    await transmit(reader, SELECT)
    there.owner = there.count = 0  # a race inside pcscd: another program had passed its check already
    there.reset_by_other()
    assert await failure(reader, VERIFY) is ReturnCode.W_RESET_CARD
    assert await transmit(reader, VERIFY) == b"\x90\x00"
    assert executed_inside(there)
    await reader.release()
    await quiet(there)


async def test_an_end_that_fails_because_of_a_reset_does_not_keep_the_lock() -> None:
    _, there, reader = await connected()
    await reader.claim()
    await transmit(reader, SELECT)
    there.handles = dict.fromkeys(there.handles, ReturnCode.W_RESET_CARD)
    await reader.release()
    await quiet(there)
    assert there.owner == 0
    assert there.handles == {}
    assert await failure(reader, VERIFY) is ReturnCode.W_RESET_CARD
    assert await transmit(reader, VERIFY) == b"\x90\x00"


async def test_a_reset_that_an_end_told_of_survives_a_connect() -> None:
    _, there, reader = await connected()
    await reader.claim()
    await transmit(reader, SELECT)
    there.handles = dict.fromkeys(there.handles, ReturnCode.W_RESET_CARD)
    await reader.release()
    await quiet(there)
    await reader.connect(ShareMode.SHARED, Protocol.ANY)
    assert await failure(reader, VERIFY) is ReturnCode.W_RESET_CARD
    assert await transmit(reader, VERIFY) == b"\x90\x00"


@pytest.mark.parametrize("claimed", [False, True])
async def test_an_end_that_fails_because_of_a_reset_with_calls_behind_it(claimed: bool) -> None:
    _, there, reader = await connected(delay=RTT / 2)
    await reader.claim()
    await transmit(reader, SELECT)
    there.handles = dict.fromkeys(there.handles, ReturnCode.W_RESET_CARD)
    await reader.release()
    if claimed:
        await reader.claim()
    assert await failure(reader, VERIFY) is ReturnCode.W_RESET_CARD
    assert await transmit(reader, VERIFY) == b"\x90\x00"
    if claimed:
        assert there.executed[-1][2] > 0
        await reader.release()
    await quiet(there)
    assert there.owner == 0
    assert len(there.handles) == 1


async def test_a_removed_card_ends_the_claim() -> None:
    _, there, reader = await connected()
    await reader.claim()
    await transmit(reader, SELECT)
    there.remove()
    reader.card_gone()
    there.insert()
    await reader.connect(ShareMode.SHARED, Protocol.ANY)
    await transmit(reader, SELECT)
    await quiet(there)
    assert there.owner == 0


async def test_a_reader_in_error_does_not_keep_the_lock() -> None:
    _, there, reader = await connected()
    await reader.claim()
    await asyncio.sleep(1)
    reader.card_gone()
    await quiet(there)
    assert there.owner == 0


async def test_reset_inside_a_claim_keeps_it() -> None:
    _, there, reader = await connected()
    await reader.claim()
    await reader.reset(Disposition.RESET, Protocol.ANY)
    await transmit(reader, VERIFY)
    assert executed_inside(there)
    await reader.release()
    await quiet(there)


async def test_connect_inside_a_claim_takes_the_lock_again() -> None:
    _, there, reader = await connected()
    await reader.claim()
    await reader.connect(ShareMode.SHARED, Protocol.ANY)
    await transmit(reader, VERIFY)
    assert executed_inside(there)
    await reader.release()
    await quiet(there)
    assert there.owner == 0


OK, BUSY, RESET, GONE = 0, ReturnCode.E_SHARING_VIOLATION, ReturnCode.W_RESET_CARD, ReturnCode.E_NO_SMARTCARD


@pytest.mark.parametrize(
    ("begin", "command", "second", "expected", "sent"),
    [
        (OK, OK, OK, None, 1),
        (OK, RESET, RESET, RESET, 1),
        (OK, GONE, OK, GONE, 1),
        (BUSY, OK, OK, None, 1),
        (BUSY, OK, BUSY, RESET, 1),
        (BUSY, OK, RESET, RESET, 1),
        (BUSY, BUSY, OK, None, 2),
        (BUSY, BUSY, BUSY, None, 2),
        (BUSY, BUSY, GONE, None, 2),
        (BUSY, RESET, RESET, RESET, 1),
        (BUSY, GONE, OK, GONE, 1),
        (BUSY, GONE, GONE, GONE, 1),
        (RESET, RESET, RESET, RESET, 1),
        (GONE, GONE, GONE, GONE, 1),
    ],
)
async def test_every_triple_of_answers(
    begin: int, command: int, second: int, expected: ReturnCode | None, sent: int
) -> None:
    """A command between two BEGINs, whatever becomes of the three."""
    pcscd, there, reader = await connected(delay=RTT / 2)
    pcscd.script = {BeginTransaction: [begin, second], Transmit: [command]}
    await reader.claim()
    if expected is None:
        assert await transmit(reader, VERIFY) == b"\x90\x00"
    else:
        assert await failure(reader, VERIFY) is expected
    requests = [request for request in pcscd.dialled[0].requests if isinstance(request, Transmit)]
    assert len(requests) == sent
    await transmit(reader, SELECT)
    assert there.executed[-1][2] > 0
    await reader.release()
    await quiet(there)
    assert (there.owner, there.count) == (0, 0)
