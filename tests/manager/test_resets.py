"""Resets and removals: who is told, what it takes to go on, and what happens in the middle of things."""

from __future__ import annotations

import asyncio

import pytest

from cardferry.pcsc.constants import CardState, Disposition, Protocol
from cardferry.pcsc.errors import PcscError, ReturnCode
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
    quiet,
    raises,
)

# Resets


@pytest.mark.parametrize("disposition", [RESET, UNPOWER])
async def test_reconnect_with_reset_tells_the_others(disposition: Disposition) -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        await alice.card.reconnect(SHARED, T1, disposition)
        await alice.card.status()
        for call in (bob.card.begin(), bob.card.status(), bob.card.transmit(APDU, T1), bob.card.attribute(1)):
            with raises(ReturnCode.W_RESET_CARD):
                await call
        assert await bob.card.control(1, b"x", 1) == b"x"
        await bob.card.reconnect(SHARED, T1, LEAVE)
        assert await bob.card.transmit(APDU, T1) == OK
        await alice.card.status()


@pytest.mark.parametrize("disposition", [RESET, UNPOWER])
async def test_end_with_reset_tells_the_caller_too(disposition: Disposition) -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        await alice.card.begin()
        await alice.card.transmit(b"secret", T1)
        await alice.card.end(disposition)
        assert desk.reader.session == []
        for client in (alice, bob):
            with raises(ReturnCode.W_RESET_CARD):
                await client.card.begin()
            await client.card.reconnect(SHARED, T1, LEAVE)
        await bob.card.begin()


@pytest.mark.parametrize("disposition", [RESET, UNPOWER])
async def test_disconnect_with_reset_tells_those_who_stay(disposition: Disposition) -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        await alice.card.disconnect(disposition)
        with raises(ReturnCode.W_RESET_CARD):
            await bob.card.status()


@pytest.mark.parametrize("leaving", [True, False])
async def test_who_connects_while_a_reset_waits_for_its_turn_has_lost_nothing_by_it(leaving: bool) -> None:
    """Several loops of yubico-piv-tool: it asks for the status after its connect, and gives up when that says reset."""
    async with Desk() as desk:
        alice, bob, carol = await desk.client("alice"), await desk.client("bob"), await desk.client("carol", None)
        await alice.card.begin()
        connecting = desk.start(carol.context.connect(READER, SHARED, T1))
        await quiet()
        resetting = desk.start(bob.card.disconnect(RESET) if leaving else bob.card.reconnect(SHARED, T1, RESET))
        await quiet()
        await alice.card.end(LEAVE)
        card = await connecting
        await resetting
        assert desk.reader.calls.count("reset RESET") == 1
        await card.status()
        assert await card.transmit(APDU, T1) == OK
        with raises(ReturnCode.W_RESET_CARD):
            await alice.card.status()


async def test_but_it_is_told_when_the_card_speaks_another_protocol_now() -> None:
    async with Desk() as desk:
        alice, bob, carol = await desk.client("alice"), await desk.client("bob"), await desk.client("carol", None)
        await alice.card.begin()
        connecting = desk.start(carol.context.connect(READER, SHARED, Protocol.ANY))
        await quiet()
        resetting = desk.start(bob.card.disconnect(RESET))
        await quiet()
        desk.reader.protocol = Protocol.T0
        await alice.card.end(LEAVE)
        card = await connecting
        await resetting
        with raises(ReturnCode.W_RESET_CARD):
            await card.status()


async def test_reset_of_a_card_without_power_is_to_power_it() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        await alice.card.disconnect(UNPOWER)
        await bob.card.reconnect(SHARED, T1, RESET)
        assert await bob.card.transmit(APDU, T1) == OK
        assert CardState.POWERED in desk.state.state


async def test_reset_inside_nested_transactions_ends_only_one() -> None:
    async with Desk() as desk:
        alice = await desk.client("alice")
        await alice.card.begin()
        await alice.card.begin()
        await alice.card.end(RESET)
        assert desk.reader.held()
        await alice.card.reconnect(SHARED, T1, LEAVE)
        await alice.card.end(LEAVE)
        assert not desk.reader.held()


async def test_failing_reset_ends_the_transaction_all_the_same() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        await alice.card.begin()
        desk.reader.fails["reset RESET"] = PcscError(ReturnCode.W_UNRESPONSIVE_CARD)
        with raises(ReturnCode.W_UNRESPONSIVE_CARD):
            await alice.card.end(RESET)
        assert not desk.reader.held()
        assert desk.slot.turns.owner is None
        assert desk.state.state == CardState.PRESENT  # no power, as far as we know
        await bob.card.reconnect(SHARED, T1, LEAVE)
        assert await bob.card.transmit(APDU, T1) == OK


