"""Other users of a reader: programs on this computer at the same pcscd. The fake's ``local_begin`` is one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from cardferry.manager import ExclusivePolicy, Settings
from cardferry.pcsc.constants import Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.reply import replying
from cardferry.readers.base import ExecutedError
from tests.manager.desk import (
    APDU,
    DIRECT,
    EXCLUSIVE,
    LEAVE,
    OK,
    READER,
    RESET,
    SHARED,
    T1,
    UNPOWER,
    Desk,
    FakeReader,
    elapsed,
    quiet,
    raises,
)


async def test_begin_waits_for_a_local_program() -> None:
    async with Desk() as desk:
        alice = await desk.client("alice")
        desk.reader.local_begin()
        waiting = desk.start(alice.card.begin())
        await asyncio.sleep(100)
        assert not waiting.done
        desk.reader.local_end()
        await waiting
        assert await alice.card.transmit(APDU, T1) == OK


async def test_begin_loses_patience_with_a_local_program_but_not_its_place() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice", patience=1.0), await desk.client("bob")
        desk.reader.local_begin()
        waiting = desk.start(alice.card.begin())
        assert await elapsed(waiting) == pytest.approx(1.0)
        assert waiting.code is ReturnCode.E_SHARING_VIOLATION
        carol = await desk.client("carol", None)
        second = desk.start(bob.card.begin())  # it is there when alice is not, and asks the reader
        third = desk.start(carol.context.connect(desk.reader.name, SHARED, T1))
        await quiet()
        again = desk.start(alice.card.begin())
        await quiet()
        desk.reader.local_end()
        await second
        await bob.card.end(LEAVE)
        await again
        assert not third.done
        await alice.card.end(LEAVE)
        await third


async def test_patience_counts_the_wait_for_the_turn_and_for_the_local_program_together() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob", patience=1.0)
        await alice.card.begin()
        waiting = desk.start(bob.card.begin())
        await asyncio.sleep(0.7)
        desk.reader.gates["claim"] = asyncio.Event()
        await alice.card.end(LEAVE)
        assert await elapsed(waiting) == pytest.approx(0.3)
        assert waiting.code is ReturnCode.E_SHARING_VIOLATION
        desk.reader.gates.pop("claim")


@pytest.mark.parametrize("call", ["transmit", "control", "attribute", "set_attribute", "reset", "dispose", "unpower"])
async def test_single_operation_waits_for_a_local_program(call: str) -> None:
    async with Desk() as desk:
        alice = await desk.client("alice")
        works: dict[str, Callable[[], Awaitable[object]]] = {
            "transmit": lambda: alice.card.transmit(APDU, T1),
            "control": lambda: alice.card.control(1, b"", 1),
            "attribute": lambda: alice.card.attribute(1),
            "set_attribute": lambda: alice.card.set_attribute(1, b""),
            "reset": lambda: alice.card.reconnect(SHARED, T1, RESET),
            "dispose": lambda: alice.card.disconnect(RESET),
            "unpower": lambda: alice.card.disconnect(UNPOWER),
        }
        desk.reader.local_begin()
        waiting = desk.start(works[call]())
        await asyncio.sleep(20)
        assert not waiting.done or call == "unpower"
        desk.reader.local_end()
        await waiting
        assert not desk.reader.held()
        if call not in ("dispose", "unpower"):
            assert desk.reader.calls[-3:] == ["claim", desk.reader.calls[-2], "release"]


@pytest.mark.parametrize("call", ["reconnect", "disconnect"])
async def test_a_handle_that_was_reset_is_renewed_beside_a_local_program(call: str) -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        await bob.card.reconnect(SHARED, T1, RESET)
        desk.reader.local_begin()
        work = alice.card.reconnect(SHARED, T1, RESET) if call == "reconnect" else alice.card.disconnect(RESET)
        waiting = desk.start(work)
        await asyncio.sleep(20)
        desk.reader.local_end()
        await waiting  # it knows that the card was reset
        assert waiting.code is ReturnCode.S_SUCCESS


async def test_single_operation_does_not_claim_when_nobody_is_in_the_way() -> None:
    async with Desk() as desk:
        alice = await desk.client("alice")
        await alice.card.transmit(APDU, T1)
        await alice.card.control(1, b"", 1)
        await alice.card.reconnect(SHARED, T1, RESET)
        assert "claim" not in desk.reader.calls


async def test_single_operation_loses_patience_with_a_local_program() -> None:
    async with Desk() as desk:
        alice = await desk.client("alice", patience=1.0)
        desk.reader.local_begin()
        waiting = desk.start(alice.card.transmit(APDU, T1))
        assert await elapsed(waiting) == pytest.approx(1.0)
        assert waiting.code is ReturnCode.E_SHARING_VIOLATION
        assert desk.reader.session == []  # never executed
        desk.reader.local_end()
        assert await alice.card.transmit(APDU, T1) == OK
        assert desk.reader.session == [APDU]


async def test_command_is_executed_once_though_it_was_refused_first() -> None:
    async with Desk() as desk:
        alice = await desk.client("alice")
        desk.reader.local_begin()
        waiting = desk.start(alice.card.transmit(APDU, T1))
        await quiet()
        desk.reader.local_end()
        assert await waiting == OK
        assert desk.reader.session == [APDU]


async def test_disconnect_with_reset_tells_when_a_local_program_prevents_it() -> None:
    async with Desk() as desk:
        alice = await desk.client("alice", patience=1.0)
        desk.reader.local_begin()
        waiting = desk.start(alice.card.disconnect(RESET))
        assert await elapsed(waiting) == pytest.approx(desk.manager.settings.connect_patience)
        assert waiting.code is ReturnCode.E_SHARING_VIOLATION
        assert desk.sharing == 0  # it is closed all the same
        desk.reader.local_end()


async def test_refusal_inside_a_transaction_is_the_callers() -> None:
    """The claim was asked for and not waited for, and the reader could not get it."""
    async with Desk() as desk:
        alice = await desk.client("alice")
        await alice.card.begin()
        desk.reader.fails["transmit"] = PcscError(ReturnCode.E_SHARING_VIOLATION)
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await alice.card.transmit(APDU, T1)
        assert desk.reader.calls.count("claim") == 1


# exclusive connections of ours: nobody here must wait for one without end


async def test_an_exclusive_connection_lasts_while_local_programs_are_refused() -> None:
    async with Desk(Settings(max_idle=30)) as desk:
        alice = await desk.client("alice", EXCLUSIVE)
        await asyncio.sleep(3600)
        assert await alice.card.transmit(APDU, T1) == OK


@pytest.mark.parametrize("how", ["connect", "reconnect", "reconnect in a transaction"])
async def test_one_for_which_local_programs_wait_ends_when_it_is_idle(how: str) -> None:
    async with Desk(Settings(max_idle=30)) as desk:
        desk.reader.local_programs = True
        alice = await desk.client("alice", EXCLUSIVE if how == "connect" else SHARED)
        if how != "connect":
            if how.endswith("transaction"):
                await alice.card.begin()
            await alice.card.reconnect(EXCLUSIVE, T1, LEAVE)
        assert desk.sharing == -1
        for _ in range(3):
            await asyncio.sleep(25)
            assert await alice.card.transmit(b"secret", T1) == OK
        await asyncio.sleep(31)
        assert not desk.reader.held()
        assert desk.reader.session == []  # nobody inherits what it did
        with raises(ReturnCode.W_RESET_CARD):
            await alice.card.transmit(APDU, T1)
        await alice.card.reconnect(EXCLUSIVE, T1, LEAVE)
        assert await alice.card.transmit(APDU, T1) == OK


async def test_one_for_which_local_programs_wait_ends_when_it_is_never_idle() -> None:
    async with Desk(Settings(max_idle=30, max_hold=120)) as desk:
        desk.reader.local_programs = True
        alice = await desk.client("alice", EXCLUSIVE)
        for _ in range(80):
            assert await alice.card.transmit(APDU, T1) == OK
            await asyncio.sleep(1.5)
        await quiet()
        assert not desk.reader.held()
        with raises(ReturnCode.W_RESET_CARD):
            await alice.card.transmit(APDU, T1)


async def test_one_that_is_honoured_is_refused_where_local_programs_would_wait() -> None:
    async with Desk(Settings(exclusive=ExclusivePolicy.HONOUR)) as desk:
        desk.reader.local_programs = True
        alice, bob = await desk.client("alice"), await desk.client("bob", None)
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await alice.card.reconnect(EXCLUSIVE, T1, LEAVE)
        assert not desk.reader.held()
        await alice.card.begin()
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await alice.card.reconnect(EXCLUSIVE, T1, LEAVE)
        assert desk.reader.held()  # the transaction goes on
        assert await alice.card.transmit(APDU, T1) == OK
        await alice.card.end(LEAVE)
        await alice.card.disconnect(LEAVE)
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await bob.context.connect(READER, EXCLUSIVE, T1)
        assert not desk.reader.held()
        desk.reader.local_programs = False
        await (await bob.context.connect(READER, EXCLUSIVE, T1)).disconnect(LEAVE)


# pcscd gives no handle while another program has the card locked


@pytest.mark.parametrize("share", [SHARED, EXCLUSIVE, DIRECT])
async def test_a_connect_for_which_the_reader_must_be_opened_waits_no_longer_than_any(share: ShareMode) -> None:
    async with Desk(Settings(connect_patience=60)) as desk:
        client = await desk.client("alice", None, patience=1.0)
        gate = desk.reader.gates[f"connect {'DIRECT' if share is DIRECT else 'SHARED'}"] = asyncio.Event()
        waiting = desk.start(client.context.connect(READER, share, T1))
        assert await elapsed(waiting) == pytest.approx(60)
        assert waiting.code is ReturnCode.E_SHARING_VIOLATION
        gate.set()
        await desk.check_usable()


async def test_calls_for_which_the_reader_must_be_opened_again_wait_no_longer_than_that() -> None:
    async with Desk(Settings(connect_patience=60)) as desk:
        alice, bob = await desk.client("alice", patience=1.0), await desk.client("bob", patience=1.0)
        await bob.card.disconnect(UNPOWER)
        desk.reader.gates["connect SHARED"] = desk.reader.gates["connect DIRECT"] = asyncio.Event()
        for work in (
            lambda: alice.card.control(1, b"", 1),
            lambda: alice.card.reconnect(SHARED, T1, LEAVE),
            lambda: alice.card.reconnect(SHARED, T1, RESET),
        ):
            waiting = desk.start(work())
            assert await elapsed(waiting) <= 121  # a reset is tried twice, outside of a claim and in one
            assert waiting.code is ReturnCode.E_SHARING_VIOLATION
        desk.reader.gates.clear()
        await alice.card.reconnect(SHARED, T1, LEAVE)
        assert await alice.card.transmit(APDU, T1) == OK


@pytest.mark.parametrize("call", ["connect", "reconnect"])
async def test_local_program_that_has_the_reader_exclusively_is_told_of_at_once(call: str) -> None:
    """Its lock cannot be waited for: there is no handle to wait with."""
    async with Desk() as desk:
        alice = await desk.client("alice", DIRECT)
        desk.reader.fails["connect SHARED"] = PcscError(ReturnCode.E_SHARING_VIOLATION)
        with raises(ReturnCode.E_SHARING_VIOLATION):
            if call == "connect":
                await alice.context.connect(READER, SHARED, T1)
            else:
                await alice.card.reconnect(SHARED, T1, LEAVE)
        assert "claim" not in desk.reader.calls
        await alice.card.control(1, b"", 1)


# they reset the card, of which we learn with the next command


async def test_a_program_hears_nothing_of_a_reset_before_its_time() -> None:
    """The reader lingers after the last program, and a program of the host's resets the card meanwhile."""
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob", None)
        await alice.card.transmit(APDU, T1)
        await alice.card.disconnect(LEAVE)
        desk.reader.reset_by_others = True
        card = await bob.context.connect(READER, SHARED, T1)
        await card.begin()
        assert await card.transmit(b"bob's", T1) == OK
        assert desk.reader.session == [b"bob's"]
        await card.end(LEAVE)
        await card.status()


