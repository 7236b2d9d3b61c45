"""Many as one: what is shown, and who is asked."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any
from unittest.mock import AsyncMock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cardferry.fleet import Member, Union, union
from cardferry.fleet.union import FIRST_CHOICE
from cardferry.link import LinkState, Timing
from cardferry.pcsc.caller import Caller
from cardferry.pcsc.constants import CardState, Protocol
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.interface import Context
from cardferry.pcsc.reader_state import ReaderState, Snapshot
from cardferry.pcsc.trouble import Cause, Trouble
from tests.fleet.hosts import Said, shown, united
from tests.link.cards import ATR, COUNT
from tests.link.desk import ALICE, ANY, BOB, LEAVE, READER, RESET, SHARED, T1, Desk, becomes, raises
from tests.virtual_time import quiet, run

HERE, THERE = READER, f"{READER} (there)"


def now() -> float:
    return asyncio.get_running_loop().time()


# --- what is shown


async def test_readers_are_in_the_order_of_their_hosts_and_equal_names_tell_theirs() -> None:
    laptop, desk = Said(), Said("Other", "Reader")
    async with united(laptop=laptop, desk=desk) as both:
        assert shown(both) == ["Other", "Reader"]
        laptop.become("Reader", "Other", "Third")
        assert shown(both) == ["Reader (laptop)", "Other (laptop)", "Third", "Other", "Reader"]


async def test_everything_that_is_known_of_a_reader_is_passed_on() -> None:
    laptop, desk = Said("Reader"), Said("Reader")
    state = ReaderState("Reader", 7, CardState.PRESENT | CardState.POWERED, 2, ATR, Protocol.T1, marks=4)
    async with united(laptop=laptop, desk=desk) as both:
        laptop.become(state)
        desk.become(state)
        first, second = both.snapshot.readers
        assert first == state
        assert second.name == "Reader (desk)"
        for word in ("event_counter", "state", "sharing", "atr", "protocol", "marks"):
            assert getattr(second, word) == getattr(state, word)


async def test_what_keeps_readers_away_is_told_of_each_host() -> None:
    laptop, desk = Said("Reader"), Said("Other")
    down, none = (
        Trouble(Cause.DOWN, "/run/pcscd/pcscd.comm", host="desk"),
        Trouble(Cause.NO_READER, "laptop", host="laptop"),
    )
    async with united(laptop=laptop, desk=desk) as both:
        serial = both.snapshot.serial
        desk.become(troubles=(down,))
        assert (await both.changed(serial)).troubles == (down,)
        assert shown(both) == ["Reader"]
        seen = []
        for host, readers, troubles in ((laptop, (), (none,)), (desk, ("Other",), ())):
            host.become(*readers, troubles=troubles)
            seen.append(both.snapshot.troubles)
        assert seen == [(none, down), (none,)]


async def test_what_has_not_changed_stays_the_same_object() -> None:
    laptop, desk = Said("Reader"), Said("Reader", "Other")
    async with united(laptop=laptop, desk=desk) as both:
        before = both.snapshot
        assert both.snapshot is before
        old = desk.snapshot.readers[0]
        desk.become(old, ReaderState("Other", 1))
        after = both.snapshot
        assert after.readers[:2] == before.readers[:2]
        assert all(one is other for one, other in zip(after.readers[:2], before.readers[:2], strict=True))
        assert after.serial == before.serial + 1


async def test_a_change_at_any_host_wakes() -> None:
    laptop, desk = Said("Reader"), Said("Reader")
    async with united(laptop=laptop, desk=desk) as both, asyncio.TaskGroup() as tasks:
        for host, state in ((laptop, ReaderState("Reader", 1)), (desk, ReaderState("Reader", 2))):
            waiting = tasks.create_task(both.changed(both.snapshot.serial))
            await quiet()
            assert not waiting.done()
            host.become(state)
            await waiting
        waiting = tasks.create_task(both.changed(both.snapshot.serial))
        laptop.become(ReaderState("Reader", 1))  # nothing that can be seen
        await quiet()
        assert not waiting.done()
        waiting.cancel()


async def test_a_reader_that_goes_and_comes_back_unseen_is_counted() -> None:
    laptop, desk = Said("Reader"), Said()
    async with united(laptop=laptop, desk=desk) as both:
        before = both.snapshot
        laptop.become("Reader", events=2)
        assert both.snapshot.reader_events == before.reader_events + 2
        laptop.become("Reader", "Other")
        desk.become("Third")
        assert both.snapshot.reader_events == before.reader_events + 4


async def test_reader_events_wrap_as_they_must() -> None:
    laptop = Said()
    async with united(laptop=laptop) as one:
        laptop.become(events=32766)
        assert one.snapshot.reader_events == 32767
        laptop.become("Reader")
        assert one.snapshot.reader_events == 1


steps = st.tuples(
    st.integers(0, 2), st.lists(st.sampled_from(["Reader", "Other", "Reader (b)", "Reader (c)"]), unique=True)
)


async def play(history: list[tuple[int, list[str]]]) -> None:
    hosts = [Said(), Said(), Said()]
    known: dict[tuple[int, str], str] = {}
    async with united(a=hosts[0], b=hosts[1], c=hosts[2]) as all_of_them:
        for number, names in history:
            before = all_of_them.snapshot
            hosts[number].become(*names)
            after = all_of_them.snapshot
            origins = [(host, reader.name) for host, said in enumerate(hosts) for reader in said.snapshot.readers]
            assert len(set(shown(all_of_them))) == len(origins) == len(after.readers)
            for origin, name in zip(origins, shown(all_of_them), strict=True):
                assert known.setdefault(origin, name) == name
                assert all_of_them.find(name) == (hosts[origin[0]], origin[1])
            same = {one.name for one in before.readers} == {one.name for one in after.readers}
            assert (after.reader_events == before.reader_events) is same
            assert (after.serial == before.serial) is (after.readers == before.readers)


@given(st.lists(steps, max_size=20))
@settings(max_examples=100, deadline=None)
def test_every_reader_has_one_name_and_keeps_it_whatever_comes_and_goes(history: list[tuple[int, list[str]]]) -> None:
    run(play(history))


async def test_names_of_readers_that_are_away_are_forgotten_when_there_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(union, "MOST_NAMES", 8)
    laptop, desk = Said("Reader"), Said("Reader")
    async with united(laptop=laptop, desk=desk) as both:
        for number in range(50):
            laptop.become("Reader", f"Invented {number}")
            assert shown(both) == ["Reader", f"Invented {number}", "Reader (desk)"]
            assert len(both._names) <= 8
        laptop.become()
        assert shown(both) == ["Reader (desk)"]


# --- hosts that come later


async def test_who_comes_first_in_the_list_has_the_first_choice_but_not_for_ever() -> None:
    laptop, desk = Member("laptop", Said()), Member("desk", Said("Reader"))
    desk.known.set()
    start = now()
    async with Union([laptop, desk]) as both:
        await both.changed(0)
        assert now() == pytest.approx(start + FIRST_CHOICE)
        assert shown(both) == ["Reader"]
        assert isinstance(laptop.manager, Said)
        laptop.manager.become("Reader")
        assert shown(both) == ["Reader (laptop)", "Reader"]


async def test_a_host_that_takes_long_to_log_in_to_keeps_the_first_choice() -> None:
    laptop, desk = Member("laptop"), Member("desk", Said("Reader"))
    desk.known.set()
    async with Union([laptop, desk]) as both, asyncio.TaskGroup() as tasks:
        tasks.create_task(both.ready())
        await asyncio.sleep(8)
        assert shown(both) == []
        laptop.join(Said("Reader"))
        laptop.known.set()
        await quiet()
        assert shown(both) == ["Reader", "Reader (desk)"]


async def test_two_hosts_that_say_nothing_delay_the_third_no_longer_than_one_does() -> None:
    start = now()
    async with Union([Member("laptop"), Member("desk"), Member("third", Said("Reader"))]) as three:
        await three.changed(0)
        assert now() == pytest.approx(start + FIRST_CHOICE)
        assert shown(three) == ["Reader"]


async def test_a_host_that_cannot_be_reached_delays_nobody() -> None:
    laptop, desk = Member("laptop"), Member("desk", Said("Reader"))
    laptop.known.set()
    desk.known.set()
    start = now()
    async with Union([laptop, desk]) as both:
        await both.ready()
        assert shown(both) == ["Reader"]
        assert now() < start + 0.1


async def test_a_host_may_join_when_it_is_reached() -> None:
    laptop, desk = Member("laptop"), Member("desk", Said("Reader"))
    laptop.known.set()
    desk.known.set()
    async with Union([laptop, desk]) as both, asyncio.TaskGroup() as tasks:
        await both.ready()
        before = both.snapshot
        waiting = tasks.create_task(both.changed(before.serial))
        await quiet()
        late = Said("Reader", "Other")
        laptop.join(late)
        after = await waiting
        assert shown(both) == ["Reader (laptop)", "Other", "Reader"]
        assert after.reader_events == before.reader_events + 2
        late.become("Other")
        assert (await both.changed(after.serial)).reader_events == before.reader_events + 3


async def test_a_member_joins_once() -> None:
    member = Member("laptop", Said())
    with pytest.raises(RuntimeError, match="laptop"):
        member.join(Said())


async def test_ready_waits_for_all() -> None:
    laptop, desk = Member("laptop", Said()), Member("desk", Said("Reader"))
    laptop.known.set()
    async with Union([laptop, desk]) as both, asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(both.ready())
        await quiet()
        assert not waiting.done()
        desk.known.set()
        await waiting
        assert shown(both) == ["Reader"]


# --- who is asked


async def test_each_connect_goes_to_the_host_that_has_the_reader() -> None:
    async with Desk() as here, Desk(delay=0.01) as there, united(here=here.manager, there=await there.guest()) as both:
        assert shown(both) == [HERE, THERE]
        context = await both.open(ALICE)
        near = await context.connect(HERE, SHARED, ANY)
        far = await context.connect(THERE, SHARED, ANY)
        assert (near.reader, far.reader) == (HERE, THERE)
        assert near.protocol is far.protocol is T1
        for card in (near, far, far):
            await card.begin()
            await card.transmit(COUNT, T1)
            await card.end(LEAVE)
        assert (here.card.count, there.card.count) == (1, 2)
        await far.reconnect(SHARED, ANY, RESET)
        assert far.protocol is T1
        await far.status()
        await far.disconnect(LEAVE)
        with raises(ReturnCode.E_INVALID_HANDLE):
            await far.status()
        await context.close()


async def test_a_host_hears_of_a_context_when_it_is_used_there() -> None:
    async with Desk() as here, Desk() as there, united(here=here.manager, there=there.manager) as both:
        context = await both.open(ALICE)
        assert both.contexts == 1
        await context.connect(THERE, SHARED, ANY)
        assert (len(here.manager.contexts), len(there.manager.contexts)) == (0, 1)
        await context.connect(THERE, SHARED, ANY)
        await context.connect(HERE, SHARED, ANY)
        assert (len(here.manager.contexts), len(there.manager.contexts)) == (1, 1)
        await context.close()
        await context.close()
        assert (len(here.manager.contexts), len(there.manager.contexts)) == (0, 0)
        assert both.contexts == 0


async def test_peer_and_patience_are_the_same_everywhere() -> None:
    opened: list[tuple[Caller, float | None]] = []

    class Noting(Said):
        async def open(self, caller: Caller, patience: float | None = None) -> Context:
            opened.append((caller, patience))
            return await super().open(caller, patience)

    async with united(laptop=Noting("Reader"), desk=Noting("Other")) as both:
        context = await both.open(BOB, 0.7)
        await context.connect("Reader", SHARED, ANY)
        await context.connect("Other", SHARED, ANY)
        await context.close()
    assert opened == [(BOB, 0.7)] * 2


async def test_readers_that_do_not_exist_are_unknown() -> None:
    async with Desk() as here, united(here=here.manager, there=Said()) as both:
        context = await both.open(ALICE)
        with raises(ReturnCode.E_UNKNOWN_READER):
            await context.connect("Nothing", SHARED, ANY)
        assert shown(both) == [HERE]
        here.source.remove_reader(here.reader)
        with raises(ReturnCode.E_UNKNOWN_READER):
            await context.connect(HERE, SHARED, ANY)
        await context.close()
        with raises(ReturnCode.E_INVALID_HANDLE):
            await context.connect(HERE, SHARED, ANY)


async def test_a_connect_finds_a_reader_that_nobody_has_looked_at_yet() -> None:
    async with Desk() as here, united(here=here.manager) as one:
        here.source.add_reader("New").insert(here.card)
        context = await one.open(ALICE)
        assert (await context.connect("New", SHARED, ANY)).reader == "New"
        await context.close()


async def test_a_context_that_is_closed_while_it_opens_leaves_nothing() -> None:
    gate = asyncio.Event()

    class Slow(Said):
        async def open(self, caller: Caller, patience: float | None = None) -> Context:
            await gate.wait()
            return await super().open(caller, patience)

    slow = Slow("Reader")
    async with united(slow=slow) as one, asyncio.TaskGroup() as tasks:
        context = await one.open(ALICE)
        connecting = tasks.create_task(refusal(context.connect("Reader", SHARED, ANY)))
        await quiet()
        await context.close()
        gate.set()
        assert await connecting is ReturnCode.E_CANCELLED
        slow.context.close.assert_awaited_once_with()
        slow.context.connect.assert_not_awaited()


async def refusal(call: Any) -> ReturnCode | None:
    try:
        await call
    except PcscError as error:
        return error.code
    return None


async def test_hosts_close_side_by_side() -> None:
    slow, quick = Said("Slow"), Said("Quick")
    gate = asyncio.Event()
    slow.context = AsyncMock(close=gate.wait)
    async with united(slow=slow, quick=quick) as both, asyncio.TaskGroup() as tasks:
        context = await both.open(ALICE)
        for reader in ("Slow", "Quick"):
            await context.connect(reader, SHARED, ANY)
        closing = tasks.create_task(context.close())
        await quiet()
        quick.context.close.assert_awaited_once_with()
        assert not closing.done()
        gate.set()
        await closing


# --- hosts that go


async def test_a_host_that_is_out_of_reach_delays_no_program_at_another() -> None:
    async with Desk() as here, Desk() as there:
        hosts = {"here": await here.guest(), "there": await there.guest()}
        async with united(**hosts) as both:
            stuck, free = await both.open(ALICE), await both.open(ALICE)
            far = await stuck.connect(THERE, SHARED, ANY)
            there.roads[0].go_black()
            there.roads[0].open = False
            waiting = here.start(refusal(far.transmit(COUNT, T1)))
            await quiet()
            start = now()
            near = await free.connect(HERE, SHARED, ANY)
            await near.begin()
            assert (await near.transmit(COUNT, T1))[-2:] == b"\x90\x00"
            await near.end(LEAVE)
            assert now() - start < 0.01
            assert not waiting.done()
            assert await waiting is ReturnCode.E_READER_UNAVAILABLE
            await stuck.close()
            await free.close()


async def test_a_host_that_is_away_for_too_long_takes_its_readers_along_and_brings_them_back() -> None:
    async with Desk() as here, Desk(timing=Timing(grace=2.0)) as there:
        guest = await there.guest()
        async with united(here=here.manager, there=guest) as both:
            context = await both.open(ALICE)
            far = await context.connect(THERE, SHARED, ANY)
            before = both.snapshot
            there.roads[0].open = False
            there.roads[0].cut()
            await becomes(guest, LinkState.DOWN)
            assert shown(both) == [HERE]
            assert both.snapshot.reader_events > before.reader_events
            with raises(ReturnCode.E_READER_UNAVAILABLE):
                await far.transmit(COUNT, T1)
            with raises(ReturnCode.E_UNKNOWN_READER):
                await context.connect(THERE, SHARED, ANY)
            near = await context.connect(HERE, SHARED, ANY)
            await near.transmit(COUNT, T1)
            there.roads[0].open = True
            while shown(both) != [HERE, THERE]:
                await both.changed(both.snapshot.serial)
            again = await context.connect(THERE, SHARED, ANY)
            await again.transmit(COUNT, T1)
            await near.transmit(COUNT, T1)
            await context.close()


async def test_the_snapshot_is_that_of_the_moment() -> None:
    async with Desk() as here, united(here=here.manager) as one:
        assert isinstance(one.snapshot, Snapshot)
        context = await one.open(ALICE)
        await context.connect(HERE, SHARED, ANY)
        assert one.snapshot.readers[0].sharing == 1
        await context.close()
        assert one.snapshot.readers[0].sharing == 0


# --- members that are added and removed


async def test_a_member_that_is_added_shows_its_readers_behind_the_others() -> None:
    async with united(laptop=Said("Reader")) as union:
        before = union.snapshot
        late = Said("Reader", "Other")
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(union.changed(before.serial))
            await quiet()
            union.add(Member("desk", late))
            after = await waiting
        assert shown(union) == ["Reader", "Reader (desk)", "Other"]
        assert after.reader_events == before.reader_events + 2
        late.become("Other")
        assert shown(union) == ["Reader", "Other"]


async def test_with_a_member_its_readers_go_and_others_may_have_their_names() -> None:
    laptop, desk = Member("laptop", Said("Reader", "Other")), Member("desk", Said("Reader"))
    for member in (laptop, desk):
        member.known.set()
    async with Union([laptop, desk]) as union:
        await union.ready()
        before = union.snapshot
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(union.changed(before.serial))
            await quiet()
            await union.remove(laptop)
            assert (await waiting).reader_events == before.reader_events + 2
        assert shown(union) == ["Reader (desk)"], "what a program was told stays so"
        assert isinstance(laptop.manager, Said)
        laptop.manager.become("Third")
        await quiet()
        assert shown(union) == ["Reader (desk)"]
        with pytest.raises(ValueError, match="laptop"):
            await union.remove(laptop)
        union.add(Member("laptop", Said("Reader")))
        assert shown(union) == ["Reader (desk)", "Reader"]


async def test_nobody_waits_for_a_member_that_is_removed() -> None:
    laptop, desk = Member("laptop"), Member("desk", Said("Reader"))
    desk.known.set()
    start = now()
    async with Union([laptop, desk]) as union, asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(union.ready())
        await quiet()
        await union.remove(laptop)
        await waiting
        assert now() - start < FIRST_CHOICE
        assert shown(union) == ["Reader"]


async def test_handles_on_a_removed_side_are_of_no_use_and_contexts_stay() -> None:
    async with Desk() as here, Desk() as there, AsyncExitStack() as stack:
        members = {"here": Member("here", here.manager), "there": Member("there", await there.guest())}
        for member in members.values():
            member.known.set()
        union = await stack.enter_async_context(Union(members.values()))
        await union.ready()
        context, other = await union.open(ALICE), await union.open(BOB)
        near, far = await context.connect(HERE, SHARED, ANY), await context.connect(THERE, SHARED, ANY)
        queued = await other.connect(THERE, SHARED, ANY)
        await far.begin()
        waiting = here.start(refusal(queued.begin()))
        await quiet()
        assert not waiting.done()
        await union.remove(members["there"])
        await asyncio.sleep(0.1)
        assert len(there.manager.contexts) == 0, "what was held there is given back"
        assert await waiting is ReturnCode.E_READER_UNAVAILABLE
        for call in (
            far.transmit(COUNT, T1),
            far.end(LEAVE),
            far.begin(),
            far.status(),
            far.reconnect(SHARED, ANY, RESET),
            far.control(1, b"", 10),
            far.attribute(1),
            far.set_attribute(1, b""),
        ):
            assert await refusal(call) is ReturnCode.E_READER_UNAVAILABLE
        assert not far.counted
        await far.disconnect(LEAVE)
        assert await refusal(far.disconnect(LEAVE)) is ReturnCode.E_INVALID_HANDLE
        assert await refusal(context.connect(THERE, SHARED, ANY)) is ReturnCode.E_UNKNOWN_READER
        await near.begin()
        assert (await near.transmit(COUNT, T1))[-2:] == b"\x90\x00"
        await near.end(LEAVE)
        union.add(members["there"])
        again = await other.connect(THERE, SHARED, ANY)
        assert (await again.transmit(COUNT, T1))[-2:] == b"\x90\x00"
        await context.close()
        await other.close()


@pytest.mark.parametrize("when", ["while it opens", "while it connects"])
async def test_a_connect_to_a_side_that_is_removed_meanwhile_leaves_nothing(when: str) -> None:
    gate = asyncio.Event()

    class Slow(Said):
        async def open(self, caller: Caller, patience: float | None = None) -> Context:
            if when == "while it opens":
                await gate.wait()
            return await super().open(caller, patience)

    async def connect(*_: object) -> None:
        await gate.wait()
        raise PcscError(ReturnCode.E_CANCELLED)

    slow = Slow("Reader")
    slow.context.connect = connect
    member = Member("slow", slow)
    async with Union([member]) as union, asyncio.TaskGroup() as tasks:
        member.known.set()
        await union.ready()
        context = await union.open(ALICE)
        connecting = tasks.create_task(refusal(context.connect("Reader", SHARED, ANY)))
        await quiet()
        await union.remove(member)
        gate.set()
        assert await connecting is ReturnCode.E_READER_UNAVAILABLE
        slow.context.close.assert_awaited_once_with()
        await context.close()
