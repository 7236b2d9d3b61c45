"""Connecting: share modes, protocols, exclusive connections and their lease."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from cardferry.manager import ExclusivePolicy, Settings
from cardferry.pcsc.constants import PROTOCOL_ANY_OLD, CardState, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from tests.callers import somebody
from tests.manager.desk import (
    APDU,
    DIRECT,
    EJECT,
    EXCLUSIVE,
    LEAVE,
    OK,
    READER,
    RESET,
    SHARED,
    T1,
    UNPOWER,
    Desk,
    elapsed,
    quiet,
    raises,
)

HONOUR = Settings(exclusive=ExclusivePolicy.HONOUR)
T0 = Protocol.T0


# Counting


async def test_sharing_is_counted() -> None:
    async with Desk() as desk:
        assert desk.sharing == 0
        one, two = await desk.client(), await desk.client(share=DIRECT)
        assert desk.sharing == 2
        await one.card.disconnect(LEAVE)
        await two.card.disconnect(LEAVE)
        assert desk.sharing == 0
        await desk.client(share=EXCLUSIVE)
        assert desk.sharing == -1


async def test_one_context_can_have_many_handles() -> None:
    async with Desk() as desk:
        client = await desk.client()
        others = [await client.context.connect(READER, SHARED, T1) for _ in range(3)]
        assert desk.sharing == 4
        await client.context.close()
        assert desk.sharing == 0
        for card in others:
            with raises(ReturnCode.E_INVALID_HANDLE):
                await card.status()


async def test_closed_handle_is_invalid_for_every_call() -> None:
    async with Desk() as desk:
        client = await desk.client()
        card = client.card
        await card.disconnect(LEAVE)
        for call in (
            card.begin(),
            card.end(LEAVE),
            card.transmit(APDU, T1),
            card.control(1, b"", 1),
            card.attribute(1),
            card.set_attribute(1, b""),
            card.status(),
            card.reconnect(SHARED, T1, LEAVE),
            card.disconnect(LEAVE),
        ):
            with raises(ReturnCode.E_INVALID_HANDLE):
                await call


async def test_closed_context_connects_to_nothing() -> None:
    async with Desk() as desk:
        client = await desk.client(share=None)
        await client.context.close()
        with raises(ReturnCode.E_INVALID_HANDLE):
            await client.context.connect(READER, SHARED, T1)


# Protocols and power


@pytest.mark.parametrize(
    ("share", "protocols", "code"),
    [
        (SHARED, 0, ReturnCode.E_PROTO_MISMATCH),
        (EXCLUSIVE, Protocol.T15, ReturnCode.E_PROTO_MISMATCH),
        (SHARED, T0, ReturnCode.E_PROTO_MISMATCH),
    ],
)
async def test_protocols_that_do_not_fit(share: ShareMode, protocols: int, code: ReturnCode) -> None:
    async with Desk() as desk:
        client = await desk.client(share=None)
        with raises(code):
            await client.context.connect(READER, share, Protocol(protocols))
        assert desk.sharing == 0


async def test_protocol_that_came_by_the_old_name_for_any() -> None:
    async with Desk() as desk:
        client = await desk.client(protocols=Protocol(PROTOCOL_ANY_OLD))
        assert client.card.protocol == T1
        assert await client.card.transmit(APDU, PROTOCOL_ANY_OLD) == OK


async def test_later_connections_must_accept_the_protocol_in_force() -> None:
    async with Desk() as desk:
        await desk.client("first")
        late = await desk.client("late", None)
        with raises(ReturnCode.E_PROTO_MISMATCH):
            await late.context.connect(READER, SHARED, T0)
        assert desk.sharing == 1


async def test_protocol_of_those_who_left_binds_nobody() -> None:
    async with Desk() as desk:
        first = await desk.client("first")
        await first.card.disconnect(LEAVE)
        desk.reader.protocol = T0  # what the card chooses next
        late = await desk.client("late", protocols=T0)  # within the linger
        assert late.card.protocol == T0
        assert "reset RESET" in desk.reader.calls


async def test_raw_concerns_only_the_handle_that_asked() -> None:
    """With pcscd one connection with RAW in its mask switches the reader for everybody."""
    async with Desk() as desk:
        raw = await desk.client("raw", protocols=Protocol.RAW)
        assert raw.card.protocol == Protocol.RAW
        other = await desk.client("other", protocols=T1)
        assert other.card.protocol == T1
        assert await raw.card.transmit(APDU, Protocol.RAW) == OK
        assert await other.card.transmit(APDU, T1) == OK


@pytest.mark.parametrize("protocol", [0, T0, 3, 8])
async def test_transmit_with_another_protocol(protocol: int) -> None:
    async with Desk() as desk:
        client = await desk.client()
        with raises(ReturnCode.E_PROTO_MISMATCH):
            await client.card.transmit(APDU, protocol)
        assert desk.reader.session == []


async def test_no_card_and_mute_card() -> None:
    async with Desk(card=False) as desk:
        client = await desk.client(share=None)
        with raises(ReturnCode.E_NO_SMARTCARD):
            await client.context.connect(READER, SHARED, T1)
        desk.insert(atr=b"")
        assert desk.state.state == CardState.PRESENT | CardState.SWALLOWED
        with raises(ReturnCode.W_UNRESPONSIVE_CARD):
            await client.context.connect(READER, SHARED, T1)
        assert desk.sharing == 0


async def test_direct_needs_no_card_and_powers_none() -> None:
    async with Desk(card=False) as desk:
        client = await desk.client(share=DIRECT)
        assert client.card.protocol == Protocol.UNDEFINED
        assert await client.card.control(1, b"x", 10) == b"x"
        with raises(ReturnCode.E_NO_SMARTCARD):
            await client.card.transmit(APDU, T1)
        with raises(ReturnCode.E_NO_SMARTCARD):
            await client.card.transmit(APDU, Protocol.RAW)
        assert "transmit" in desk.reader.calls  # it is for the reader to say
        desk.insert()
        other = await desk.client("other")
        assert other.card.protocol == T1
        assert desk.reader.calls[:1] == ["connect DIRECT"]


async def test_unknown_reader() -> None:
    async with Desk() as desk:
        client = await desk.client(share=None)
        with raises(ReturnCode.E_UNKNOWN_READER):
            await client.context.connect("No such reader", SHARED, T1)


async def test_reader_lingers_after_the_last_handle() -> None:
    async with Desk(Settings(linger=1.0)) as desk:
        client = await desk.client()
        await client.card.disconnect(LEAVE)
        await asyncio.sleep(0.9)
        assert "disconnect LEAVE" not in desk.reader.calls
        again = await desk.client("again")
        assert desk.reader.calls.count("connect SHARED") == 1  # the card kept its power
        await again.card.disconnect(LEAVE)
        await asyncio.sleep(1.1)
        assert "disconnect LEAVE" in desk.reader.calls
        assert desk.state.protocol == Protocol.UNDEFINED


async def test_refused_connection_does_not_keep_the_reader() -> None:
    async with Desk() as desk:
        client = await desk.client()
        await client.card.disconnect(LEAVE)
        desk.reader.fails["reset RESET"] = PcscError(ReturnCode.E_PROTO_MISMATCH)
        other = await desk.client("other", None)
        with raises(ReturnCode.E_PROTO_MISMATCH):
            await other.context.connect(READER, SHARED, T0)
        await asyncio.sleep(1.1)
        assert not desk.reader.connected


# Waiting to connect


@pytest.mark.parametrize("share", [SHARED, DIRECT])
async def test_connect_waits_for_the_end_of_a_transaction(share: ShareMode) -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob", None, patience=1.0)
        await alice.card.begin()
        waiting = desk.start(bob.context.connect(READER, share, T1))
        await asyncio.sleep(20)  # no library repeats a refused connect, so this one has more patience
        assert not waiting.done
        await alice.card.end(LEAVE)
        await waiting


async def test_connect_gives_up_after_its_own_patience() -> None:
    async with Desk(Settings(connect_patience=60, max_idle=1000)) as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob", None, patience=1.0)
        await alice.card.begin()
        waiting = desk.start(bob.context.connect(READER, SHARED, T1))
        assert await elapsed(waiting) == pytest.approx(60)
        assert waiting.code is ReturnCode.E_SHARING_VIOLATION
        assert desk.slot.turns.waiting == []
        await alice.card.end(LEAVE)


# Exclusive


async def test_exclusive_is_refused_while_others_are_connected() -> None:
    async with Desk() as desk:
        await desk.client("alice")
        bob = await desk.client("bob", None)
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await bob.context.connect(READER, EXCLUSIVE, T1)
        assert desk.sharing == 1


async def test_exclusive_holds_the_card_without_begin() -> None:
    async with Desk() as desk:
        alice = await desk.client("alice", EXCLUSIVE)
        assert desk.reader.held()
        with raises(ReturnCode.E_NOT_TRANSACTED):
            await alice.card.end(LEAVE)  # its base count cannot be ended
        await alice.card.begin()
        await alice.card.end(LEAVE)
        assert desk.reader.held()
        await alice.card.disconnect(LEAVE)
        assert not desk.reader.held()


@pytest.mark.parametrize("share", [SHARED, DIRECT, EXCLUSIVE])
async def test_honoured_exclusive_connection_refuses_others_at_once(share: ShareMode) -> None:
    async with Desk(HONOUR) as desk:
        await desk.client("alice", EXCLUSIVE)
        bob = await desk.client("bob", None)
        call = desk.start(bob.context.connect(READER, share, T1))
        assert await elapsed(call) == 0
        assert call.code is ReturnCode.E_SHARING_VIOLATION


async def test_honoured_exclusive_connection_is_never_evicted() -> None:
    async with Desk(HONOUR) as desk:
        alice = await desk.client("alice", EXCLUSIVE)
        await asyncio.sleep(3600)
        assert await alice.card.transmit(APDU, T1) == OK


async def test_honoured_exclusive_connection_keeps_the_card_from_who_was_there_before() -> None:
    async with Desk(HONOUR) as desk:
        alice = await desk.client("alice", EXCLUSIVE)
        desk.remove()
        desk.insert()
        bob = await desk.client("bob", EXCLUSIVE)
        waiting = desk.start(alice.card.reconnect(SHARED, T1, LEAVE))
        await asyncio.sleep(3600)
        assert not waiting.done
        assert await bob.card.transmit(APDU, T1) == OK
        await bob.context.close()
        await waiting


@pytest.mark.parametrize("share", [SHARED, DIRECT, EXCLUSIVE])
async def test_leased_exclusive_connection_ends_after_max_idle(share: ShareMode) -> None:
    async with Desk(Settings(max_idle=30)) as desk:
        alice, bob = await desk.client("alice", EXCLUSIVE), await desk.client("bob", None)
        await alice.card.transmit(b"secret", T1)
        waiting = desk.start(bob.context.connect(READER, share, T1))
        assert await elapsed(waiting) == pytest.approx(30)
        card = await waiting
        assert desk.reader.session == []
        assert desk.sharing == (-1 if share is EXCLUSIVE else 1)  # alice does not count any more
        with raises(ReturnCode.W_RESET_CARD):
            await alice.card.transmit(APDU, T1)
        await card.disconnect(LEAVE)


async def test_dispossessed_owner_can_see_it_in_the_event_counter() -> None:
    """scdaemon has the reader to itself and looks at nothing else: to it the card was taken out and put in again."""
    async with Desk(Settings(max_idle=30)) as desk:
        await desk.client("alice", EXCLUSIVE)
        bob = await desk.client("bob", None)
        before = desk.state.event_counter
        await bob.context.connect(READER, SHARED, T1)
        assert desk.state.event_counter == before + 2


async def test_evicted_owner_of_a_transaction_leaves_the_event_counter_alone() -> None:
    async with Desk(Settings(max_idle=30)) as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob", None)
        before = desk.state.event_counter
        await alice.card.begin()
        await bob.context.connect(READER, SHARED, T1)
        assert desk.state.event_counter == before


async def test_eviction_is_counted_among_the_marks_though_nothing_is_reset() -> None:
    async with Desk(Settings(max_idle=30), card=False) as desk:
        alice, bob = await desk.client("alice", DIRECT), await desk.client("bob", None)
        await alice.card.begin()
        before = desk.state.marks
        await bob.context.connect(READER, DIRECT, T1)
        assert desk.state.marks != before


async def test_dispossessed_owner_comes_back_by_reconnect() -> None:
    async with Desk(Settings(max_idle=30)) as desk:
        alice, bob = await desk.client("alice", EXCLUSIVE), await desk.client("bob", None)
        card = await bob.context.connect(READER, SHARED, T1)
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await alice.card.reconnect(EXCLUSIVE, T1, LEAVE)  # bob is there
        await card.begin()
        returning = desk.start(alice.card.reconnect(SHARED, T1, LEAVE))
        await quiet()
        assert not returning.done
        await card.end(LEAVE)
        await returning
        assert desk.sharing == 2
        assert await alice.card.transmit(APDU, T1) == OK
        await card.disconnect(LEAVE)
        await alice.card.reconnect(EXCLUSIVE, T1, LEAVE)
        assert desk.sharing == -1


async def test_dispossessed_owner_can_simply_go() -> None:
    async with Desk(Settings(max_idle=30)) as desk:
        alice, bob = await desk.client("alice", EXCLUSIVE), await desk.client("bob", None)
        await bob.context.connect(READER, SHARED, T1)
        await alice.card.disconnect(RESET)
        assert desk.sharing == 1


@pytest.mark.parametrize("policy", ExclusivePolicy)
async def test_second_connect_of_the_exclusive_process_is_refused_at_once(policy: ExclusivePolicy) -> None:
    """Its threads would wait for each other; upstream's SCardExclusiveBehaviour.py expects the refusal."""
    async with Desk(Settings(exclusive=policy)) as desk:
        process = somebody("program", uid=0, pid=7)
        alice = await desk.client(share=EXCLUSIVE, caller=process)
        for context in (alice.context, (await desk.client(share=None, caller=process)).context):
            call = desk.start(context.connect(READER, SHARED, T1))
            assert await elapsed(call) == 0
            assert call.code is ReturnCode.E_SHARING_VIOLATION