@pytest.mark.parametrize("call", ["begin", "exclusive", "transmit", "attribute", "set_attribute"])
async def test_who_has_not_used_the_card_is_not_told_of_a_reset_and_who_has_is(call: str) -> None:
    async with Desk() as desk:
        bob = await desk.client("bob")
        works: dict[str, Callable[[], Awaitable[object]]] = {
            "begin": bob.card.begin,
            "exclusive": lambda: bob.card.reconnect(EXCLUSIVE, T1, LEAVE),
            "transmit": lambda: bob.card.transmit(APDU, T1),
            "attribute": lambda: bob.card.attribute(1),
            "set_attribute": lambda: bob.card.set_attribute(1, b""),
        }
        alice = None if call == "exclusive" else await desk.client("alice")
        if alice is not None:
            await alice.card.transmit(APDU, T1)
        desk.reader.fails["claim" if call in ("begin", "exclusive") else call] = PcscError(ReturnCode.W_RESET_CARD)
        await works[call]()
        await bob.card.status()
        if call == "begin":
            await bob.card.end(LEAVE)
        if alice is not None:
            with raises(ReturnCode.W_RESET_CARD):
                await alice.card.status()


async def test_a_command_that_was_executed_before_the_reset_is_not_repeated() -> None:
    """A wrong PIN would count twice."""
    async with Desk() as desk:
        alice = await desk.client("alice")
        await alice.card.begin()
        desk.reader.fails["transmit"] = ExecutedError("another program came in between")
        for _ in range(2):
            with raises(ReturnCode.W_RESET_CARD):
                await alice.card.transmit(APDU, T1)
        assert desk.reader.calls.count("transmit") == 1


