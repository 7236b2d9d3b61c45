"""Who has a card and who waits, as people are told: what has lasted for a moment, and seldom."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from cardferry.manager.use import LASTING, PAUSE
from cardferry.pcsc.reader_state import Use
from tests.manager.desk import APDU, LEAVE, RESET, T1, Desk, quiet

SEEN = LASTING + 0.01


def used(desk: Desk) -> Use | None:
    """What people are told."""
    use = desk.state.use
    assert use is None or isinstance(use, Use)
    return use


def words(use: Use | None) -> tuple[str | None, list[str]] | None:
    """Holder and queue."""
    if use is None:
        return None
    return None if use.holder is None else use.holder.client, [user.client for user in use.waiting]


async def test_who_has_the_card_is_told_when_that_has_lasted_and_once() -> None:
    async with Desk() as desk:
        alice = await desk.client("alice")
        loop = asyncio.get_running_loop()
        await alice.card.begin()
        began = loop.time()
        assert used(desk) is None
        snapshot = await desk.manager.changed(desk.manager.snapshot.serial)
        assert loop.time() - began == pytest.approx(LASTING)
        assert words(used(desk)) == ("alice", [])
        use = used(desk)
        assert use is not None
        assert use.holder is not None
        assert (use.holder.since, use.holder.principal) == (began, "local-user:tester")
        await asyncio.sleep(3600)
        await alice.card.transmit(APDU, T1)
        assert desk.manager.snapshot is snapshot, "nothing is told while nothing changes"
        await alice.card.end(LEAVE)
        await asyncio.sleep(SEEN)
        assert used(desk) is None


async def test_turns_that_pass_quickly_are_not_told_and_cost_no_more_than_a_look_now_and_then() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        await quiet()
        serial = desk.manager.snapshot.serial
        looks = 0
        look = desk.slot.use._look

        def counted() -> None:
            nonlocal looks
            looks += 1
            look()

        desk.slot.use._look = counted  # type: ignore[method-assign]
        for _ in range(1000):
            for client in (alice, bob):
                await client.card.begin()
                await client.card.transmit(APDU, T1)
                await client.card.end(LEAVE)
            await asyncio.sleep(0.001)
        assert desk.manager.snapshot.serial == serial
        assert 3 <= looks <= 1.0 / LASTING + 1
        await asyncio.sleep(1)
        looks = 0
        await asyncio.sleep(3600)
        assert looks == 0, "no timer runs while nobody uses the card"


async def test_the_queue_is_told_by_places_and_at_most_so_often() -> None:
    async with Desk() as desk:
        clients = [await desk.client(name) for name in ("alice", "bob", "carol", "dave")]
        alice, *others = clients
        await alice.card.begin()
        waiting = []
        for client in others:
            waiting.append(desk.start(client.card.begin()))
            await asyncio.sleep(0.1)
        await asyncio.sleep(SEEN + PAUSE)
        assert words(used(desk)) == ("alice", ["bob", "carol", "dave"])
        told: list[float] = []

        async def watch() -> None:
            snapshot = desk.manager.snapshot
            while True:
                snapshot = await desk.manager.changed(snapshot.serial)
                told.append(asyncio.get_running_loop().time())

        watching = desk.start(watch())
        await alice.card.end(LEAVE)
        for client, begun in zip(others, waiting, strict=True):
            await begun
            await asyncio.sleep(0.3)
            await client.card.end(LEAVE)
        await asyncio.sleep(2)
        watching.cancel()
        assert used(desk) is None
        assert 1 <= len(told) <= 4
        assert all(after - before >= PAUSE - 0.01 for before, after in itertools.pairwise(told))


async def test_who_waits_with_pauses_keeps_its_wait_and_who_has_gone_is_not_told_for_ever() -> None:
    """libpcsclite is refused after a second, and comes back; its place is kept for so long."""
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob", patience=1.0)
        await alice.card.begin()
        first = asyncio.get_running_loop().time()
        waits = set()
        for _ in range(5):
            refused = desk.start(bob.card.begin())
            await asyncio.sleep(1.1)
            assert refused.code is not None
            use = used(desk)
            assert use is not None
            waits.add((use.waiting[0].wait, use.waiting[0].since))
        assert waits == {(int(first * 1000), first)}
        await asyncio.sleep(desk.manager.settings.ticket_life + PAUSE + 0.1)
        assert words(used(desk)) == ("alice", [])
        await alice.card.end(LEAVE)


async def test_while_a_program_of_the_host_has_the_card_the_owner_of_the_turn_waits() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice", patience=1.0), await desk.client("bob")
        began = asyncio.get_running_loop().time()
        desk.reader.local_begin()
        for _ in range(3):
            refused = desk.start(alice.card.begin())
            await asyncio.sleep(0.1)
            behind = desk.start(bob.card.begin())
            await asyncio.sleep(0.85)
            assert words(used(desk)) == ("a program of the host itself, at its pcscd", ["alice", "bob"])
            use = used(desk)
            assert use is not None
            assert use.waiting[0].since == began, "its wait has not begun anew"
            assert use.holder is not None
            assert not use.holder.ours
            behind.cancel()
            await asyncio.sleep(0.1)
            assert refused.code is not None
        desk.reader.local_end()
        await alice.card.begin()
        await asyncio.sleep(SEEN + PAUSE)
        assert words(used(desk)) == ("alice", [])
        await alice.card.end(LEAVE)


async def test_status_and_what_is_told_are_one() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        await alice.card.begin()
        waiting = desk.start(bob.card.begin())
        await asyncio.sleep(1)
        (status,) = desk.manager.status.readers
        assert status.holder == "alice"
        assert [one.client for one in status.waiters] == ["bob"]
        assert [status.held, status.waiters[0].waiting] == pytest.approx([1, 1])
        assert words(used(desk)) == (status.holder, [one.client for one in status.waiters])
        await alice.card.end(RESET)
        waiting.cancel()
