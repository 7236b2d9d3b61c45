"""WAIT, STOP and CANCEL: exactly one message for each wait, and never one where it would be taken for another."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cardferry.frontends.pcsclite.seen import SHARING_DELAY
from cardferry.pcsc.errors import ReturnCode
from tests.frontends.at_desk import ARRAY, EVENTS, MODERN, NEWEST, Program, at_desk
from tests.frontends.library import SIZE, STATES, STOP, VERSION, WAIT, Build
from tests.manager.desk import ATR, READER, FakeReader
from tests.virtual_time import quiet

LEVELS = [Build(2), Build(3), Build(3, ">"), Build(4), Build(5), Build(6), Build(6, ">")]


async def register(program: Program) -> None:
    """As each level's library does it."""
    if program.build.minor >= 6:
        await program.register()
    else:
        await program.readers()
        await program.wait()
    await program.silence()


@pytest.mark.parametrize("build", LEVELS, ids=str)
async def test_one_event_for_one_wait(build: Build, tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program(build) as program:
        await program.establish()
        for _ in range(3):
            await register(program)
            post.desk.remove()
            assert await program.event() == 0
            post.desk.insert()
            await quiet()
            await program.silence()


@pytest.mark.parametrize("build", LEVELS, ids=str)
async def test_stop_is_answered_while_registered(build: Build, tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program(build) as program:
        await program.establish()
        await register(program)
        await program.stop()
        post.desk.remove()
        await quiet()
        await program.silence()


@pytest.mark.parametrize("build", LEVELS, ids=str)
async def test_stop_after_the_event_is_not_answered(build: Build, tmp_path: Path) -> None:
    """The event was on its way: the client takes it for the answer."""
    async with at_desk(tmp_path) as post, post.program(build) as program:
        await program.establish()
        await register(program)
        post.desk.remove()
        await quiet()
        await program.stop()  # takes the event for its answer
        await program.silence()


async def test_stop_without_wait_is_not_answered(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program() as program:
        await program.establish()
        program.tell(STOP)
        await program.silence()


@pytest.mark.parametrize("minor", [4, 5])
async def test_wait_is_answered_with_the_states_it_waits_for_a_change_of(minor: int, tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program(Build(minor)) as program:
        await program.establish()
        (reader,) = await program.wait()
        assert (reader.name, reader.atr, reader.counter) == (READER, ATR, 1)
        post.desk.remove()
        assert await program.event() == 0
        (reader,) = await program.wait()
        assert (reader.state, reader.atr, reader.counter) == (2, b"", 2)


@pytest.mark.parametrize("minor", [2, 3])
async def test_change_between_states_and_wait_of_an_old_client_is_told_at_once(minor: int, tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program(Build(minor)) as program:
        await program.establish()
        await program.readers()
        post.desk.remove()
        await program.wait()
        assert await program.event() == 0
        # what was told then is not told again
        await program.readers()
        await program.wait()
        await program.silence()
        post.desk.insert()
        assert await program.event() == 0


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("minor", [2, 3, 6])
async def test_client_that_waits_without_asking_for_states_is_not_told_the_same_again(
    minor: int, asked: bool, tmp_path: Path
) -> None:
    """A gateway that has a connection for events only does so."""
    async with at_desk(tmp_path) as post, post.program(Build(minor)) as program:
        await program.establish()
        if asked:
            await program.readers()
        for _ in range(3):
            program.tell(WAIT, *(() if minor == 6 else ("II", 0, 0)))
            await program.silence()  # VERSION as a barrier: the wait is in force
            post.desk.remove()
            assert await program.event() == 0
            program.tell(WAIT, *(() if minor == 6 else ("II", 0, 0)))
            await program.silence()
            post.desk.insert()
            assert await program.event() == 0


# 4:6: the event must not come between the wait and the states


@pytest.mark.parametrize("when", ["before the size", "before the array", "before the events"])
async def test_event_is_held_back_until_the_states_are_out(when: str, tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program(NEWEST) as program:
        await program.establish()
        program.tell(WAIT)
        await quiet()
        if when == "before the events":
            post.desk.remove()
            await quiet()
            program.tell(EVENTS)
            assert (await program.hear("II"))[0] == 2
        if when == "before the size":
            post.desk.remove()
            await quiet()
        program.tell(SIZE)
        (count,) = await program.hear("i")
        assert count == 16
        if when == "before the array":
            post.desk.remove()
            await quiet()
        program.tell(ARRAY)
        (reader,) = await program.array(count)
        assert reader.state == 2  # it is in the states
        await program.silence()  # and so no event follows
        post.desk.insert()
        assert await program.event() == 0


async def test_event_after_the_states_comes_at_once(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program(NEWEST) as program:
        await program.establish()
        await program.register()
        post.desk.remove()
        assert await program.event() == 0


@pytest.mark.parametrize("instead", ["version", "status", "stop"])
async def test_client_that_does_not_ask_for_the_states_gets_its_event_all_the_same(
    instead: str, tmp_path: Path
) -> None:
    async with at_desk(tmp_path) as post, post.program(NEWEST) as program:
        card = await program.connected()
        await asyncio.sleep(1)
        program.tell(WAIT)
        await quiet()
        post.desk.remove()
        await quiet()
        if instead == "version":
            program.tell(VERSION, "iiI", 4, 6, 0)
            assert await program.event() == 0
            assert await program.hear("iiI") == (4, 6, 0)
        elif instead == "status":
            program.tell(0x0B, "iI", card, 0)
            assert await program.event() == 0
            assert await program.hear("iI") == (card, ReturnCode.W_REMOVED_CARD)
        else:
            await program.stop()
        await program.silence()


async def test_array_has_the_announced_size_though_a_reader_came_in_between(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program(NEWEST) as program:
        await program.establish()
        program.tell(SIZE)
        (count,) = await program.hear("i")
        for number in range(30):
            post.desk.manager.reader_added(FakeReader(f"Other {number:02X} 00"))
        program.tell(ARRAY)
        assert len(await program.array(count)) == count == 16
        await program.silence()
        assert len(await program.all_states()) == 31


async def test_array_size_is_the_same_for_all_and_never_shrinks(tmp_path: Path) -> None:
    """A library keeps the size for all contexts of its process, and fails for ever when it is told less."""
    async with at_desk(tmp_path) as post, post.program(NEWEST) as one, post.program(NEWEST) as two:
        await one.establish()
        await two.establish()
        others = [FakeReader(f"Other {number:02X} 00") for number in range(63)]
        for other in others:
            post.desk.manager.reader_added(other)
        assert len(await one.all_states()) == 64
        for other in others:
            post.desk.manager.reader_removed(other)
        for program in (one, two):
            program.tell(SIZE)
            assert await program.hear("i") == (64,)
            program.tell(ARRAY)
            assert len(await program.array(64)) == 1
        async with post.program(NEWEST) as late:
            await late.establish()
            late.tell(SIZE)
            assert await late.hear("i") == (64,)


async def test_older_clients_see_their_first_16_readers(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program(MODERN) as program:
        for number in range(63):
            post.desk.manager.reader_added(FakeReader(f"Other {number:02X} 00"))
        await program.establish()
        names = [reader.name for reader in await program.readers()]
        assert names == [READER, *(f"Other {number:02X} 00" for number in range(15))]


# Cancel


@pytest.mark.parametrize("build", LEVELS, ids=str)
async def test_cancel_ends_the_wait_of_another_connection(build: Build, tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program(build) as program, post.program(build) as canceller:
        await program.establish()
        await register(program)
        assert await canceller.cancel(program.context) == 0  # its first and only message
        assert await program.event() == ReturnCode.E_CANCELLED
        post.desk.remove()
        await quiet()
        await program.silence()


async def test_cancel_without_a_wait_changes_nothing(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program() as program, post.program() as canceller:
        await program.establish()
        assert await canceller.cancel(program.context) == 0
        await program.silence()
        await program.wait()
        post.desk.remove()
        assert await program.event() == 0


async def test_cancel_of_no_context(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program() as canceller:
        assert await canceller.cancel(4711) == ReturnCode.E_INVALID_HANDLE


async def test_cancel_of_a_context_that_was_released(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program() as program, post.program() as canceller:
        await program.establish()
        await program.release()
        assert await canceller.cancel(program.context) == ReturnCode.E_INVALID_HANDLE


async def test_cancel_between_wait_and_states_is_told_after_them(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program(NEWEST) as program, post.program(NEWEST) as canceller:
        await program.establish()
        program.tell(WAIT)
        await quiet()
        assert await canceller.cancel(program.context) == 0
        assert len(await program.all_states()) == 1
        assert await program.event() == ReturnCode.E_CANCELLED
        await program.silence()


async def test_stop_takes_back_a_wait_that_was_cancelled_before_its_states(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program(NEWEST) as program, post.program(NEWEST) as canceller:
        await program.establish()
        program.tell(WAIT)
        await quiet()
        await canceller.cancel(program.context)
        await program.stop()
        await program.silence()
        await program.register()
        await program.silence()


# What is told, and when


async def test_insertions_and_removals_are_told_at_once(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program() as program:
        await program.establish()
        loop = asyncio.get_running_loop()
        for change in (post.desk.remove, post.desk.insert):
            await program.wait()
            before = loop.time()
            change()
            assert await program.event() == 0
            assert loop.time() == before


async def test_readers_that_come_and_go_are_told_at_once(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program() as program:
        await program.establish()
        other = FakeReader("Other 01 00")
        loop = asyncio.get_running_loop()
        before = loop.time()
        await program.wait()
        post.desk.manager.reader_added(other)
        assert await program.event() == 0
        assert len(await program.wait()) == 2
        post.desk.manager.reader_removed(other)
        assert await program.event() == 0
        assert len(await program.wait()) == 1
        assert loop.time() == before


async def test_sharing_is_told_a_little_later_and_all_at_once(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program() as program:
        await program.establish()
        await program.wait()
        loop = asyncio.get_running_loop()
        before = loop.time()
        clients = [await post.desk.client(str(number)) for number in range(5)]
        assert await program.event() == 0
        assert loop.time() - before == pytest.approx(SHARING_DELAY)
        (reader,) = await program.wait()
        assert reader.sharing == 5
        for client in clients:
            await client.context.close()
        assert await program.event() == 0
        assert (await program.wait())[0].sharing == 0


async def test_sharing_that_is_as_it_was_is_not_told(tmp_path: Path) -> None:
    """Whoever waits for the next change does so from the states that he knows."""
    async with at_desk(tmp_path) as post, post.program() as program, post.program() as other:
        await program.establish()
        await other.establish()
        await other.wait()
        client = await post.desk.client("somebody")
        await asyncio.sleep(0.2)
        await program.wait()  # knows of the client
        assert await other.event() == 0  # did not
        await program.silence()
        await client.context.close()
        assert await program.event() == 0


async def test_resets_are_not_told(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program() as program, post.program() as other:
        card = await other.connected()
        await program.establish()
        await asyncio.sleep(1)
        await program.wait()
        assert await other.reconnect(card, initialization=1) == 0
        await asyncio.sleep(1)
        await program.silence()


async def test_everybody_who_waits_is_told(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post:
        programs = [post.program(Build(level)) for level in (2, 3, 4, 5, 6) for _ in range(4)]
        for program in programs:
            await program.__aenter__()
            await program.establish()
            await register(program)
        post.desk.remove()
        for program in programs:
            assert await program.event() == 0
            await program.__aexit__(None, None, None)


async def test_reader_events_count(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program(Build(5)) as program:
        await program.establish()
        for expected in (2, 3):
            program.tell(EVENTS)
            assert await program.hear("II") == (expected, 0)
            post.desk.manager.reader_added(FakeReader(f"Other {expected:02X} 00"))


async def test_wait_that_is_repeated_gets_one_event(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program() as program:
        await program.establish()
        await program.wait()
        await program.wait()
        post.desk.remove()
        assert await program.event() == 0
        await program.silence()


async def test_program_that_goes_while_it_waits_is_forgotten(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post:
        async with post.program() as program:
            await program.establish()
            await program.wait()
            assert post.front.status.waiting == 1
        await quiet()
        assert (post.front.status.waiting, post.front.status.clients) == (0, 0)


async def test_states_are_sent_whole_while_things_change(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program(NEWEST) as program:
        await program.establish()
        for _ in range(20):
            program.tell(STATES)
            post.desk.remove()
            (reader,) = await program.array(16)
            post.desk.insert()
            assert reader.name == READER