async def test_a_reset_is_told_again_to_who_has_used_the_card_since_the_last_one() -> None:
    async with Desk() as desk:
        alice = await desk.client("alice")
        for _ in range(2):
            await alice.card.transmit(APDU, T1)
            desk.reader.reset_by_others = True
            with raises(ReturnCode.W_RESET_CARD):
                await alice.card.transmit(APDU, T1)
            await alice.card.reconnect(SHARED, T1, LEAVE)
            desk.reader.reset_by_others = True  # and nothing was lost by this one
            assert await alice.card.transmit(APDU, T1) == OK


async def test_a_reader_that_says_so_each_time_is_believed_in_the_end() -> None:
    async with Desk() as desk:
        alice = await desk.client("alice")
        transmit = desk.reader.transmit

        @replying
        async def failing(apdu: bytes, protocol: Protocol) -> bytes:
            raise PcscError(ReturnCode.W_RESET_CARD)

        desk.reader.transmit = failing  # type: ignore[method-assign]
        with raises(ReturnCode.W_RESET_CARD):
            await alice.card.transmit(APDU, T1)
        desk.reader.transmit = transmit  # type: ignore[method-assign]
        assert await alice.card.transmit(APDU, T1) == OK


@pytest.mark.parametrize("depth", [1, 2])
async def test_an_end_after_a_reset_in_the_middle_ends_the_transaction(depth: int) -> None:
    """libykpiv begins anew after it, without an end of the old one: at pcscd that shuts out everybody for ever."""
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        for _ in range(depth):
            await alice.card.begin()
        await alice.card.transmit(APDU, T1)
        desk.reader.reset_by_others = True
        with raises(ReturnCode.W_RESET_CARD):
            await alice.card.transmit(APDU, T1)
        waiting = desk.start(bob.card.begin())
        for _ in range(depth):
            await quiet()
            assert not waiting.done
            with raises(ReturnCode.W_RESET_CARD):
                await alice.card.end(LEAVE)
        await waiting
        await bob.card.end(LEAVE)


