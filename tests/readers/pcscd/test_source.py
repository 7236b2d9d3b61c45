"""Readers of a pcscd as they come and go, on every protocol level; and pcscd itself."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cardferry.pcsc.constants import CardState, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.trouble import Cause, Trouble
from cardferry.readers.pcscd.failure import NoPcscdError, Reason
from cardferry.readers.pcscd.reader import PcscdReader
from cardferry.readers.pcscd.source import FIRST_PAUSE, LONGEST_PAUSE, PcscdSource
from cardferry.wire.pcsclite.messages import (
    GetReadersState,
    GetReadersStateArray,
    GetReadersStateSize,
    Version,
    WaitReaderStateChange,
)
from tests.readers.observer import Remembering
from tests.readers.pcscd.fake import ATR, FakeConnection, FakePcscd
from tests.readers.pcscd.test_reader import kinds, now

A, B = "Fake A 00 00", "Fake B 00 00"
LEVELS = pytest.mark.parametrize("minor", [2, 3, 4, 5, 6])


@asynccontextmanager
async def running(pcscd: FakePcscd, **options: object) -> AsyncIterator[tuple[PcscdSource, Remembering]]:
    observer = Remembering()
    source = PcscdSource(pcscd.dial, "the lab", chance=lambda: 0.5, **options)  # type: ignore[arg-type]
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(source.run(observer))
        await asyncio.sleep(0.01)
        yield source, observer
        task.cancel()


@LEVELS
async def test_readers_and_cards_come_and_go(minor: int) -> None:
    pcscd = FakePcscd(minor)
    pcscd.add_reader(A).insert()
    async with running(pcscd) as (source, observer):
        assert await observer.take(2) == [("reader added", A), ("card inserted", A, ATR)]
        assert source.up
        assert source.minor == minor
        pcscd.readers[A].remove()
        assert await observer.take(1) == [("card removed", A)]
        pcscd.readers[A].insert(b"")
        assert await observer.take(1) == [("card inserted", A, b"")]
        pcscd.add_reader(B)
        assert await observer.take(1) == [("reader added", B)]
        pcscd.remove_reader(A)
        assert await observer.take(1) == [("reader removed", A)]
        assert [reader.name for reader in source.readers] == [B]
    assert pcscd.connections == []


@LEVELS
async def test_a_fast_exchange_of_cards_is_noticed(minor: int) -> None:
    pcscd = FakePcscd(minor)
    pcscd.add_reader(A).insert()
    async with running(pcscd) as (_, observer):
        await observer.take(2)
        pcscd.readers[A].exchange_card()
        assert await observer.take(2) == [("card removed", A), ("card inserted", A, ATR)]


@LEVELS
async def test_a_change_right_after_the_look_is_not_missed(minor: int) -> None:
    pcscd = FakePcscd(minor, delay=0.1)
    pcscd.add_reader(A)
    async with running(pcscd) as (_, observer):
        await observer.take(1)
        for _ in range(20):
            pcscd.readers[A].insert()
            await asyncio.sleep(0.03)
            pcscd.readers[A].remove()
            await asyncio.sleep(0.17)
        pcscd.readers[A].insert(ATR + b"\x01")
        await observer.wait_for("card inserted", A, ATR + b"\x01")


@LEVELS
async def test_the_table_is_looked_at_after_the_registration_also_when_that_takes_long(minor: int) -> None:
    pcscd = FakePcscd(minor)
    pcscd.add_reader(A)

    def slow_events(connection: FakeConnection) -> None:
        if connection is pcscd.dialled[0]:
            connection.from_client.delay = 1.0

    pcscd.greet = slow_events
    async with running(pcscd) as (_, observer):
        loop = asyncio.get_running_loop()
        for moment in range(1, 50):  # whenever it comes, it is noticed
            loop.call_later(moment / 10, pcscd.readers[A].insert, ATR + bytes((moment,)))
        await asyncio.sleep(10)
        assert observer.reports[-1] == ("card inserted", A, ATR + bytes((49,)))
        pcscd.readers[A].remove()
        await observer.wait_for("card removed", A)


@LEVELS
async def test_nothing_is_asked_while_nothing_happens(minor: int) -> None:
    pcscd = FakePcscd(minor)
    pcscd.add_reader(A).insert()
    async with running(pcscd):
        before = [len(connection.requests) for connection in pcscd.dialled]
        await asyncio.sleep(24 * 3600)
        assert [len(connection.requests) for connection in pcscd.dialled] == before


@pytest.mark.parametrize("minor", [2, 3, 6])
async def test_a_wait_without_answer_has_a_barrier_behind_it_in_the_same_write(minor: int) -> None:
    pcscd = FakePcscd(minor)
    async with running(pcscd):
        events, query = pcscd.dialled
        assert kinds(events.writes[-1]) == [WaitReaderStateChange, Version]
        assert GetReadersState in kinds(query.requests)
        assert WaitReaderStateChange not in kinds(query.requests)


@pytest.mark.parametrize("minor", [4, 5])
async def test_an_answered_wait_needs_one_connection_and_one_round_trip(minor: int) -> None:
    pcscd = FakePcscd(minor)
    async with running(pcscd):
        assert [kinds(connection.requests) for connection in pcscd.dialled] == [
            [Version, Version, WaitReaderStateChange]
        ]


@LEVELS
async def test_a_name_that_is_not_utf_8_leads_to_its_reader(minor: int) -> None:
    name = "Kartenleser f\udcfcr B\udcfcros 00 00"
    pcscd = FakePcscd(minor)
    pcscd.add_reader(name).insert()
    async with running(pcscd) as (source, observer):
        await observer.take(2)
        assert await source.readers[0].connect(ShareMode.SHARED, Protocol.ANY) == Protocol.T1


async def test_more_than_sixteen_readers() -> None:
    pcscd = FakePcscd(6)
    pcscd.array_size = 20
    for number in range(20):
        pcscd.add_reader(f"Fake {number:02}")
    async with running(pcscd) as (source, _):
        assert len(source.readers) == 20
        assert GetReadersStateArray in kinds(pcscd.dialled[1].requests)


async def test_a_size_of_sixteen_needs_no_array() -> None:
    pcscd = FakePcscd(6)
    pcscd.add_reader(A)
    async with running(pcscd) as (source, _):
        assert len(source.readers) == 1
        assert kinds(pcscd.dialled[1].requests)[1:] == [GetReadersStateSize, GetReadersState]


async def test_an_array_longer_than_announced_costs_a_connection_and_no_reader() -> None:
    """pcscd 2.5 may add a reader between its two answers."""
    pcscd = FakePcscd(6)
    pcscd.array_size = 18
    pcscd.add_reader(A).insert()
    async with running(pcscd) as (source, observer):
        await observer.take(2)
        query = pcscd.dialled[1]
        serve = pcscd.serve

        def growing(connection: FakeConnection, request: object) -> None:
            if connection is query and isinstance(request, GetReadersStateArray):
                pcscd.array_size = 20
            serve(connection, request)  # type: ignore[arg-type]

        pcscd.serve = growing  # type: ignore[method-assign]
        pcscd.add_reader(B)
        assert await observer.take(1) == [("reader added", B)]
        pcscd.readers[B].insert()
        assert await observer.take(1) == [("card inserted", B, ATR)]
        assert source.up
        assert query not in pcscd.connections


async def test_a_lost_query_connection_is_replaced() -> None:
    pcscd = FakePcscd(6)
    pcscd.add_reader(A)
    async with running(pcscd) as (source, observer):
        await observer.take(1)
        pcscd.dialled[1].hang_up()
        pcscd.readers[A].insert()
        assert await observer.take(1) == [("card inserted", A, ATR)]
        assert source.up


async def test_a_reader_in_error() -> None:
    pcscd = FakePcscd(4)
    pcscd.add_reader(A).insert()
    async with running(pcscd) as (source, observer):
        await observer.take(2)
        pcscd.readers[A].fail()
        assert await observer.take(1) == [("reader failed", A)]
        pcscd.readers[A].insert()
        assert await observer.take(1) == [("card inserted", A, ATR)]
        pcscd.readers[A].fail()
        assert await observer.take(1) == [("reader failed", A)]
        pcscd.readers[A].remove()
        assert await observer.take(1) == [("card removed", A)]
        assert source.up


async def test_a_card_that_is_being_powered_up() -> None:
    pcscd = FakePcscd(4)
    there = pcscd.add_reader(A)
    there.state = CardState.PRESENT
    async with running(pcscd) as (_, observer):
        assert await observer.take(1) == [("reader added", A)]
        there.insert()
        assert await observer.take(1) == [("card inserted", A, ATR)]


async def test_a_removal_ends_a_claim() -> None:
    pcscd = FakePcscd(4)
    there = pcscd.add_reader(A)
    there.insert()
    async with running(pcscd) as (source, observer):
        reader = source.readers[0]
        await reader.connect(ShareMode.SHARED, Protocol.ANY)
        await reader.claim()
        there.exchange_card()
        await observer.wait_for("card removed", A)
        await reader.connect(ShareMode.SHARED, Protocol.ANY)
        await reader.transmit(b"\x00\xa4\x00\x00", Protocol.T1)
        await asyncio.sleep(1)
        assert there.owner == 0


async def test_others_are_seen_in_the_events() -> None:
    pcscd = FakePcscd(4)
    there = pcscd.add_reader(A)
    there.insert()
    async with running(pcscd) as (source, observer):
        reader = source.readers[0]
        await reader.connect(ShareMode.SHARED, Protocol.ANY)
        assert reader._neighbours.alone(now())
        there.others = 1
        pcscd.signal()
        await asyncio.sleep(0.01)
        assert not reader._neighbours.alone(now())
        assert observer.others == {A: [True]}


async def test_a_reader_whose_own_connection_is_cut_is_unplugged_and_plugged_in() -> None:
    pcscd = FakePcscd(4)
    there = pcscd.add_reader(A)
    there.insert()
    async with running(pcscd) as (source, observer):
        await observer.take(2)
        reader = source.readers[0]
        await reader.connect(ShareMode.SHARED, Protocol.ANY)
        pcscd.connection_of(there).hang_up()
        assert await observer.take(3) == [("reader removed", A), ("reader added", A), ("card inserted", A, ATR)]
        with pytest.raises(PcscError):
            await reader.transmit(b"\x00\xa4\x00\x00", Protocol.T1)
        assert await source.readers[0].connect(ShareMode.SHARED, Protocol.ANY) == Protocol.T1


async def test_when_pcscd_ends_its_readers_go_once_whichever_connection_ends_first() -> None:
    pcscd = FakePcscd(4)
    there = pcscd.add_reader(A)
    there.insert()
    async with running(pcscd) as (source, observer):
        await observer.take(2)
        await source.readers[0].connect(ShareMode.SHARED, Protocol.ANY)
        pcscd.connection_of(there).hang_up()
        await asyncio.sleep(0.05)
        pcscd.stop()
        await asyncio.sleep(1)
        assert observer.reports == [("reader removed", A)]


async def test_a_table_tells_of_a_reader_whose_connection_was_cut() -> None:
    pcscd = FakePcscd(4)
    there = pcscd.add_reader(A)
    there.insert()
    async with running(pcscd) as (source, observer):
        await observer.take(2)
        await source.readers[0].connect(ShareMode.SHARED, Protocol.ANY)
        pcscd.connection_of(there).hang_up()
        await asyncio.sleep(0.05)
        there.remove()
        assert await observer.take(2) == [("reader removed", A), ("reader added", A)]
        await asyncio.sleep(1)
        assert observer.reports == []


async def test_names_that_come_twice_count_once() -> None:
    pcscd = FakePcscd(4)
    pcscd.add_reader(A).insert()
    pcscd.readers["again"] = pcscd.readers[A]
    async with running(pcscd) as (source, observer):
        assert await observer.take(2) == [("reader added", A), ("card inserted", A, ATR)]
        assert len(source.readers) == 1


# pcscd itself


@LEVELS
async def test_pcscd_goes_and_comes_back(minor: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    pcscd = FakePcscd(minor)
    there = pcscd.add_reader(A)
    there.insert()
    states: list[tuple[bool, Reason | None]] = []

    def on_state(up: bool, failure: NoPcscdError | None) -> None:
        states.append((up, failure.reason if failure else None))

    down = Trouble(Cause.DOWN, "the lab")
    async with running(pcscd, on_state=on_state) as (source, observer):
        await observer.take(2)
        reader = source.readers[0]
        await reader.connect(ShareMode.SHARED, Protocol.ANY)
        there.apdu_time = 1000
        loop = asyncio.get_running_loop()
        loop.call_later(1, pcscd.stop)
        with pytest.raises(PcscError) as caught:
            await reader.transmit(b"\x00\xa4\x00\x00", Protocol.T1)
        assert caught.value.code is ReturnCode.E_READER_UNAVAILABLE
        await observer.wait_for("reader removed", A)
        assert not source.up
        await asyncio.sleep(3600)
        pcscd.start()
        before = now()
        assert await observer.take(2) == [("reader added", A), ("card inserted", A, ATR)]
        assert now() - before <= LONGEST_PAUSE * 1.2
        await source.readers[0].connect(ShareMode.SHARED, Protocol.ANY)
        assert observer.troubles == [down, None]
        pcscd.remove_reader(A)
        await observer.wait_for("reader removed", A)
        assert observer.troubles[2:] == [Trouble(Cause.NO_READER, "the lab")]
    assert states == [(True, None), (False, Reason.LOST), (False, Reason.NOBODY_LISTENS), (True, None)]
    lines = [record.message for record in caplog.records if record.levelno >= logging.INFO]
    assert lines == [
        f"pcscd at the lab: protocol 4:{minor}, 1 reader(s)",
        "pcscd at the lab has gone",
        "pcscd at the lab has left a socket there, but nobody listens: Connection refused",
        f"pcscd at the lab: protocol 4:{minor}, 1 reader(s)",
    ]


async def test_the_first_attempt_tells_why_it_failed() -> None:
    pcscd = FakePcscd(4)
    pcscd.refuse_dial = FileNotFoundError(2, "No such file or directory")
    states: list[NoPcscdError | None] = []
    async with running(pcscd, on_state=lambda up, failure: states.append(failure)) as (source, observer):
        assert [failure and failure.reason for failure in states] == [Reason.NO_SOCKET]
        assert source.failure is states[0]
        await asyncio.sleep(60)
        assert len(states) == 1
        assert observer.reports == []


async def attempts(pcscd: FakePcscd, seconds: float, chance: float = 0.5) -> list[float]:
    """When it was dialled, from the first attempt on."""
    times: list[float] = []
    dial = pcscd.dial

    async def counted(factory: object) -> object:
        times.append(now())
        return await dial(factory)  # type: ignore[arg-type]

    source = PcscdSource(counted, "the lab", chance=lambda: chance)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(source.run(Remembering()))
        await asyncio.sleep(seconds)
        task.cancel()
    return [time - times[0] for time in times]


async def test_pauses_grow_to_a_limit() -> None:
    pcscd = FakePcscd(4)
    pcscd.refuse_dial = ConnectionRefusedError(111, "refused")
    times = await attempts(pcscd, 30)
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert pauses == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0, 5.0])


@pytest.mark.parametrize(("chance", "factor"), [(0.0, 0.8), (1.0, 1.2)])
async def test_pauses_are_not_all_alike(chance: float, factor: float) -> None:
    pcscd = FakePcscd(4)
    pcscd.refuse_dial = ConnectionRefusedError(111, "refused")
    assert (await attempts(pcscd, 1, chance))[1] == pytest.approx(FIRST_PAUSE * factor)


async def test_a_pcscd_that_ends_at_once_each_time_is_not_dialled_in_a_loop() -> None:
    pcscd = FakePcscd(4)
    pcscd.add_reader(A)

    def short_life(connection: FakeConnection) -> None:
        asyncio.get_running_loop().call_later(0.01, connection.hang_up)

    pcscd.greet = short_life
    assert len(await attempts(pcscd, 60)) < 20


async def test_reconnect_now_wakes_at_once() -> None:
    pcscd = FakePcscd(4)
    pcscd.add_reader(A)
    pcscd.refuse_dial = ConnectionRefusedError(111, "refused")
    async with running(pcscd) as (source, observer):
        await asyncio.sleep(60.5)
        pcscd.refuse_dial = None
        before = now()
        source.reconnect_now()
        assert await observer.take(1) == [("reader added", A)]
        assert now() == before


async def test_a_source_runs_once_at_a_time() -> None:
    async with running(FakePcscd(4)) as (source, _):
        with pytest.raises(RuntimeError):
            await source.run(Remembering())


@pytest.mark.parametrize("minor", [3, 4, 6])
async def test_garbage_from_a_hostile_pcscd_is_one_line_in_the_log_and_bounded(
    minor: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    pcscd = FakePcscd(minor)
    pcscd.add_reader(A)
    async with running(pcscd) as (source, observer):
        await observer.take(1)
        for connection in list(pcscd.connections):
            connection.to_client.write(b"\xff" * 1_000_000)
        pcscd.refuse_dial = ConnectionRefusedError(111, "refused")
        assert await observer.take(1) == [("reader removed", A)]
        assert source.failure is not None
        assert source.failure.reason is Reason.GARBAGE
        assert pcscd.connections == []
    assert sum("does not speak" in record.message for record in caplog.records) == 1


async def test_an_impossible_table_is_garbage() -> None:
    pcscd = FakePcscd(4)
    pcscd.add_reader(A)
    async with running(pcscd) as (source, observer):
        await observer.take(1)
        pcscd.serve = lambda connection, request: connection.reply(b"A" * 2944)  # type: ignore[method-assign]
        pcscd.signal()
        assert await observer.take(1) == [("reader removed", A)]
        assert source.failure is not None
        assert source.failure.reason is Reason.GARBAGE


async def test_a_thousand_bad_pcscd_in_a_row_leave_nothing_behind() -> None:
    pcscd = FakePcscd(4)
    pcscd._version = lambda connection, request: b"nonsense" * 100  # type: ignore[method-assign]
    async with running(pcscd) as (source, observer):
        for _ in range(1000):
            source.reconnect_now()
            await asyncio.sleep(0.01)
        assert len(pcscd.dialled) >= 1000
        assert len(pcscd.connections) <= 1
        del pcscd._version
        pcscd.add_reader(A)
        source.reconnect_now()
        assert await observer.take(1) == [("reader added", A)]


async def test_programming_errors_of_the_observer_are_not_hidden() -> None:
    pcscd = FakePcscd(4)
    pcscd.add_reader(A)

    class Broken(Remembering):
        def reader_added(self, reader: object) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await PcscdSource(pcscd.dial, "the lab").run(Broken())
    await asyncio.sleep(1)
    assert pcscd.connections == []


async def test_readers_are_pcscd_readers() -> None:
    pcscd = FakePcscd(4)
    pcscd.add_reader(A)
    async with running(pcscd) as (source, _):
        assert isinstance(source.readers[0], PcscdReader)
