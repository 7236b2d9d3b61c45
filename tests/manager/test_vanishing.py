"""Clients that go, or give up, in the middle of anything. The desk finds what they leave behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cardferry.manager import LocalManager, Settings
from cardferry.pcsc.constants import Protocol
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.reply import Reply
from cardferry.readers.base import ReaderObserver
from tests.callers import somebody
from tests.manager.desk import (
    APDU,
    ATR,
    DIRECT,
    EXCLUSIVE,
    LEAVE,
    OK,
    READER,
    RESET,
    SHARED,
    T1,
    UNPOWER,
    Client,
    Desk,
    FakeReader,
)
from tests.virtual_time import quiet


async def test_vanished_owners_card_is_reset_and_goes_to_the_next() -> None:
    async with Desk() as desk:
        alice, bob, carol = await desk.client("alice"), await desk.client("bob"), await desk.client("carol", None)
        await alice.card.begin()
        await alice.card.transmit(b"secret", T1)
        waiting = desk.start(bob.card.begin())
        connecting = desk.start(carol.context.connect(READER, SHARED, T1))
        await quiet()
        await alice.context.close()
        await quiet()
        assert waiting.code is ReturnCode.W_RESET_CARD
        card = await connecting
        assert desk.reader.session == []
        assert not desk.reader.held()
        await card.begin()
        await card.end(LEAVE)


async def test_vanished_exclusive_owners_card_is_reset() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice", EXCLUSIVE), await desk.client("bob", None)
        await alice.card.transmit(b"secret", T1)
        await alice.context.close()
        assert desk.sharing == 0
        await bob.context.connect(READER, SHARED, T1)
        assert desk.reader.session == []


async def test_who_holds_nothing_leaves_without_reset() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        await alice.card.transmit(APDU, T1)
        await alice.context.close()
        await bob.card.status()
        assert not [call for call in desk.reader.calls if call.startswith("reset")]


async def test_vanished_owner_that_was_to_be_told_of_a_reset_causes_no_other() -> None:
    async with Desk() as desk:
        alice = await desk.client("alice")
        await alice.card.begin()
        await alice.card.transmit(APDU, T1)
        desk.reader.fails["transmit"] = PcscError(ReturnCode.W_RESET_CARD)
        with pytest.raises(PcscError):
            await alice.card.transmit(APDU, T1)
        await alice.context.close()
        await quiet()
        assert not [call for call in desk.reader.calls if call.startswith("reset")]
        assert not desk.reader.held()


async def test_exclusive_owner_without_card_is_not_reset() -> None:
    async with Desk(card=False) as desk:
        alice = await desk.client("alice", DIRECT)
        await alice.card.begin()
        await alice.context.close()
        await quiet()
        assert not [call for call in desk.reader.calls if call.startswith("reset")]


async def test_one_slow_reset_does_not_hold_up_other_readers() -> None:
    async with Desk() as desk:
        second = type(desk.reader)("Reader 01 00")
        desk.manager.reader_added(second)
        desk.manager.card_inserted(second, ATR)
        alice, bob = await desk.client("alice"), await desk.client("bob", None)
        other = await alice.context.connect("Reader 01 00", SHARED, T1)
        await alice.card.begin()
        await other.begin()
        desk.reader.gates["reset RESET"] = asyncio.Event()
        waiting = desk.start(bob.context.connect("Reader 01 00", SHARED, T1))
        await quiet()
        await alice.context.close()
        await quiet()
        assert waiting.done
        _open(desk, "reset RESET")


Work = Callable[[Client], Awaitable[object]]


def _begin_and_end(client: Client) -> Awaitable[object]:
    async def work() -> None:
        await client.card.begin()
        await client.card.end(RESET)

    return work()


#: What a client can be at, and which of the reader's calls it then passes through.
WORK: dict[str, tuple[Work, tuple[str, ...]]] = {
    "connect": (lambda client: client.context.connect(READER, SHARED, T1), ("connect SHARED",)),
    "connect exclusively": (
        lambda client: client.context.connect(READER, EXCLUSIVE, T1),
        ("connect SHARED", "claim"),
    ),
    "begin": (lambda client: client.card.begin(), ("claim",)),
    "begin and end": (_begin_and_end, ("claim", "reset RESET", "release")),
    "transmit": (lambda client: client.card.transmit(APDU, T1), ("transmit",)),
    "control": (lambda client: client.card.control(1, b"", 1), ("control",)),
    "attribute": (lambda client: client.card.attribute(1), ("attribute",)),
    "set attribute": (lambda client: client.card.set_attribute(1, b""), ("set_attribute",)),
    "reconnect": (lambda client: client.card.reconnect(SHARED, T1, RESET), ("reset RESET",)),
    "reconnect exclusively": (
        lambda client: client.card.reconnect(EXCLUSIVE, T1, UNPOWER),
        ("reset UNPOWER", "claim"),
    ),
    "disconnect with reset": (lambda client: client.card.disconnect(RESET), ("reset RESET",)),
    "disconnect with unpower": (lambda client: client.card.disconnect(UNPOWER), ("disconnect UNPOWER",)),
}
POINTS = [(name, point) for name, (_, points) in WORK.items() for point in points]


async def _at(desk: Desk, name: str, point: str, *, inside: bool = False) -> tuple[Client, Any]:
    """A client whose work is at that point of the reader, where it stays until the gate opens."""
    connecting = name.startswith("connect")
    client = await desk.client("alice", None if connecting else SHARED)
    if inside:
        await client.card.begin()
    desk.reader.gates[point] = asyncio.Event()
    work = desk.start(WORK[name][0](client))
    await quiet()
    assert not work.done
    return client, work


def _open(desk: Desk, point: str) -> None:
    desk.reader.gates.pop(point).set()


@pytest.mark.parametrize(("name", "point"), POINTS)
async def test_context_closed_in_the_middle_of_a_call(name: str, point: str) -> None:
    async with Desk() as desk:
        client, work = await _at(desk, name, point)
        await client.context.close()
        _open(desk, point)
        await quiet()
        assert work.done
        await desk.check_usable()


@pytest.mark.parametrize(("name", "point"), [pair for pair in POINTS if "connect e" not in pair[0]])
async def test_context_closed_in_the_middle_of_a_call_inside_a_transaction(name: str, point: str) -> None:
    if point == "claim" or name == "connect":
        return  # claimed already, and connected
    async with Desk() as desk:
        if name == "begin and end":
            client = await desk.client("alice")
            await client.card.begin()
            desk.reader.gates[point] = asyncio.Event()
            work = desk.start(client.card.end(RESET))
            await quiet()
        else:
            client, work = await _at(desk, name, point, inside=True)
        bob = await desk.client("bob", None)
        waiting = desk.start(bob.context.connect(READER, SHARED, T1))
        await client.context.close()
        _open(desk, point)
        await quiet()
        assert work.done
        assert (await waiting) is not None


@pytest.mark.parametrize(("name", "point"), POINTS)
async def test_cancelled_in_the_middle_of_a_call(name: str, point: str) -> None:
    async with Desk() as desk:
        client, work = await _at(desk, name, point)
        work.cancel()
        await quiet()
        if point in desk.reader.gates:
            _open(desk, point)
        await quiet()
        assert work.done
        if not name.endswith("exclusively"):
            await desk.check_usable()
        await client.context.close()


@pytest.mark.parametrize(("name", "point"), POINTS)
async def test_reader_unplugged_in_the_middle_of_a_call(name: str, point: str) -> None:
    async with Desk() as desk:
        _client, work = await _at(desk, name, point)
        desk.unplug()
        _open(desk, point)
        await quiet()
        assert work.done


@pytest.mark.parametrize(("name", "point"), POINTS)
async def test_card_removed_in_the_middle_of_a_call(name: str, point: str) -> None:
    async with Desk() as desk:
        client, work = await _at(desk, name, point)
        desk.remove()
        _open(desk, point)
        await quiet()
        assert work.done
        desk.insert()
        await desk.check_usable()
        await client.context.close()


@pytest.mark.parametrize(("name", "point"), POINTS)
async def test_reader_fails_in_the_middle_of_a_call(name: str, point: str) -> None:
    async with Desk() as desk:
        client, work = await _at(desk, name, point)
        desk.reader.fails[point] = PcscError(ReturnCode.F_COMM_ERROR)
        _open(desk, point)
        await quiet()
        assert work.done
        desk.reader.fails.clear()
        await desk.check_usable()
        await client.context.close()


@pytest.mark.parametrize("name", WORK)
async def test_context_closed_while_a_call_waits_for_its_turn(name: str) -> None:
    async with Desk() as desk:
        bob = await desk.client("bob", SHARED)
        client = await desk.client("alice", None if name.startswith("connect") else DIRECT)
        if name == "connect exclusively":
            await bob.card.reconnect(EXCLUSIVE, T1, LEAVE)
        await bob.card.begin()
        work = desk.start(WORK[name][0](client))
        await quiet()
        await client.context.close()
        await quiet()
        assert work.done  # at once, not when bob is through
        assert await bob.card.transmit(APDU, T1) == OK
        await bob.card.end(LEAVE)


@pytest.mark.parametrize("call", ["begin", "transmit"])
async def test_context_closed_at_the_moment_its_turn_comes(call: str) -> None:
    async with Desk() as desk:
        alice, bob, carol = await desk.client("alice"), await desk.client("bob"), await desk.client("carol")
        desk.reader.gates["transmit"] = asyncio.Event()
        working = desk.start(alice.card.transmit(APDU, T1))
        await quiet()
        waiting, last = desk.start(WORK[call][0](bob)), desk.start(carol.card.begin())
        await quiet()
        desk.slot.turns.leave(alice.card)  # bob's turn, and it has not run yet
        await bob.context.close()
        await quiet()
        assert waiting.code is ReturnCode.E_CANCELLED
        _open(desk, "transmit")
        await working
        await last
        assert desk.reader.session == [APDU]


@pytest.mark.parametrize("how", ["cancelled", "closed", "impatient", "removed"])
async def test_claim_that_had_effect_but_no_answer_is_released(how: str) -> None:
    async with Desk() as desk:
        alice = await desk.client("alice", patience=1.0)
        desk.reader.gates["claimed"] = asyncio.Event()
        beginning = desk.start(alice.card.begin())
        await quiet()
        assert desk.reader.held()
        if how == "cancelled":
            beginning.cancel()
        elif how == "closed":
            await alice.context.close()
        elif how == "removed":
            desk.remove()
            desk.insert()
        else:
            await asyncio.sleep(1.1)
        await quiet()
        assert beginning.done
        assert not desk.reader.held()
        del desk.reader.gates["claimed"]
        await desk.check_usable()


async def test_claim_that_a_local_program_blocks_ends_with_its_client() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice", patience=None), await desk.client("bob")
        desk.reader.local_begin()
        beginning = desk.start(alice.card.begin())
        waiting = desk.start(bob.context.connect(READER, SHARED, T1))
        await asyncio.sleep(5)
        assert not beginning.done
        await alice.context.close()
        await quiet()
        assert beginning.code is ReturnCode.E_CANCELLED
        assert waiting.done
        desk.reader.local_end()


async def test_owner_vanishes_while_it_is_being_evicted() -> None:
    async with Desk(Settings(max_idle=30)) as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob", None)
        await alice.card.begin()
        waiting = desk.start(bob.context.connect(READER, SHARED, T1))
        desk.reader.gates["reset RESET"] = asyncio.Event()
        await asyncio.sleep(31)
        await alice.context.close()
        _open(desk, "reset RESET")
        await waiting
        assert desk.reader.calls.count("reset RESET") == 1


async def test_owner_reconnects_while_it_is_being_evicted() -> None:
    async with Desk(Settings(max_idle=30)) as desk:
        alice, bob = await desk.client("alice", EXCLUSIVE), await desk.client("bob", None)
        waiting = desk.start(bob.context.connect(READER, SHARED, T1))
        desk.reader.gates["reset RESET"] = asyncio.Event()
        await asyncio.sleep(31)
        renewing = desk.start(alice.card.reconnect(EXCLUSIVE, T1, LEAVE))
        await quiet()
        _open(desk, "reset RESET")
        await waiting
        await quiet()
        assert renewing.code is ReturnCode.E_SHARING_VIOLATION


async def test_manager_that_ends_resets_what_was_held() -> None:
    desk = Desk()
    async with desk.manager:
        desk.manager.reader_added(desk.reader)
        desk.insert()
        alice = await desk.client("alice")
        await alice.card.begin()
        await alice.card.transmit(b"secret", T1)
        desk.reader.takes["reset RESET"] = 0.5
    assert desk.reader.session == []
    assert not desk.reader.held()


async def test_manager_that_ends_does_not_wait_for_ever() -> None:
    desk = Desk(Settings(farewell=5.0))
    loop = asyncio.get_running_loop()
    async with desk.manager:
        desk.manager.reader_added(desk.reader)
        desk.insert()
        alice = await desk.client("alice")
        await alice.card.begin()
        desk.reader.gates["reset RESET"] = asyncio.Event()
        start = loop.time()
    assert loop.time() - start == pytest.approx(5.0)


async def test_all_ends_while_a_command_is_under_way() -> None:
    reader = FakeReader()
    never = Reply[bytes]()
    ended: list[Reply[bytes]] = []

    class Source:
        async def run(self, observer: ReaderObserver) -> None:
            observer.reader_added(reader)
            reader.empty = False
            observer.card_inserted(reader, ATR)
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                never.fail(PcscError(ReturnCode.E_READER_UNAVAILABLE))  # as a connection does that is closed

    async def use() -> None:
        async with LocalManager([Source()]) as manager:
            await manager.changed(manager.snapshot.serial)
            card = await (await manager.open(somebody("somebody"))).connect(READER, SHARED, Protocol.ANY)
            reader.transmit = lambda apdu, protocol: never  # type: ignore[method-assign]
            card.transmit(APDU, int(T1)).then(ended.append)
            using.set_result(None)
            await asyncio.get_running_loop().create_future()

    using: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(use())
        await using
        task.cancel()
    assert task.cancelled()
    assert [reply.error for reply in ended] == [never.error]