async def test_a_transaction_goes_on_after_a_reset_in_the_middle_and_a_reconnect() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        await alice.card.begin()
        await alice.card.transmit(APDU, T1)
        desk.reader.reset_by_others = True
        with raises(ReturnCode.W_RESET_CARD):
            await alice.card.transmit(APDU, T1)
        await alice.card.reconnect(SHARED, T1, LEAVE)
        waiting = desk.start(bob.card.begin())
        assert await alice.card.transmit(APDU, T1) == OK
        assert not waiting.done
        await alice.card.end(LEAVE)
        await waiting
        await bob.card.end(LEAVE)


async def test_others_on_the_reader_are_a_part_of_its_state() -> None:
    async with Desk() as desk:
        seen = []
        for present in (True, False):
            desk.manager.outsiders(desk.reader, present)
            seen.append(desk.state.outsiders)
        assert seen == [True, False]
        desk.manager.outsiders(FakeReader("stranger"), True)
        assert not desk.state.outsiders


async def test_a_command_of_a_program_that_has_died_is_not_repeated() -> None:
    async with Desk() as desk:
        alice = await desk.client("alice")
        desk.reader.reset_by_others = True
        gate = desk.reader.gates["transmit"] = asyncio.Event()
        call = desk.start(alice.card.transmit(APDU, T1))
        await quiet()
        await alice.context.close()
        gate.set()
        await quiet()
        assert call.done
        assert desk.reader.calls.count("transmit") == 1
