"""Snapshots across the link: whatever changes at the host, the guest shows the same."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from cardferry.link.guest_readers import ReadersReceiver
from cardferry.link.host_readers import ReadersSender
from cardferry.link.messages import Readers, decode_from_host, encode, name_of, packed_name
from cardferry.pcsc.constants import GET_FEATURE_REQUEST, Attribute, CardState, Protocol
from cardferry.pcsc.reader_name import decode_reader_name
from cardferry.pcsc.reader_state import ReaderState, Snapshot
from cardferry.wire.link.session import Bounds
from tests.link.cards import COUNT, CountingCard
from tests.link.desk import ALICE, ANY, DIRECT, EXCLUSIVE, LEAVE, READER, SHARED, T1, Desk
from tests.virtual_time import quiet

names = st.sampled_from(["A", "\u00fcber", "\udcfcber", "\uf7fcber"])
states = st.builds(
    ReaderState,
    names,
    st.integers(0, 65535),
    st.sampled_from([CardState.ABSENT, CardState.PRESENT | CardState.POWERED, CardState.UNKNOWN]),
    st.integers(-1, 5),
    st.sampled_from([b"", b"\x3b\x80\x80\x01\x01"]),
    st.sampled_from(list(Protocol)),
    st.none() | st.integers(0, 9),
)
snapshots = st.lists(st.lists(states, max_size=4, unique_by=lambda reader: reader.name), max_size=10)


@given(snapshots, st.lists(st.integers(0, 3), min_size=10, max_size=10))
def test_the_guest_shows_what_the_host_has(history: list[list[ReaderState]], events: list[int]) -> None:
    sender, receiver = ReadersSender(lambda reader: 0), ReadersReceiver()
    shown = receiver.snapshot
    total = 1
    for serial, (readers, step) in enumerate(zip(history, events, strict=False), 1):
        total = (total - 1 + step) % 32767 + 1
        snapshot = Snapshot(serial, total, tuple(readers))
        urgent = sender.urgent(snapshot)
        news = sender.news(snapshot)
        if news is None:
            assert not urgent
            continue
        message = decode_from_host(encode(news))
        assert isinstance(message, Readers)
        receiver.receive(message)
        assert receiver.snapshot.readers == snapshot.readers
        assert receiver.snapshot.serial > shown.serial
        assert all(receiver.find(reader.name) == reader for reader in readers)
        if {reader.name for reader in shown.readers} != {reader.name for reader in readers}:
            assert receiver.snapshot.reader_events != shown.reader_events
        shown = receiver.snapshot
        assert sender.news(snapshot) is None


@given(st.binary(max_size=127) | st.text(st.characters(codec="utf-8")).map(str.encode))
def test_every_name_travels_as_utf_8_and_arrives(raw: bytes) -> None:
    name = decode_reader_name(raw)
    packed = packed_name(name)
    packed.encode()
    assert name_of(packed) == name
    assert packed == name or len(packed) <= len(raw)


def test_only_what_has_changed_is_told() -> None:
    sender = ReadersSender(lambda reader: 0)
    one, two = ReaderState("A"), ReaderState("B")
    sender.news(Snapshot(1, 1, (one, two)))
    news = sender.news(Snapshot(2, 1, (one, ReaderState("B", 1, CardState.PRESENT))))
    assert news is not None
    assert news.names is None
    assert [entry.name for entry in news.changed] == ["B"]


async def test_a_reader_whose_name_is_not_utf_8_is_used_like_any_other() -> None:
    name = "Kartenleser f\udcfcr B\udcfcros 00 00"
    async with Desk(delay=0.025) as desk:
        guest, other = await desk.guest(), await desk.guest()
        desk.source.add_reader(name).insert(CountingCard())
        await asyncio.sleep(1)
        assert [reader.name for reader in guest.snapshot.readers] == [READER, name]
        for share in (SHARED, DIRECT):
            context = await guest.open(ALICE, 1.0)
            card = await context.connect(name, share, ANY)
            assert await card.attribute(Attribute.DEVICE_FRIENDLY_NAME) == b"Kartenleser f\xfcr B\xfcros 00 00\0"
            assert await card.control(GET_FEATURE_REQUEST, b"", 100) == b""
            await context.close()
        late = await desk.guest()  # it is told what the reader has said so far
        context = await late.open(ALICE, 1.0)
        card = await context.connect(name, SHARED, ANY)
        await card.begin()
        assert (await card.transmit(COUNT, T1)).endswith(b"\x90\x00")
        await context.close()
        assert other.status.messages_received


def test_readers_go_and_come_with_sessions() -> None:
    receiver = ReadersReceiver()
    sender = ReadersSender(lambda reader: 0)
    snapshot = Snapshot(5, 3, (ReaderState("A"), ReaderState("B")))
    news = sender.news(snapshot)
    assert news is not None
    assert receiver.receive(news)
    events = receiver.snapshot.reader_events
    receiver.vanish()
    assert receiver.snapshot.readers == ()
    assert receiver.snapshot.reader_events == events + 2
    assert receiver.receive(news)
    assert receiver.snapshot.reader_events == events + 4


def test_reader_events_wrap_as_pcsc_lite_wraps_them() -> None:
    receiver = ReadersReceiver()
    receiver.receive(Readers(32767, [], []))
    receiver.receive(Readers(1, [], []))
    assert receiver.snapshot.reader_events == 2
    receiver.receive(Readers(32767, [], []))
    assert 1 <= receiver.snapshot.reader_events <= 32767


async def test_cards_and_readers_are_pushed() -> None:
    async with Desk(delay=0.025) as desk:
        guest = await desk.guest()
        serial = guest.snapshot.serial
        desk.reader.remove()
        snapshot = await guest.changed(serial)
        assert snapshot.readers[0].state & CardState.ABSENT
        desk.source.add_reader("Second 00 00").insert(CountingCard())
        while len(snapshot.readers) < 2:
            snapshot = await guest.changed(snapshot.serial)
        assert snapshot.reader_events == 3
        await asyncio.sleep(1)
        assert guest.snapshot.readers == desk.manager.snapshot.readers


async def test_who_shares_a_reader_is_told_later_and_together() -> None:
    async with Desk(delay=0.025) as desk:
        guest, watcher = await desk.guest(), await desk.guest()
        context = await guest.open(ALICE, 1.0)
        await context.connect(READER, SHARED, ANY)
        await asyncio.sleep(1)
        before = watcher.status.messages_received
        for _ in range(20):
            card = await context.connect(READER, SHARED, ANY)
        await asyncio.sleep(1)
        assert watcher.status.messages_received - before <= 2
        assert watcher.snapshot.readers[0].sharing == 21
        await card.disconnect(LEAVE)
        await context.close()
        exclusive = await (await guest.open(ALICE, 1.0)).connect(READER, EXCLUSIVE, ANY)
        await asyncio.sleep(0.03)
        assert watcher.snapshot.readers[0].sharing == -1
        await exclusive.disconnect(LEAVE)
        direct = await (await guest.open(ALICE, 1.0)).connect(READER, DIRECT, ANY)
        await direct.disconnect(LEAVE)


async def test_a_guest_that_does_not_keep_up_gets_the_news_when_it_does() -> None:
    async with Desk(bounds=Bounds(full_frames=4)) as desk:
        guest = await desk.guest()
        near, _ = desk.roads[0].pipes[-1]
        near.pause_reading()
        for number in range(20):
            desk.source.add_reader(f"Reader {number}")
            await quiet()
        assert len(guest.snapshot.readers) == 1
        before = guest.status.messages_received
        near.resume_reading()
        await asyncio.sleep(0.5)
        assert guest.snapshot.readers == desk.manager.snapshot.readers
        assert guest.status.messages_received - before <= 6


async def test_an_idle_link_says_little() -> None:
    async with Desk(delay=0.025) as desk:
        guest = await desk.guest()
        await quiet()
        before = guest.status
        await asyncio.sleep(60)
        after = guest.status
        assert after.messages_sent == before.messages_sent
        assert after.bytes_sent - before.bytes_sent < 60 * 100
        assert after.round_trip is not None
        assert abs(after.round_trip - 0.05) < 0.001