async def test_failing_reset_is_no_reason_to_keep_a_handle() -> None:
    async with Desk() as desk:
        alice = await desk.client("alice")
        desk.reader.fails["reset RESET"] = PcscError(ReturnCode.W_UNRESPONSIVE_CARD)
        await alice.card.disconnect(RESET)
        assert desk.sharing == 0


async def test_failing_reconnect_changes_nothing_for_the_handle() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        await bob.card.reconnect(SHARED, T1, RESET)
        desk.reader.fails["reset RESET"] = PcscError(ReturnCode.W_UNRESPONSIVE_CARD)
        with raises(ReturnCode.W_UNRESPONSIVE_CARD):
            await alice.card.reconnect(SHARED, T1, RESET)
        with raises(ReturnCode.W_RESET_CARD):
            await alice.card.status()  # it still has to reconnect


async def test_mute_card_can_be_revived_by_a_reset() -> None:
    async with Desk(card=False) as desk:
        alice = await desk.client("alice", DIRECT)
        desk.insert(atr=b"")
        with raises(ReturnCode.W_UNRESPONSIVE_CARD):
            await alice.card.reconnect(SHARED, T1, LEAVE)
        await alice.card.reconnect(SHARED, T1, RESET)
        assert CardState.POWERED in desk.state.state
        assert await alice.card.transmit(APDU, T1) == OK


async def test_reset_by_another_user_of_the_reader_reaches_every_handle() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        for client in (alice, bob):
            await client.card.transmit(APDU, T1)
        desk.reader.fails["transmit"] = PcscError(ReturnCode.W_RESET_CARD)
        with raises(ReturnCode.W_RESET_CARD):
            await alice.card.transmit(APDU, T1)
        for client in (alice, bob):
            with raises(ReturnCode.W_RESET_CARD):
                await client.card.status()
            await client.card.reconnect(SHARED, T1, LEAVE)
            assert await client.card.transmit(APDU, T1) == OK


# Removals


async def test_removed_card_is_told_to_every_handle() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        desk.remove()
        for client in (alice, bob):
            for call in (client.card.begin(), client.card.end(LEAVE), client.card.status()):
                with raises(ReturnCode.W_REMOVED_CARD):
                    await call
            with raises(ReturnCode.W_REMOVED_CARD):
                await client.card.transmit(APDU, T1)
            for share in (SHARED, DIRECT, EXCLUSIVE):
                with raises(ReturnCode.E_SHARING_VIOLATION if share is EXCLUSIVE else ReturnCode.E_NO_SMARTCARD):
                    await client.card.reconnect(share, T1, LEAVE)
            assert await client.card.control(1, b"x", 1) == b"x"
        await alice.card.disconnect(RESET)
        await bob.card.disconnect(LEAVE)


async def test_reinserted_card_needs_a_reconnect() -> None:
    async with Desk() as desk:
        alice = await desk.client("alice")
        desk.remove()
        desk.insert()
        with raises(ReturnCode.W_REMOVED_CARD):
            await alice.card.transmit(APDU, T1)
        assert desk.state.protocol == Protocol.UNDEFINED
        connects = desk.reader.calls.count("connect SHARED")
        assert await alice.card.reconnect(SHARED, T1, LEAVE) == T1
        assert desk.reader.calls.count("connect SHARED") == connects + 1  # it needed power
        assert await alice.card.transmit(APDU, T1) == OK


async def test_removal_ends_the_transaction_and_wakes_who_waits() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        carol = await desk.client("carol", None)
        await alice.card.begin()
        waiting = desk.start(bob.card.begin())
        connecting = desk.start(carol.context.connect(READER, SHARED, T1))
        await quiet()
        desk.remove()
        with raises(ReturnCode.W_REMOVED_CARD):
            await waiting
        with raises(ReturnCode.E_NO_SMARTCARD):
            await connecting
        assert not desk.reader.held()
        with raises(ReturnCode.W_REMOVED_CARD):
            await alice.card.end(LEAVE)
        desk.insert()
        await bob.card.reconnect(SHARED, T1, LEAVE)
        await bob.card.begin()


async def test_removal_during_a_transmit() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        await alice.card.begin()
        desk.reader.gates["transmit"] = asyncio.Event()
        desk.reader.fails["transmit"] = PcscError(ReturnCode.E_NO_SMARTCARD)
        working, waiting = desk.start(alice.card.transmit(APDU, T1)), desk.start(bob.card.begin())
        await quiet()
        desk.remove()
        await quiet()
        assert not waiting.done  # the reader is still at it
        desk.reader.gates.pop("transmit").set()
        with raises(ReturnCode.E_NO_SMARTCARD):
            await working
        with raises(ReturnCode.W_REMOVED_CARD):
            await waiting
        with raises(ReturnCode.W_REMOVED_CARD):
            await alice.card.transmit(APDU, T1)