async def test_where_processes_cannot_be_told_apart_a_second_connect_is_refused_until_the_lease_is_over() -> None:
    """As on a computer that has only sshd: it may be another thread of the process that has the card to itself."""
    async with Desk(Settings(max_idle=30)) as desk:
        guest = somebody("guest over ssh")
        alice = await desk.client(share=EXCLUSIVE, caller=guest)
        other = await desk.client(share=None, caller=guest, patience=1.0)
        for _ in range(3):
            await asyncio.sleep(29)
            for share in (SHARED, EXCLUSIVE):
                call = desk.start(other.context.connect(READER, share, T1))
                assert await elapsed(call) == 0
                assert call.code is ReturnCode.E_SHARING_VIOLATION
            assert await alice.card.transmit(APDU, T1) == OK
        await asyncio.sleep(20)
        third = await desk.client(share=None, caller=somebody("another guest over ssh"))
        assert await elapsed(third.context.connect(READER, SHARED, T1)) == pytest.approx(10)  # it waits, as ever
        await third.context.close()
        await alice.card.reconnect(EXCLUSIVE, T1, LEAVE)
        await asyncio.sleep(30)
        assert (await other.context.connect(READER, SHARED, T1)).reader == READER
        with raises(ReturnCode.W_RESET_CARD):
            await alice.card.transmit(APDU, T1)


