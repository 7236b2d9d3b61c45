"""Readers that break their promises: the manager goes on, one call fails, and the log says whose bug it is."""

from __future__ import annotations

import asyncio

import pytest

from cardferry.pcsc.errors import PcscError, ReturnCode
from tests.manager.desk import APDU, LEAVE, OK, READER, RESET, SHARED, T1, UNPOWER, Desk, quiet, raises


class BugError(Exception):
    """Not a PcscError."""


async def test_bug_in_a_reader_is_contained(caplog: pytest.LogCaptureFixture) -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        await bob.card.begin()
        waiting = desk.start(alice.card.transmit(APDU, T1))
        desk.reader.fails["transmit"] = BugError("oops")
        with raises(ReturnCode.F_INTERNAL_ERROR):
            await bob.card.transmit(APDU, T1)
        assert "a bug in" in caplog.text
        assert "BugError: oops" in caplog.text
        assert "Traceback" in caplog.text
        assert await bob.card.transmit(APDU, T1) == OK  # the transaction still stands
        await bob.card.end(LEAVE)
        assert await waiting == OK


@pytest.mark.parametrize("call", ["control", "attribute", "set_attribute", "claim", "connect SHARED", "reset RESET"])
async def test_bug_in_any_call_is_contained(call: str) -> None:
    async with Desk() as desk:
        alice = await desk.client("alice", None if call.startswith("connect") else SHARED)
        desk.reader.fails[call] = BugError("oops")
        with raises(ReturnCode.F_INTERNAL_ERROR):
            if call == "control":
                await alice.card.control(1, b"", 1)
            elif call == "attribute":
                await alice.card.attribute(1)
            elif call == "set_attribute":
                await alice.card.set_attribute(1, b"")
            elif call == "claim":
                await alice.card.begin()
            elif call == "connect SHARED":
                await alice.context.connect(READER, SHARED, T1)
            else:
                await alice.card.reconnect(SHARED, T1, RESET)
        bob = await desk.client("bob")
        await bob.card.begin()
        await bob.card.end(LEAVE)


@pytest.mark.parametrize("error", [BugError("oops"), PcscError(ReturnCode.F_COMM_ERROR)])
async def test_card_is_passed_on_though_release_fails(error: Exception) -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        await alice.card.begin()
        waiting = desk.start(bob.card.begin())
        await quiet()
        desk.reader.fails["release"] = error
        await alice.card.end(LEAVE)
        await waiting


@pytest.mark.parametrize("error", [BugError("oops"), PcscError(ReturnCode.F_COMM_ERROR)])
async def test_vanished_owners_card_is_passed_on_though_nothing_works(error: Exception) -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob", None)
        await alice.card.begin()
        waiting = desk.start(bob.context.connect(READER, SHARED, T1))
        await quiet()
        desk.reader.fails["reset RESET"] = desk.reader.fails["release"] = error
        await alice.context.close()
        await waiting


@pytest.mark.parametrize("error", [BugError("oops"), PcscError(ReturnCode.F_COMM_ERROR)])
async def test_reader_that_cannot_be_let_go(error: Exception) -> None:
    async with Desk() as desk:
        alice = await desk.client("alice")
        desk.reader.fails["disconnect LEAVE"] = error
        await alice.card.disconnect(LEAVE)
        await asyncio.sleep(2)
        bob = await desk.client("bob")
        assert await bob.card.transmit(APDU, T1) == OK


async def test_failing_unpower_is_no_reason_to_keep_a_handle() -> None:
    async with Desk() as desk:
        alice = await desk.client("alice")
        desk.reader.fails["disconnect UNPOWER"] = PcscError(ReturnCode.F_COMM_ERROR)
        await alice.card.disconnect(UNPOWER)
        assert desk.sharing == 0


async def test_two_readers_of_one_name(caplog: pytest.LogCaptureFixture) -> None:
    async with Desk() as desk:
        second = type(desk.reader)()
        desk.manager.reader_added(second)
        assert "calls itself" in caplog.text
        assert len(desk.manager.snapshot.readers) == 1
        desk.manager.card_removed(second)  # concerns nobody
        desk.manager.reader_removed(second)
        assert desk.state.name == READER
        await desk.client("alice")


async def test_reports_about_an_unknown_reader_are_ignored() -> None:
    async with Desk() as desk:
        stranger = type(desk.reader)("stranger")
        desk.manager.card_inserted(stranger, b"")
        desk.manager.card_removed(stranger)
        desk.manager.reader_removed(stranger)
        assert len(desk.manager.snapshot.readers) == 1


async def test_bug_in_the_manager_itself_frees_the_card() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")

        def broken() -> None:
            raise BugError("oops")

        with pytest.raises(BugError):
            async with desk.slot.turn(alice.card.state, None):
                broken()
        await bob.card.begin()