async def test_removal_ends_an_exclusive_connection() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice", EXCLUSIVE), await desk.client("bob", None)
        desk.remove()
        await quiet()
        assert desk.sharing == 0
        desk.insert()
        await bob.context.connect(READER, SHARED, T1)
        assert desk.sharing == 1
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await alice.card.reconnect(EXCLUSIVE, T1, LEAVE)
        await alice.card.reconnect(SHARED, T1, LEAVE)
        assert desk.sharing == 2


async def test_exclusive_owner_gets_its_lock_again_after_a_removal() -> None:
    async with Desk() as desk:
        alice = await desk.client("alice", EXCLUSIVE)
        desk.remove()
        desk.insert()
        await alice.card.reconnect(EXCLUSIVE, T1, LEAVE)
        assert desk.sharing == -1
        assert desk.reader.held()
        assert desk.slot.turns.owner is alice.card.state


@pytest.mark.parametrize("call", ["connect SHARED", "reset RESET"])
@pytest.mark.parametrize("reinserted", [False, True])
async def test_removal_while_the_card_is_powered(call: str, reinserted: bool) -> None:
    async with Desk() as desk:
        alice = await desk.client("alice", DIRECT)
        desk.reader.gates[call] = asyncio.Event()
        renewing = desk.start(alice.card.reconnect(SHARED, T1, RESET))
        await quiet()
        desk.remove()
        if reinserted:
            desk.insert()
        desk.reader.gates.pop(call).set()
        with raises(ReturnCode.E_NO_SMARTCARD):
            await renewing
        assert desk.state.protocol == Protocol.UNDEFINED
        assert bool(desk.state.state & CardState.PRESENT) == reinserted
        with raises(ReturnCode.W_REMOVED_CARD):
            await alice.card.status()
        if reinserted:
            await alice.card.reconnect(SHARED, T1, LEAVE)
            assert await alice.card.transmit(APDU, T1) == OK


async def test_removal_while_a_first_connect_powers_the_card() -> None:
    async with Desk() as desk:
        alice = await desk.client("alice", None)
        desk.reader.gates["connect SHARED"] = asyncio.Event()
        connecting = desk.start(alice.context.connect(READER, SHARED, T1))
        await quiet()
        desk.remove()
        desk.reader.gates.pop("connect SHARED").set()
        with raises(ReturnCode.E_NO_SMARTCARD):
            await connecting
        assert desk.state.state == CardState.ABSENT
        assert desk.sharing == 0


async def test_removal_while_begin_claims_the_reader() -> None:
    async with Desk() as desk:
        alice = await desk.client("alice")
        desk.reader.gates["claim"] = asyncio.Event()
        beginning = desk.start(alice.card.begin())
        await quiet()
        desk.remove()
        with raises(ReturnCode.W_REMOVED_CARD):
            await beginning  # without waiting for the claim
        desk.reader.gates.pop("claim")


async def test_removal_while_unpowering_does_not_bring_the_card_back() -> None:
    async with Desk() as desk:
        alice = await desk.client("alice")
        desk.reader.gates["disconnect UNPOWER"] = asyncio.Event()
        closing = desk.start(alice.card.disconnect(UNPOWER))
        await quiet()
        desk.remove()
        desk.reader.gates.pop("disconnect UNPOWER").set()
        await closing
        assert desk.state.state == CardState.ABSENT


# The reader itself goes


async def test_gone_reader_fails_everything_but_closing() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        desk.unplug()
        for call in (
            alice.card.begin(),
            alice.card.end(LEAVE),
            alice.card.transmit(APDU, T1),
            alice.card.control(1, b"", 1),
            alice.card.attribute(1),
            alice.card.set_attribute(1, b""),
            alice.card.status(),
            alice.card.reconnect(SHARED, T1, LEAVE),
        ):
            with raises(ReturnCode.E_READER_UNAVAILABLE):
                await call
        await alice.card.disconnect(RESET)
        await bob.context.close()
        with raises(ReturnCode.E_UNKNOWN_READER):
            await alice.context.connect(READER, SHARED, T1)


async def test_whoever_waits_learns_at_once_that_the_reader_has_gone() -> None:
    async with Desk() as desk:
        alice = await desk.client("alice")
        waiters = [await desk.client(str(number)) for number in range(5)]
        await alice.card.begin()
        waiting = [desk.start(client.card.begin()) for client in waiters]
        late = await desk.client("late", None)
        waiting.append(desk.start(late.context.connect(READER, SHARED, T1)))  # type: ignore[arg-type]
        await quiet()
        desk.unplug()
        await quiet()
        assert {call.code for call in waiting} == {ReturnCode.E_READER_UNAVAILABLE}


