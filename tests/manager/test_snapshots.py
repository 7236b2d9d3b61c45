"""What everybody may know without asking: snapshots, event counters, and waiting for the next change."""

from __future__ import annotations

import asyncio

from cardferry.manager import LocalManager
from cardferry.manager.status import WaiterStatus
from cardferry.pcsc.constants import CardState, Protocol
from tests.callers import TESTER
from tests.manager.desk import ATR, LEAVE, RESET, SHARED, T1, Desk, FakeReader, quiet


async def test_reader_with_a_card() -> None:
    async with Desk() as desk:
        state = desk.state
        assert (state.name, state.event_counter, state.sharing, state.atr) == (desk.reader.name, 1, 0, ATR)
        assert state.state == CardState.PRESENT | CardState.POWERED | CardState.NEGOTIABLE
        assert state.protocol == Protocol.UNDEFINED
        await desk.client()
        assert desk.state.protocol == T1


async def test_insertions_and_removals_are_counted_and_resets_are_not() -> None:
    async with Desk(card=False) as desk:
        assert desk.state.event_counter == 0
        assert desk.state.state == CardState.ABSENT
        desk.insert()
        desk.remove()
        desk.insert()
        assert desk.state.event_counter == 3
        client = await desk.client()
        await client.card.reconnect(SHARED, T1, RESET)
        assert desk.state.event_counter == 3


async def test_a_card_is_called_what_its_applications_say_until_it_is_another_one() -> None:
    async with Desk() as desk:
        client = await desk.client()
        await client.card.transmit(bytes.fromhex("00A4040005A000000308"), T1)
        assert desk.manager.status.readers[0].card == "PIV"
        desk.remove()
        desk.insert()
        assert desk.manager.status.readers[0].card == ""


async def test_event_counter_wraps() -> None:
    async with Desk(card=False) as desk:
        desk.slot.device.event_counter = 0xFFFF
        desk.insert()
        assert desk.state.event_counter == 0


async def test_reader_events_count_readers_and_wrap_to_one() -> None:
    async with LocalManager([]) as manager:
        assert manager.snapshot.reader_events == 1
        reader = FakeReader()
        manager.reader_added(reader)
        assert manager.snapshot.reader_events == 2
        manager.reader_removed(reader)
        assert manager.snapshot.reader_events == 3
        for _ in range((32767 - 3) // 2):
            manager.reader_added(reader)
            manager.reader_removed(reader)
        assert manager.snapshot.reader_events == 32767
        manager.reader_added(reader)
        assert manager.snapshot.reader_events == 1


async def test_serial_grows_with_changes_only() -> None:
    async with Desk() as desk:
        before = desk.manager.snapshot
        assert desk.manager.snapshot is before
        client = await desk.client()
        after = desk.manager.snapshot
        assert after.serial > before.serial
        await client.card.begin()
        await client.card.end(LEAVE)
        assert desk.manager.snapshot is after


async def test_changed_waits_for_a_change() -> None:
    async with Desk(card=False) as desk:
        serial = desk.manager.snapshot.serial
        waiting = desk.start(desk.manager.changed(serial))
        await asyncio.sleep(1000)
        assert not waiting.done
        desk.insert()
        snapshot = await waiting
        assert snapshot.serial > serial
        assert snapshot.readers[0].atr == ATR
        assert await desk.manager.changed(serial) is snapshot  # at once: it has changed


async def test_changed_can_be_given_up() -> None:
    async with Desk() as desk:
        waiting = desk.start(desk.manager.changed(desk.manager.snapshot.serial))
        await quiet()
        waiting.cancel()
        await quiet()
        assert desk.manager._changes._waiters == set()


async def test_changes_of_one_moment_are_published_once() -> None:
    async with Desk(card=False) as desk:
        await quiet()
        before = desk.manager.snapshot
        waiting = desk.start(desk.manager.changed(before.serial))
        await quiet()
        for _ in range(10):
            desk.insert()
            desk.remove()
        assert (await waiting).serial == before.serial + 1


async def test_readers_keep_their_order() -> None:
    async with LocalManager([]) as manager:
        readers = [FakeReader(f"Reader {number:02X} 00") for number in range(5)]
        for reader in readers:
            manager.reader_added(reader)
        manager.reader_removed(readers[1])
        manager.card_inserted(readers[3], ATR)
        assert [state.name[:9] for state in manager.snapshot.readers] == [
            "Reader 00",
            "Reader 02",
            "Reader 03",
            "Reader 04",
        ]


async def test_status_tells_who_holds_and_who_waits() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        await alice.card.begin()
        waiting = desk.start(bob.card.begin())
        await asyncio.sleep(3)
        status = desk.manager.status
        assert status.contexts == 2
        (reader,) = status.readers
        assert (reader.holder, reader.principal, reader.held) == ("alice", str(TESTER), 3.0)
        assert reader.waiters == [WaiterStatus("bob", str(TESTER), 3.0, place=1)]
        assert reader.clients == ["alice", "bob"]
        assert reader.state == "present powered negotiable"
        assert reader.atr == ATR.hex()
        await alice.card.end(LEAVE)
        await waiting
        await bob.card.end(LEAVE)
        (reader,) = desk.manager.status.readers
        assert (reader.holder, reader.principal, reader.held, reader.waiters) == (None, "", 0.0, [])
