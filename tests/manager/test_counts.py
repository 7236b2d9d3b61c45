"""What is counted of a reader, and what waiters are told from it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from cardferry.manager import LocalManager, Settings
from cardferry.manager.counts import Count, Counts
from cardferry.pcsc.caller import Principal, PrincipalKind
from cardferry.pcsc.errors import PcscError
from tests.callers import TESTER, somebody
from tests.manager.desk import APDU, LEAVE, READER, T1, Desk, FakeReader


def count(desk: Desk, principal: Principal = TESTER) -> Count:
    return desk.manager.counts.of(READER).of(principal)


async def test_commands_are_counted_with_their_time_at_the_card() -> None:
    async with Desk() as desk:
        alice = await desk.client("alice")
        desk.manager.counts.of(READER).clock = asyncio.get_running_loop().time
        desk.reader.takes["transmit"] = 0.25
        for _ in range(4):
            await alice.card.transmit(APDU, T1)
        assert (count(desk).commands, count(desk).card_seconds) == (4, 1.0)
        assert desk.manager.status.readers[0].commands == 4


async def test_turns_waits_and_hand_overs_are_counted() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        before = replace(count(desk))
        await alice.card.begin()
        waiting = desk.start(bob.card.begin())
        await asyncio.sleep(3)
        await alice.card.end(LEAVE)
        await waiting
        await asyncio.sleep(1)
        await bob.card.end(LEAVE)
        after = count(desk)
        assert after.turns - before.turns == 2
        assert after.turn_seconds - before.turn_seconds == 4.0
        assert (after.waits, after.wait_seconds) == (1, 3.0)
        assert after.hand_overs - before.hand_overs == 2  # bob was the last to connect
        assert after.evictions == 0


async def test_an_eviction_is_counted_of_who_was_evicted() -> None:
    async with Desk(settings=Settings(max_idle=5)) as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        await alice.card.begin()
        with pytest.raises(PcscError, match="W_RESET_CARD"):
            await bob.card.begin()
        assert count(desk).evictions == 1


async def test_a_reader_that_comes_again_goes_on_counting() -> None:
    async with LocalManager([]) as manager:
        reader = FakeReader()
        manager.reader_added(reader)
        manager.slot(READER).device.counts.answered(TESTER, 0.0)
        manager.reader_removed(reader)
        manager.reader_added(reader)
        assert manager.status.readers[0].commands == 1


async def test_each_waiter_is_told_its_place_and_how_long_it_will_take() -> None:
    async with Desk() as desk:
        alice, bob, carol = [await desk.client(name) for name in ("alice", "bob", "carol")]
        for _ in range(3):
            await alice.card.begin()
            await asyncio.sleep(4)
            await alice.card.end(LEAVE)
        await alice.card.begin()
        waiting = [desk.start(one.card.begin()) for one in (bob, carol)]
        await asyncio.sleep(1)
        told = [(one.client, one.place, one.expected) for one in desk.manager.status.readers[0].waiters]
        assert [one[:2] for one in told] == [("bob", 1), ("carol", 2)]
        assert [one[2] for one in told] == pytest.approx([3, 7])
        await asyncio.sleep(4)  # longer than usual
        assert [one.expected for one in desk.manager.status.readers[0].waiters] == [None, None]
        await alice.card.end(LEAVE)
        for one, begun in zip((bob, carol), waiting, strict=True):
            await begun
            await one.card.end(LEAVE)


def test_turns_that_take_no_time_do_not_hide_long_ones() -> None:
    counts = Counts()
    caller = somebody("alice", 1000, 1)
    assert counts.mean_turn is None
    for held in (10.0, *[0.0] * 50):
        counts.turn_ended(caller, 0.0, held)
    assert counts.mean_turn == pytest.approx(10)


def test_principals_beyond_the_bound_are_counted_together() -> None:
    counts = Counts()
    for number in range(1000):
        counts.of(Principal(PrincipalKind.TLS, f"guest{number}")).commands += 1
    by_principal = counts.by_principal.values
    assert len(by_principal) == 65
    assert by_principal["other"].commands == 1000 - 64
    assert sum(one.commands for one in by_principal.values()) == 1000