async def test_reader_that_goes_during_a_transmit() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        desk.reader.gates["transmit"] = asyncio.Event()
        desk.reader.fails["transmit"] = PcscError(ReturnCode.E_READER_UNAVAILABLE)
        working, waiting = desk.start(alice.card.transmit(APDU, T1)), desk.start(bob.card.begin())
        await quiet()
        desk.unplug()
        await quiet()
        assert waiting.code is ReturnCode.E_READER_UNAVAILABLE  # does not wait for the reader's last words
        desk.reader.gates.pop("transmit").set()
        with raises(ReturnCode.E_READER_UNAVAILABLE):
            await working


async def test_reader_that_goes_while_begin_claims_it() -> None:
    async with Desk() as desk:
        alice = await desk.client("alice")
        desk.reader.gates["claim"] = asyncio.Event()
        beginning = desk.start(alice.card.begin())
        await quiet()
        desk.unplug()
        await quiet()
        assert beginning.code is ReturnCode.E_READER_UNAVAILABLE
        desk.reader.gates.pop("claim").set()


async def test_reader_that_comes_back_under_its_name_is_another_one() -> None:
    async with Desk() as desk:
        alice = await desk.client("alice")
        desk.unplug()
        desk.reader = type(desk.reader)()
        desk.manager.reader_added(desk.reader)
        desk.insert()
        with raises(ReturnCode.E_READER_UNAVAILABLE):
            await alice.card.status()
        again = await alice.context.connect(READER, SHARED, T1)
        assert await again.transmit(APDU, T1) == OK
        assert desk.sharing == 1


async def test_reader_that_goes_during_eviction() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        await alice.card.begin()
        waiting = desk.start(bob.card.begin())
        desk.reader.gates["reset RESET"] = asyncio.Event()
        await asyncio.sleep(31)
        desk.unplug()
        await quiet()
        assert waiting.code is ReturnCode.E_READER_UNAVAILABLE
        desk.reader.gates.pop("reset RESET").set()


async def test_reconnect_that_fails_after_its_own_reset_must_be_repeated() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob", None)
        desk.reader.fails["claim"] = PcscError(ReturnCode.F_COMM_ERROR)
        with raises(ReturnCode.F_COMM_ERROR):
            await alice.card.reconnect(EXCLUSIVE, T1, RESET)
        with raises(ReturnCode.W_RESET_CARD):
            await alice.card.status()
        assert desk.sharing == 1
        await alice.card.reconnect(SHARED, T1, LEAVE)
        await bob.context.connect(READER, SHARED, T1)


async def test_nobody_is_told_of_a_reset_that_a_local_program_prevented() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice", patience=1.0), await desk.client("bob")
        desk.reader.local_begin()
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await alice.card.reconnect(SHARED, T1, RESET)
        desk.reader.local_end()
        await bob.card.status()
        await alice.card.status()


async def test_removal_is_not_outdone_by_a_later_reset() -> None:
    """With pcscd the last one wins."""
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        desk.remove()
        desk.insert()
        await alice.card.reconnect(SHARED, T1, RESET)
        with raises(ReturnCode.W_REMOVED_CARD):
            await bob.card.status()


async def test_eviction_without_a_card_tells_nobody_else() -> None:
    async with Desk(card=False) as desk:
        alice, bob = await desk.client("alice", DIRECT), await desk.client("bob", DIRECT)
        await alice.card.begin()
        await bob.card.begin()
        await bob.card.end(LEAVE)
        with raises(ReturnCode.W_RESET_CARD):
            await alice.card.end(LEAVE)


async def test_nobody_is_told_of_a_reset_that_was_not_tried() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        desk.reader.local_begin()
        desk.reader.fails["claim"] = PcscError(ReturnCode.F_COMM_ERROR)
        await alice.card.disconnect(RESET)
        desk.reader.local_end()
        await bob.card.status()


async def test_a_reset_that_somebody_is_told_of_is_told_to_a_command_that_waits_behind_him() -> None:
    """An attribute needs no turn, so it can come between the claim that a command needs and the command."""
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        for client in (alice, bob):
            await client.card.transmit(b"before", T1)
        desk.reader.local_begin()
        command = desk.start(alice.card.transmit(APDU, T1))
        await asyncio.sleep(0.1)
        asked = desk.start(bob.card.attribute(1))
        await asyncio.sleep(0.1)
        desk.reader.reset_by_others = True
        desk.reader.local_end()
        with raises(ReturnCode.W_RESET_CARD):
            await asked
        with raises(ReturnCode.W_RESET_CARD):
            await command
        assert desk.reader.session == []
        await alice.card.reconnect(SHARED, Protocol.ANY, LEAVE)
        assert await alice.card.transmit(APDU, T1) == OK