async def test_there_the_card_is_not_kept_for_ever_by_one_that_is_never_idle() -> None:
    async with Desk(Settings(max_idle=30, max_hold=120)) as desk:
        guest = somebody("guest over ssh")
        alice = await desk.client(share=EXCLUSIVE, caller=guest)
        other = await desk.client(share=None, caller=guest, patience=1.0)
        for _ in range(80):
            assert await alice.card.transmit(APDU, T1) == OK
            with raises(ReturnCode.E_SHARING_VIOLATION):
                await other.context.connect(READER, SHARED, T1)
            await asyncio.sleep(1.5)
        assert await alice.card.transmit(APDU, T1) == OK
        await other.context.connect(READER, SHARED, T1)


async def test_same_process_number_on_another_computer_is_another_process() -> None:
    async with Desk(Settings(max_idle=30)) as desk:
        await desk.client(share=EXCLUSIVE, caller=replace(somebody("program", uid=0, pid=7), session=1))
        other = await desk.client(share=None, caller=replace(somebody("program", uid=0, pid=7), session=2))
        assert await elapsed(other.context.connect(READER, SHARED, T1)) == pytest.approx(30)


async def test_exclusive_inside_ones_own_transaction_is_refused() -> None:
    async with Desk() as desk:
        alice = await desk.client("alice")
        await alice.card.begin()
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await alice.context.connect(READER, EXCLUSIVE, T1)
        await alice.card.end(LEAVE)


