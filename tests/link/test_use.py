"""Who has a card, who waits for it and what keeps readers away, across the link: seldom, and to older ends as well."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
import pytest

from cardferry.link import Guest
from cardferry.link import messages as m
from cardferry.link.guest_readers import ReadersReceiver
from cardferry.link.host_readers import SHARING_DELAY, USE_PAUSE, ReadersSender, use_pause
from cardferry.pcsc.interface import Card
from cardferry.pcsc.reader_state import ReaderState, Snapshot, Use, User
from cardferry.pcsc.trouble import Cause, Trouble
from tests.callers import TESTER, somebody
from tests.link.cards import COUNT, CountingCard
from tests.link.desk import ALICE, ANY, LEAVE, READER, SHARED, T1, Desk
from tests.virtual_time import quiet

DELAY = 0.025
#: s after which a guest has been told whatever lasts.
TOLD = 0.25 + 0.5 + 2 * DELAY + 0.01


def use_of(guest: Guest) -> Use:
    """What the guest has been told of the reader; nobody is a `Use` without anybody."""
    return guest.snapshot.readers[0].use or Use()


async def connected(manager: Guest, name: str, pid: int, reader: str = READER) -> Card:
    context = await manager.open(somebody(name, pid, 1000), 60.0)
    return await context.connect(reader, SHARED, ANY)


async def test_all_guests_are_told_who_has_the_card_since_when_and_who_waits_in_which_place() -> None:
    async with Desk(delay=DELAY) as desk:
        near, far = await desk.guest(), await desk.guest()
        first = await connected(near, "ssh", 1)
        second = await connected(far, "gpg", 2)
        third = await connected(near, "p11", 3)
        await asyncio.sleep(1)  # the host asks the reader what it can do, on their behalf
        await first.begin()
        await first.transmit(COUNT, T1)
        waiting = []
        for card in (second, third):
            waiting.append(desk.start(card.begin()))
            await asyncio.sleep(1)
        now = asyncio.get_running_loop().time()
        status = desk.manager.status.readers[0]
        for guest, mine in ((near, ["ssh", "p11"]), (far, ["gpg"])):
            use = use_of(guest)
            assert use.holder is not None
            users = [use.holder, *use.waiting]
            assert [user.client.split(" ")[0] for user in users] == ["ssh", "gpg", "p11"]
            assert {user.principal for user in users} == {str(TESTER)}
            assert [user.client.split(" ")[0] for user in users if user.ours] == mine
            assert all(("process" in user.client) is user.ours for user in users), "no process of others"
            said = [status.held, *(one.waiting for one in status.waiters)]
            assert [now - user.since for user in users] == pytest.approx(said, abs=DELAY + 0.01)
        await first.end(LEAVE)
        for card, begun in zip((second, third), waiting, strict=True):
            await begun
            await card.end(LEAVE)
        await asyncio.sleep(2 * TOLD)
        assert use_of(near) == use_of(far) == Use()


async def test_a_guest_is_told_at_most_so_often_and_nothing_while_nothing_changes() -> None:
    async with Desk(delay=DELAY) as desk:
        guest, watcher = await desk.guest(), await desk.guest()
        names = [READER, *(f"Reader {number:02} 00" for number in range(1, 4))]
        for name in names[1:]:
            desk.source.add_reader(name).insert(CountingCard())
        await asyncio.sleep(1)
        cards = [await connected(guest, f"program {number}", number, names[number % 4]) for number in range(8)]
        await asyncio.sleep(1)

        async def work(card: Card) -> None:
            for number in range(12):
                await card.begin()
                await card.transmit(COUNT, T1)
                await asyncio.sleep(0.3 + number / 100)
                await card.end(LEAVE)

        before = watcher.status.messages_received
        began = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as tasks:
            for card in cards:
                tasks.create_task(work(card))
                await asyncio.sleep(0.07)
        seconds = asyncio.get_running_loop().time() - began
        told = watcher.status.messages_received - before
        assert 5 <= told <= seconds / USE_PAUSE + 2
        await cards[0].begin()
        await cards[0].transmit(COUNT, T1)
        await asyncio.sleep(TOLD)
        before = watcher.status.messages_received
        await asyncio.sleep(3600)
        assert watcher.status.messages_received == before
        await cards[0].end(LEAVE)


async def test_turns_that_pass_quickly_are_told_to_nobody() -> None:
    async with Desk() as desk:
        guest = await desk.guest()
        card = await connected(guest, "ssh", 1)
        await asyncio.sleep(1)
        before = desk.host.status.guests[0].messages_sent
        for _ in range(50):
            await card.begin()
            await card.transmit(COUNT, T1)
            await card.end(LEAVE)
            await asyncio.sleep(0.02)
        await quiet()
        answers = 50
        assert desk.host.status.guests[0].messages_sent - before <= 3 * answers
        assert use_of(guest) == Use()
        assert all(reader.use is None for reader in desk.manager.snapshot.readers)


async def test_an_exclusive_holder_is_told_without_haste() -> None:
    """Only its use changes: that is no news that must come before answers."""
    sender = ReadersSender(lambda reader: 0)
    alone = ReaderState(READER, sharing=-1)
    sender.news(Snapshot(1, 1, (alone,)), 1.0)
    used = ReaderState(READER, sharing=-1, use=Use(User("gpg", "ssh:a", 0.0)))
    assert not sender.urgent(Snapshot(2, 1, (used,)))
    for news, due in (
        (Snapshot(2, 1, (used,)), 1.0 + USE_PAUSE),
        (Snapshot(3, 1, (ReaderState(READER),)), 1.1 + SHARING_DELAY),
    ):
        assert sender.due(news, news, 1.1) == due


def test_news_for_people_comes_the_more_seldom_the_more_guests_there_are() -> None:
    assert [use_pause(guests) for guests in (1, 20, 60, 10_000)] == [USE_PAUSE, 1.0, 3.0, 5.0]
    sender = ReadersSender(lambda reader: 1)
    sender.news(Snapshot(1, 1, (ReaderState(READER, sharing=2),)), 1.0)
    more = Snapshot(2, 1, (ReaderState(READER, sharing=7, use=Use(User("gpg", "ssh:a", 0.0))),))
    assert sender.due(more, more, 1.1, 3.0) == 4.0
    alone = Snapshot(3, 1, (ReaderState(READER, sharing=1),))
    assert sender.due(alone, alone, 1.1, 3.0) < 1.1 + SHARING_DELAY, "its begins need not wait any more"


def test_who_waits_to_connect_is_somebody_who_is_there() -> None:
    """Otherwise a guest begins without a word, behind a whole connection that it does not know of."""
    sender = ReadersSender(lambda reader: 1)
    sender.news(Snapshot(1, 1, (ReaderState(READER, sharing=1),)), 1.0)
    comes = Snapshot(2, 1, (ReaderState(READER, sharing=1, coming=1),))
    assert sender.urgent(comes)
    news = sender.news(comes, 1.1)
    assert news is not None
    assert [entry.others for entry in news.changed] == [1]


async def test_a_handle_that_waits_to_be_opened_is_coming() -> None:
    async with Desk() as desk:
        guest, other = await desk.guest(), await desk.guest()
        card = await connected(guest, "ssh", 1)
        await card.begin()
        await card.transmit(COUNT, T1)
        connecting = desk.start(connected(other, "gpg", 2))
        await asyncio.sleep(0.1)
        assert [reader.coming for reader in desk.manager.snapshot.readers] == [1]
        await card.end(LEAVE)
        await connecting
        await asyncio.sleep(0.1)
        assert [reader.coming for reader in desk.manager.snapshot.readers] == [0]


async def test_contexts_and_clients_of_a_guest_are_known_at_the_guest() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        context = await guest.open(ALICE, 1.0)
        assert len(guest.contexts) == 1
        card = await context.connect(READER, SHARED, ANY)
        assert guest.clients(READER) == [str(ALICE)]
        await card.disconnect(LEAVE)
        assert guest.clients(READER) == []
        await context.close()
        assert not guest.contexts


async def test_what_keeps_readers_away_travels_with_its_host_and_ends() -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        trouble = Trouble(Cause.DOWN, "/run/pcscd/pcscd.comm")
        desk.manager.looked(desk.source, trouble)
        snapshot = await guest.changed(guest.snapshot.serial)
        assert snapshot.troubles == (Trouble(Cause.DOWN, "/run/pcscd/pcscd.comm", host="host"),)
        late = await desk.guest()
        assert late.snapshot.troubles == snapshot.troubles
        desk.manager.looked(desk.source, None)
        await asyncio.sleep(1)
        assert [one.snapshot.troubles for one in (guest, late)] == [(), ()]


def test_words_of_others_are_bounded_and_what_a_newer_host_says_is_passed_on() -> None:
    sender, receiver = ReadersSender(lambda reader: 0, 7), ReadersReceiver("nas")
    long = User("x" * 1000, "y" * 1000, 5.0, 1, 7, "\udcff" * 1000)
    reader = ReaderState(READER, use=Use(long, (long,) * 100))
    troubles = (Trouble(Cause.NO_MATCH, "p" * 1000, "d" * 1000),)
    news = sender.news(Snapshot(1, 1, (reader,), troubles), 8.0)
    assert news is not None
    assert len(m.encode(news)) < 20_000
    message = m.decode_from_host(m.encode(news))
    assert isinstance(message, m.Readers)
    receiver.receive(message, 100.0)
    use = receiver.snapshot.readers[0].use
    assert use is not None
    assert use.holder is not None
    assert (use.holder.since, use.holder.ours, len(use.waiting)) == (97.0, True, m.MAX_WAITING)
    newer = m.Readers(1, None, [], [m.TroubleEntry(77, "there", "", "the reader is on fire")])
    receiver.receive(newer)
    assert str(receiver.snapshot.troubles[0]) == "nas: the reader is on fire"


class OldEntry(msgspec.Struct, frozen=True, array_like=True):
    """A reader as an older cardferry has it."""

    name: str
    event_counter: int
    state: int
    sharing: int
    atr: bytes
    protocol: int
    marks: int | None
    others: int | None = None


class OldReaders(msgspec.Struct, frozen=True, array_like=True, tag=65):
    """What an older host says of readers."""

    events: int
    names: list[str] | None
    changed: Annotated[list[OldEntry], msgspec.Meta(max_length=1024)]


def test_an_older_guest_reads_what_it_knows() -> None:
    reader = ReaderState(READER, use=Use(User("gpg", "ssh:a", 0.0)))
    news = ReadersSender(lambda name: 0).news(Snapshot(1, 1, (reader,), (Trouble(Cause.NO_READER, "x"),)))
    assert news is not None
    old = msgspec.msgpack.decode(m.encode(news), type=OldReaders)
    assert [entry.name for entry in old.changed] == [READER]


def test_an_older_host_says_nothing_of_it() -> None:
    receiver = ReadersReceiver("nas")
    said = OldReaders(1, [READER], [OldEntry(READER, 1, 0x34, 1, b"\x3b\x80\x01\x81", 2, 0, 0)])
    message = m.decode_from_host(msgspec.msgpack.encode(said))
    assert isinstance(message, m.Readers)
    receiver.receive(message)
    assert receiver.snapshot.readers[0].use is None
    assert receiver.snapshot.troubles == ()
