"""Other users of a reader: programs on this computer at the same pcscd. The fake's ``local_begin`` is one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from cardferry.pcsc.errors import PcscError, ReturnCode
from tests.manager.desk import APDU, DIRECT, LEAVE, OK, READER, RESET, SHARED, T1, UNPOWER, Desk, elapsed, quiet, raises


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
        works: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
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