async def test_reconnect_changes_the_share_mode() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob", None)
        await alice.card.reconnect(EXCLUSIVE, T1, LEAVE)
        assert desk.sharing == -1
        assert desk.reader.held()
        await alice.card.reconnect(EXCLUSIVE, T1, LEAVE)
        assert desk.reader.calls.count("claim") == 1
        await alice.card.reconnect(SHARED, T1, LEAVE)
        assert desk.sharing == 1
        assert not desk.reader.held()  # pcscd keeps the lock here
        await bob.context.connect(READER, SHARED, T1)
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await alice.card.reconnect(EXCLUSIVE, T1, LEAVE)


async def test_reconnect_to_exclusive_inside_a_transaction() -> None:
    async with Desk() as desk:
        alice = await desk.client("alice")
        await alice.card.begin()
        await alice.card.reconnect(EXCLUSIVE, T1, LEAVE)
        assert desk.reader.calls.count("claim") == 2  # the second time to be alone
        await alice.card.end(LEAVE)
        with raises(ReturnCode.E_NOT_TRANSACTED):
            await alice.card.end(LEAVE)
        assert desk.reader.held()


async def test_reconnect_to_shared_keeps_an_open_transaction() -> None:
    async with Desk() as desk:
        alice = await desk.client("alice", EXCLUSIVE)
        await alice.card.begin()
        await alice.card.reconnect(SHARED, T1, LEAVE)
        assert desk.reader.held()
        await alice.card.end(LEAVE)
        assert not desk.reader.held()
        assert desk.slot.turns.owner is None


