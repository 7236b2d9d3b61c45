"""Transactions: who holds the card, who waits, and how a turn passes on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from cardferry.manager import Settings
from cardferry.pcsc.constants import MAX_APDU_SIZE
from cardferry.pcsc.errors import PcscError, ReturnCode
from tests.manager.desk import APDU, DIRECT, EJECT, LEAVE, OK, RESET, SHARED, T1, Desk, elapsed, quiet, raises


async def test_transactions_are_first_come_first_served() -> None:
    async with Desk() as desk:
        desk.reader.takes["transmit"] = 0.02
        clients = [await desk.client(str(number)) for number in range(10)]
        served: list[int] = []

        async def turn(number: int) -> None:
            card = clients[number].card
            await card.begin()
            served.append(number)
            await card.transmit(APDU, T1)
            await card.end(LEAVE)

        start = asyncio.get_running_loop().time()
        calls = [desk.start(turn(number)) for number in range(10)]
        for call in calls:
            await call
        assert served == list(range(10))
        assert asyncio.get_running_loop().time() - start == pytest.approx(0.2)


async def test_reader_is_claimed_exactly_during_transactions() -> None:
    async with Desk() as desk:
        client = await desk.client()
        await client.card.transmit(APDU, T1)
        assert not desk.reader.held()
        await client.card.begin()
        assert desk.reader.held()
        await client.card.begin()
        await client.card.end(LEAVE)
        assert desk.reader.held()
        await client.card.end(LEAVE)
        assert not desk.reader.held()
        assert [call for call in desk.reader.calls if call in ("claim", "release")] == ["claim", "release"]


async def test_nested_transactions_count() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        for _ in range(3):
            await alice.card.begin()
        waiting = desk.start(bob.card.begin())
        for _ in range(2):
            await alice.card.end(LEAVE)
            await quiet()
            assert not waiting.done
        await alice.card.end(LEAVE)
        await waiting
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await alice.card.end(LEAVE)


async def test_end_without_begin() -> None:
    async with Desk() as desk:
        client = await desk.client()
        with raises(ReturnCode.E_NOT_TRANSACTED):
            await client.card.end(LEAVE)
        await client.card.begin()
        await client.card.end(LEAVE)
        with raises(ReturnCode.E_NOT_TRANSACTED):
            await client.card.end(RESET)
        assert "reset RESET" not in desk.reader.calls


async def test_end_of_somebody_elses_transaction_is_refused() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        await alice.card.begin()
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await bob.card.end(LEAVE)
        await alice.card.end(LEAVE)


@pytest.mark.parametrize("call", ["transmit", "control", "set_attribute", "reconnect", "begin"])
async def test_others_take_their_turn_after_the_transaction(call: str) -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "transmit": lambda: bob.card.transmit(APDU, T1),
            "control": lambda: bob.card.control(1, b"x", 10),
            "set_attribute": lambda: bob.card.set_attribute(1, b"x"),
            "reconnect": lambda: bob.card.reconnect(DIRECT, T1, LEAVE),
            "begin": bob.card.begin,
        }
        await alice.card.begin()
        waiting = desk.start(calls[call]())
        await quiet()
        assert not waiting.done
        assert await alice.card.transmit(APDU, T1) == OK  # the owner goes on meanwhile
        await alice.card.end(LEAVE)
        await waiting


@pytest.mark.parametrize("call", ["transmit", "control", "set_attribute", "reconnect", "begin"])
async def test_a_held_reply_is_bounded_by_patience(call: str) -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob", patience=1.0)
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "transmit": lambda: bob.card.transmit(APDU, T1),
            "control": lambda: bob.card.control(1, b"x", 10),
            "set_attribute": lambda: bob.card.set_attribute(1, b"x"),
            "reconnect": lambda: bob.card.reconnect(DIRECT, T1, LEAVE),
            "begin": bob.card.begin,
        }
        await alice.card.begin()
        waiting = desk.start(calls[call]())
        assert await elapsed(waiting) == pytest.approx(1.0)
        assert waiting.code is ReturnCode.E_SHARING_VIOLATION


async def test_the_place_in_the_queue_survives_the_librarys_retries() -> None:
    async with Desk(Settings(max_idle=1000)) as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob", patience=1.0)
        carol = await desk.client("carol")
        await alice.card.begin()
        for turn in range(5):
            with raises(ReturnCode.E_SHARING_VIOLATION):
                await bob.card.begin()
            if turn == 0:
                later = desk.start(carol.card.begin())
            await asyncio.sleep(0.1)
        again = desk.start(bob.card.begin())
        await quiet()
        await alice.card.end(LEAVE)
        await again
        assert not later.done
        await bob.card.end(LEAVE)
        await later


async def test_any_call_of_the_handle_takes_up_its_place() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob", patience=1.0)
        carol = await desk.client("carol")
        await alice.card.begin()
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await bob.card.begin()
        later = desk.start(carol.card.transmit(APDU, T1))
        await quiet()
        again = desk.start(bob.card.transmit(b"bob!", T1))
        await quiet()
        await alice.card.end(LEAVE)
        await again
        await later
        assert desk.reader.session == [b"bob!", APDU]


async def test_status_waits_for_the_end_of_a_transaction_and_leaves_its_reset_to_the_next_call() -> None:
    """As libykpiv asks, right after its connect: it gives up when that says that the card was reset."""
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        await alice.card.begin()
        waiting = desk.start(bob.card.status())
        await asyncio.sleep(20)
        assert not waiting.done
        await alice.card.end(RESET)
        await waiting
        with raises(ReturnCode.W_RESET_CARD):
            await bob.card.begin()


async def test_status_in_ones_own_transaction_needs_no_turn() -> None:
    async with Desk() as desk:
        alice = await desk.client("alice")
        await alice.card.begin()
        assert await elapsed(alice.card.status()) == 0
        await alice.card.end(LEAVE)


async def test_status_loses_patience() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob", patience=1.0)
        await alice.card.begin()
        waiting = desk.start(bob.card.status())
        assert await elapsed(waiting) == pytest.approx(1.0)
        assert waiting.code is ReturnCode.E_SHARING_VIOLATION


async def test_end_with_eject_ends_the_transaction_and_says_that_nothing_was_ejected() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        with raises(ReturnCode.E_NOT_TRANSACTED):
            await alice.card.end(EJECT)
        await alice.card.begin()
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await bob.card.end(EJECT)
        with raises(ReturnCode.E_UNSUPPORTED_FEATURE):
            await alice.card.end(EJECT)
        assert await elapsed(bob.card.begin()) == 0
        await bob.card.end(LEAVE)
        assert desk.reader.calls.count("reset RESET") == 0


async def test_attributes_are_answered_at_once_during_a_transaction() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        await alice.card.begin()
        assert await elapsed(desk.start(bob.card.attribute(1))) == 0
        assert await bob.card.attribute(1) == b"value"


async def test_attributes_wait_for_a_command_that_is_at_the_reader() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        desk.reader.takes["transmit"] = 2.0
        working = desk.start(alice.card.transmit(APDU, T1))
        await quiet()
        assert await elapsed(bob.card.attribute(1)) == pytest.approx(2.0)  # and the fake found no overlap
        await working


async def test_same_context_is_refused_at_once_instead_of_deadlocking() -> None:
    async with Desk() as desk:
        client = await desk.client(patience=None)
        other = await client.context.connect(desk.reader.name, DIRECT, T1)
        await client.card.begin()
        for call in (other.begin(), other.transmit(APDU, T1), other.reconnect(DIRECT, T1, LEAVE)):
            with raises(ReturnCode.E_SHARING_VIOLATION):
                await call
        await client.card.end(LEAVE)
        await other.begin()
        await other.end(LEAVE)


async def test_connect_inside_ones_own_transaction_goes_through() -> None:
    """pcscd blocks its own thread for ever here."""
    async with Desk() as desk:
        client = await desk.client()
        await client.card.begin()
        other = await asyncio.wait_for(client.context.connect(desk.reader.name, DIRECT, T1), 0.1)
        assert desk.sharing == 2
        await other.disconnect(LEAVE)
        await client.card.end(LEAVE)


async def test_disconnect_during_somebodys_transaction_leaves_it_alone() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        await alice.card.begin()
        assert await elapsed(bob.card.disconnect(LEAVE)) == 0
        assert desk.sharing == 1
        assert await alice.card.transmit(APDU, T1) == OK
        await alice.card.end(LEAVE)


async def test_disconnect_with_reset_takes_its_turn() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob", patience=1.0)
        await alice.card.begin()
        waiting = desk.start(bob.card.disconnect(RESET))
        await asyncio.sleep(10)  # longer than the patience of other calls
        assert not waiting.done
        assert "reset RESET" not in desk.reader.calls
        await alice.card.end(LEAVE)
        await waiting
        assert "reset RESET" in desk.reader.calls
        with raises(ReturnCode.W_RESET_CARD):
            await alice.card.status()


async def test_disconnect_inside_ones_own_transaction_ends_it_without_reset() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        await alice.card.begin()
        waiting = desk.start(bob.card.begin())
        await quiet()
        await alice.card.disconnect(LEAVE)
        await waiting
        assert not [call for call in desk.reader.calls if call.startswith("reset")]


async def test_idle_owner_loses_the_card() -> None:
    async with Desk(Settings(max_idle=30)) as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        await alice.card.begin()
        await alice.card.transmit(b"secret", T1)
        waiting = desk.start(bob.card.begin())
        assert await elapsed(waiting) == pytest.approx(30)
        assert desk.reader.session == []  # reset, so that bob does not inherit
        assert waiting.code is ReturnCode.W_RESET_CARD  # it was connected before, and perhaps counts on its own state
        with raises(ReturnCode.W_RESET_CARD):
            await alice.card.transmit(APDU, T1)
        with raises(ReturnCode.W_RESET_CARD):
            await alice.card.end(LEAVE)
        await bob.card.reconnect(SHARED, T1, LEAVE)
        await bob.card.begin()


async def test_owner_that_works_is_not_idle() -> None:
    async with Desk(Settings(max_idle=30)) as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        desk.reader.takes["transmit"] = 100.0  # a key is being generated
        await alice.card.begin()
        waiting = desk.start(bob.card.begin())
        assert await alice.card.transmit(APDU, T1) == OK
        await alice.card.end(LEAVE)
        await waiting


async def test_somebody_elses_attributes_do_not_keep_an_idle_owner() -> None:
    async with Desk(Settings(max_idle=30)) as desk:
        alice, bob, carol = await desk.client("alice"), await desk.client("bob"), await desk.client("carol")
        await alice.card.begin()
        waiting = desk.start(bob.card.begin())
        for _ in range(3):
            await asyncio.sleep(9)
            await carol.card.attribute(1)
        assert not waiting.done
        await asyncio.sleep(3.1)
        assert waiting.done


async def test_idle_owner_keeps_the_card_while_nobody_waits() -> None:
    async with Desk(Settings(max_idle=30)) as desk:
        alice = await desk.client("alice")
        await alice.card.begin()
        await asyncio.sleep(3600)
        assert await alice.card.transmit(APDU, T1) == OK
        await alice.card.end(LEAVE)


async def test_owner_that_comes_back_at_the_moment_of_eviction() -> None:
    async with Desk(Settings(max_idle=30)) as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob", None)
        await alice.card.begin()
        waiting = desk.start(bob.context.connect(desk.reader.name, SHARED, T1))
        desk.reader.takes["reset RESET"] = 1.0
        await asyncio.sleep(30.5)
        assert not waiting.done  # the card is being reset
        with raises(ReturnCode.W_RESET_CARD):
            await alice.card.transmit(APDU, T1)
        returning = desk.start(alice.card.reconnect(SHARED, T1, LEAVE))
        card = await waiting
        await card.begin()
        await returning  # it took its turn after bob's connect
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await alice.card.end(LEAVE)
        await card.end(LEAVE)


async def test_eviction_whose_reset_fails_still_passes_the_card_on(caplog: pytest.LogCaptureFixture) -> None:
    async with Desk(Settings(max_idle=30)) as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        await alice.card.begin()
        desk.reader.fails["reset RESET"] = PcscError(ReturnCode.W_UNRESPONSIVE_CARD)
        waiting = desk.start(bob.card.begin())
        with raises(ReturnCode.W_RESET_CARD):
            await waiting
        await bob.card.reconnect(DIRECT, T1, LEAVE)
        await bob.card.begin()
        assert "could not be reset" in caplog.text
        assert "disconnect UNPOWER" in desk.reader.calls  # it must forget all the same


async def test_command_longer_than_any_is_not_sent() -> None:
    async with Desk() as desk:
        client = await desk.client()
        with raises(ReturnCode.E_INSUFFICIENT_BUFFER):
            await client.card.transmit(bytes(MAX_APDU_SIZE + 1), T1)
        assert desk.reader.session == []


async def test_hand_over_costs_no_time() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        await alice.card.begin()
        waiting = desk.start(bob.card.begin())
        await asyncio.sleep(5)
        loop = asyncio.get_running_loop()
        start = loop.time()
        await alice.card.end(LEAVE)
        await waiting
        assert loop.time() == start