async def test_wrong_arguments() -> None:
    async with Desk() as desk:
        client = await desk.client()
        with raises(ReturnCode.E_INVALID_VALUE):
            await client.card.reconnect(SHARED, T1, EJECT)
        with raises(ReturnCode.E_PROTO_MISMATCH):
            await client.card.reconnect(SHARED, Protocol.UNDEFINED, LEAVE)
        await client.card.disconnect(EJECT)


async def test_bounds_must_be_positive() -> None:
    for name in ("max_idle", "max_hold", "ticket_life", "connect_patience", "linger", "farewell"):
        bound: dict[str, Any] = {name: 0.0}
        with pytest.raises(ValueError, match=name):
            replace(Settings(), **bound)


async def test_disconnect_with_unpower_leaves_the_card_without_power() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        await alice.card.disconnect(UNPOWER)
        assert desk.state.state == CardState.PRESENT
        assert desk.state.protocol == Protocol.UNDEFINED
        assert desk.reader.calls[-1] == "disconnect UNPOWER"
        assert await bob.card.control(1, b"x", 10) == b"x"  # reaches the reader all the same
        with raises(ReturnCode.W_RESET_CARD):
            await bob.card.status()
        await bob.card.reconnect(SHARED, T1, LEAVE)
        assert CardState.POWERED in desk.state.state
        assert await bob.card.transmit(APDU, T1) == OK
