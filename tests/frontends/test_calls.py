"""Calls over the socket: contexts, handles, transactions, errors, and what happens when a program goes."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from cardferry.frontends.pcsclite import PcscliteFrontend
from cardferry.manager import ExclusivePolicy, LocalManager, Settings
from cardferry.manager.card import LocalCard
from cardferry.manager.context import LocalContext
from cardferry.manager.handle import HandleState
from cardferry.pcsc.caller import Caller
from cardferry.pcsc.constants import Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.transports.listening import ListeningSocket, listener
from tests.callers import somebody
from tests.frontends.at_desk import CONNECT, MODERN, NEWEST, RECONNECT, STATUS, Program, at_desk
from tests.frontends.library import (
    BEGIN,
    CONTROL,
    DISCONNECT,
    END,
    ESTABLISH,
    GET_ATTRIB,
    RELEASE,
    TRANSMIT,
    VERSION,
    Build,
)
from tests.manager.desk import APDU, LEAVE, OK, READER, SHARED, T1, Desk, FakeReader
from tests.virtual_time import quiet

E = ReturnCode


async def test_whole_life(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program(NEWEST) as program:
        card = await program.connected()
        assert await program.begin(card) == 0
        assert await program.transmit(card, 2, APDU) == b"\x90\x00"
        assert await program.end(card) == 0
        assert await program.status(card) == 0
        assert await program.control(card, 1, b"x") == b"x"
        assert await program.attribute(card, 1) == b"value"
        await program.set_attribute(card, 1, b"x")
        assert await program.reconnect(card) == 0
        assert await program.disconnect(card) == 0
        assert await program.release() == 0


@pytest.mark.parametrize("scope", [0, 1, 2, 3])
async def test_scopes_are_all_alike(scope: int, tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program() as program:
        _, context, rv = await program.ask(ESTABLISH, "III", scope, 0, 0)
        assert 0 < context <= 0x7FFFFFFF
        assert rv == 0


async def test_no_such_scope(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program() as program:
        program.tell(ESTABLISH, "III", 4, 0, 0)
        assert await program.hear("III") == (4, 0, E.E_INVALID_VALUE)


async def test_versions_from_4_2_to_4_6_get_their_own_back(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post:
        for minor in range(2, 7):
            async with post.program(Build(minor)) as program:
                assert await program.ask(VERSION, "iiI", 4, minor, 0) == (4, minor, 0)


@pytest.mark.parametrize(("major", "minor"), [(4, 1), (3, 4), (5, 0), (0, 0)])
async def test_other_versions_are_refused_so_that_nobody_loops(major: int, minor: int, tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program() as program:
        for _ in range(3):
            program.tell(VERSION, "iiI", major, minor, 0)
            *_, rv = await program.hear("iiI")
            assert rv == E.E_NO_SERVICE


async def test_newer_version_is_offered_4_6_once(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program() as program:
        program.tell(VERSION, "iiI", 4, 7, 0)
        assert await program.hear("iiI") == (4, 6, E.E_SERVICE_STOPPED)
        assert (await program.ask(VERSION, "iiI", 4, 6, 0)) == (4, 6, 0)


async def test_handshake_is_not_compulsory(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program() as program:
        _, program.context, _ = await program.ask(ESTABLISH, "III", 0, 0, 0)
        card = await program.connecting()
        assert await program.status(card) == 0


async def test_second_establish_replaces_the_number(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program() as program:
        card = await program.connected()
        old = program.context
        await program.establish()
        assert program.context != old
        assert await program.status(card) == 0
        assert await program.rv(RELEASE, "II", old, 0) == E.E_INVALID_VALUE
        assert await program.release() == 0


async def test_numbers_are_unique_over_all_connections(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post:
        programs = [post.program() for _ in range(20)]
        contexts, cards = set(), set()
        for program in programs:
            await program.__aenter__()
            cards.add(await program.connected())
            contexts.add(program.context)
        assert len(contexts) == len(cards) == 20
        assert all(0 < number <= 0x7FFFFFFF for number in contexts | cards)
        for program in programs:
            await program.__aexit__(None, None, None)


@pytest.mark.parametrize("command", [CONNECT, RELEASE])
async def test_context_of_another_connection_is_refused(command: int, tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program() as mine, post.program() as other:
        await mine.establish()
        await other.establish()
        mine.context = other.context
        if command == CONNECT:
            mine.tell(CONNECT, "I128sIIiII", mine.context, READER.encode(), 2, 3, 0, 0, 0)
            assert (await mine.hear("I128sIIiII"))[-1] == E.E_INVALID_VALUE
        else:
            assert await mine.release() == E.E_INVALID_VALUE
        assert await other.release() == 0


@pytest.mark.parametrize("state", ["of another connection", "of none", "closed", "released", "zero"])
async def test_handle_that_is_not_the_connections(state: str, tmp_path: Path) -> None:
    """pcscd sleeps for 2 s and closes the connection here."""
    async with at_desk(tmp_path) as post, post.program() as mine, post.program() as other:
        card = await mine.connected()
        if state == "of another connection":
            card = await other.connected()
        elif state == "of none":
            card = 1 if card != 1 else 2
        elif state == "closed":
            await mine.disconnect(card)
        elif state == "released":
            await mine.release()
        else:
            card = 0
        assert await mine.begin(card) == E.E_INVALID_HANDLE
        assert await mine.end(card) == E.E_INVALID_HANDLE
        assert await mine.status(card) == E.E_INVALID_HANDLE
        assert await mine.disconnect(card) == E.E_INVALID_HANDLE
        assert await mine.reconnect(card) == E.E_INVALID_HANDLE
        assert await mine.sending(card) == (0, E.E_INVALID_HANDLE)
        assert await mine.rv(CONTROL, "iIIIII", card, 1, 0, 10, 0, 0) == E.E_INVALID_HANDLE
        assert await mine.rv(GET_ATTRIB, "iI264sII", card, 1, b"", 264, 0) == E.E_INVALID_HANDLE
        await mine.silence()


@pytest.mark.parametrize(
    ("share", "protocols", "code"),
    [(0, 3, E.E_INVALID_VALUE), (4, 3, E.E_INVALID_VALUE), (2, 0, E.E_PROTO_MISMATCH), (2, 1, E.E_PROTO_MISMATCH)],
)
async def test_connect_with_wrong_arguments(share: int, protocols: int, code: ReturnCode, tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program() as program:
        await program.establish()
        program.tell(CONNECT, "I128sIIiII", program.context, READER.encode(), share, protocols, 0, 0, 0)
        *_, card, protocol, rv = await program.hear("I128sIIiII")
        assert (card, protocol, rv) == (0, 0, code)


async def test_wrong_dispositions(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program() as program:
        card = await program.connected()
        await program.begin(card)
        assert await program.end(card, 4) == E.E_INVALID_VALUE
        assert await program.disconnect(card, 4) == E.E_INVALID_VALUE
        assert await program.reconnect(card, initialization=3) == E.E_INVALID_VALUE
        assert await program.reconnect(card, share=9) == E.E_INVALID_VALUE
        assert await program.end(card) == 0  # all was refused, and the handle is as it was


async def test_response_that_does_not_fit_is_told_with_its_length(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program() as program:
        card = await program.connected()
        form = "iIIIII"
        program.tell(CONTROL, form, card, 1, 100, 10, 0, 0)
        program.write(bytes(100))
        *_, length, rv = await program.hear(form)
        assert (length, rv) == (100, E.E_INSUFFICIENT_BUFFER)
        await program.silence()


async def test_readers_are_given_all_the_room_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pcscd keeps an answer to itself that does not fit, and then nobody can say how long it is."""

    async def control(self: FakeReader, code: int, data: bytes, max_response: int) -> bytes:
        if max_response < 24:
            raise PcscError(E.E_INSUFFICIENT_BUFFER)
        return bytes(24)

    monkeypatch.setattr(FakeReader, "control", control)
    async with at_desk(tmp_path) as post, post.program() as program:
        card = await program.connected()
        program.tell(CONTROL, "iIIIII", card, 0x42000D48, 0, 4, 0, 0)
        *_, length, rv = await program.hear("iIIIII")
        assert (length, rv) == (24, E.E_INSUFFICIENT_BUFFER)
        await program.silence()


@pytest.mark.parametrize(
    ("apdu", "needed"), [(APDU, 2), (bytes.fromhex("00b0000010"), 18), (bytes.fromhex("0018000000"), 258), (b"?", 2)]
)
async def test_command_that_is_not_executed_says_how_much_room_it_needs_at_most(
    apdu: bytes, needed: int, tmp_path: Path
) -> None:
    async with at_desk(tmp_path) as post, post.program() as program:
        card = await program.connected()
        assert await program.sending(card, apdu, room=0) == (needed, E.E_INSUFFICIENT_BUFFER)
        assert post.desk.reader.session == []
        await program.silence()


@pytest.mark.parametrize("room", [0, 1])
async def test_command_whose_status_word_has_no_room_is_not_executed(room: int, tmp_path: Path) -> None:
    """A PIN try must not be burnt for an answer that nobody can read."""
    async with at_desk(tmp_path) as post, post.program() as program:
        card = await program.connected()
        assert await program.sending(card, room=room) == (2, E.E_INSUFFICIENT_BUFFER)
        assert post.desk.reader.session == []
        assert await program.sending(card, room=2) == (2, 0)
        await program.silence()


async def test_attribute_that_does_not_fit(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program() as program:
        card = await program.connected()
        assert await program.rv(GET_ATTRIB, "iI264sII", card, 1, b"", 4, 0) == E.E_INSUFFICIENT_BUFFER
        assert await program.rv(GET_ATTRIB, "iI264sII", card, 1, b"", 5, 0) == 0


# Waiting for a turn


async def test_held_reply_is_bounded_and_the_place_is_kept(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program() as program:
        card = await program.connected()
        owner, late = await post.desk.client("owner"), await post.desk.client("late")
        await owner.card.begin()
        loop = asyncio.get_running_loop()
        before = loop.time()
        assert await program.begin(card) == E.E_SHARING_VIOLATION
        assert loop.time() - before == pytest.approx(1.0)
        later = post.desk.start(late.card.begin())
        await asyncio.sleep(0.1)
        again = post.desk.start(program.begin(card))
        await quiet()
        await owner.card.end(LEAVE)
        assert await again == 0
        assert not later.done
        await program.end(card)
        await later


async def test_next_request_is_answered_after_the_one_that_waits(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program() as program:
        card = await program.connected()
        owner = await post.desk.client("owner")
        await owner.card.begin()
        program.tell(BEGIN, "iI", card, 0)
        program.tell(VERSION, "iiI", 4, 4, 0)
        await asyncio.sleep(0.5)
        await owner.card.end(LEAVE)
        assert await program.hear("iI") == (card, 0)
        assert await program.hear("iiI") == (4, 4, 0)


async def test_everything_in_one_write_is_answered_in_order(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program() as program:
        card = await program.connected()
        for command, form, values in (
            (BEGIN, "iI", (card, 0)),
            (STATUS, "iI", (card, 0)),
            (END, "iII", (card, 0, 0)),
            (RECONNECT, "iIIIII", (card, 2, 3, 0, 0, 0)),
            (DISCONNECT, "iII", (card, 0, 0)),
        ):
            program.tell(command, form, *values)
        assert await program.hear("iI") == (card, 0)
        assert await program.hear("iI") == (card, 0)
        assert await program.hear("iII") == (card, 0, 0)
        assert (await program.hear("iIIIII"))[-2:] == (2, 0)
        assert await program.hear("iII") == (card, 0, 0)


async def test_same_context_is_told_at_once_that_it_waits_for_itself(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program() as program:
        card = await program.connected()
        other = await program.connecting()
        await program.begin(card)
        loop = asyncio.get_running_loop()
        before = loop.time()
        assert await program.begin(other) == E.E_SHARING_VIOLATION
        assert await program.reconnect(other) == E.E_SHARING_VIOLATION
        assert loop.time() == before


@pytest.mark.parametrize("policy", ExclusivePolicy)
async def test_second_connect_of_an_exclusive_process_is_refused_at_once(
    policy: ExclusivePolicy, tmp_path: Path
) -> None:
    async with at_desk(tmp_path, Settings(exclusive=policy)) as post, post.program() as one, post.program() as two:
        await one.connected(share=1)
        await two.establish()
        two.tell(CONNECT, "I128sIIiII", two.context, READER.encode(), 2, 3, 0, 0, 0)
        assert (await two.hear("I128sIIiII"))[-1] == E.E_SHARING_VIOLATION


# Programs that go


@pytest.mark.parametrize("how", ["hangs up", "releases", "garbage"])
async def test_program_that_goes_inside_a_transaction(how: str, tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program() as program:
        card = await program.connected()
        await program.begin(card)
        await program.transmit(card, 2, b"secret")
        waiting = await post.desk.client("waiting", None)
        connecting = post.desk.start(waiting.context.connect(READER, SHARED, T1))
        await quiet()
        if how == "hangs up":
            program.hang_up()
        elif how == "releases":
            assert await program.release() == 0
        else:
            program.write(b"\xff" * 100)
        await connecting
        assert post.desk.reader.session == []


async def test_program_that_goes_while_it_waits_for_its_turn(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program() as program:
        card = await program.connected()
        owner = await post.desk.client("owner")
        await owner.card.begin()
        program.tell(BEGIN, "iI", card, 0)
        await quiet()
        program.hang_up()
        await quiet()
        assert post.desk.slot.turns.waiting == []
        assert post.desk.sharing == 1
        await owner.card.end(LEAVE)
        assert post.desk.slot.turns.owner is None


async def test_program_that_goes_while_its_command_is_executed(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program() as program:
        card = await program.connected()
        await program.begin(card)
        post.desk.reader.gates["transmit"] = asyncio.Event()
        program.tell(TRANSMIT, "iIIIIIII", card, 2, 16, len(APDU), 3, 16, 65548, 0)
        program.write(APDU)
        await quiet()
        program.hang_up()
        await quiet()
        waiting = await post.desk.client("waiting", None)
        connecting = post.desk.start(waiting.context.connect(READER, SHARED, T1))
        await quiet()
        assert not connecting.done  # the card is still at it
        post.desk.reader.gates.pop("transmit").set()
        await connecting
        assert post.desk.reader.session == []


@pytest.mark.parametrize("command", ["establish", "connect"])
async def test_program_that_goes_before_its_reply(command: str, tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post:
        async with post.program() as program:
            if command == "establish":
                program.tell(ESTABLISH, "III", 0, 0, 0)
            else:
                await program.establish()
                post.desk.reader.takes["connect SHARED"] = 1.0
                program.tell(CONNECT, "I128sIIiII", program.context, READER.encode(), 2, 3, 0, 0, 0)
                await quiet()
        await asyncio.sleep(2)
        assert post.desk.sharing == 0
        assert post.desk.manager.contexts == set()


@pytest.mark.parametrize("method", ["open", "connect"])
async def test_program_that_goes_before_a_slow_manager_has_answered(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manager on another computer may answer after it was told that the program has gone."""
    late: list[LocalContext | LocalCard] = []
    manager_open = LocalManager.open

    async def slow_open(self: LocalManager, caller: Caller, patience: float | None = None) -> LocalContext:
        await asyncio.sleep(1)
        context = await manager_open(self, caller, patience)
        late.append(context)
        return context

    async def slow_connect(self: LocalContext, reader: str, share: ShareMode, protocols: Protocol) -> LocalCard:
        await asyncio.sleep(1)
        slot = post.desk.manager.slot(reader)
        late.append(LocalCard(slot, HandleState(self, somebody()), None, self.cards.discard))
        return late[-1]  # type: ignore[return-value]

    async with at_desk(tmp_path) as post:
        async with post.program() as program:
            if method == "open":
                monkeypatch.setattr(LocalManager, "open", slow_open)
                program.tell(ESTABLISH, "III", 0, 0, 0)
            else:
                await program.establish()
                monkeypatch.setattr(LocalContext, "connect", slow_connect)
                program.tell(CONNECT, "I128sIIiII", program.context, READER.encode(), 2, 3, 0, 0, 0)
            await quiet()
        await asyncio.sleep(2)
        assert len(late) == 1
        assert post.desk.manager.contexts == set()


async def test_closed_handles_are_forgotten(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program() as program:
        await program.establish()
        for _ in range(5):
            await program.disconnect(await program.connecting())
        (connection,) = post.front.connections
        assert connection._cards == {}
        assert post.front.cards == set()


async def test_path_is_ours_until_the_socket_is_closed(tmp_path: Path) -> None:
    """Not only until the front is: nobody shall take it for dead meanwhile."""
    async with Desk() as desk:
        with ListeningSocket(tmp_path / "s") as listening:
            async with PcscliteFrontend(desk.manager, listening):
                pass
            assert listener(listening.path) is not None


async def test_front_that_ends_while_calls_wait(tmp_path: Path) -> None:
    """It hangs up, and nothing of its programs is left at the manager. Who came another way keeps what it has."""
    async with Desk() as desk, AsyncExitStack() as stack:
        owner = await desk.client("owner")
        await owner.card.begin()
        with ListeningSocket(tmp_path / "s") as listening:
            async with PcscliteFrontend(desk.manager, listening):
                waits = await stack.enter_async_context(Program(MODERN, listening.path))
                await waits.establish()
                waits.tell(CONNECT, "I128sIIiII", waits.context, READER.encode(), 2, 3, 0, 0, 0)
                idle = await stack.enter_async_context(Program(MODERN, listening.path))
                await idle.establish()
                await quiet()
                (slot,) = desk.manager.status.readers
                assert (len(slot.waiters), len(desk.manager.contexts)) == (1, 3)
            assert await waits.at_end(), "without an answer to its connect"
            assert await idle.at_end()
        (slot,) = desk.manager.status.readers
        assert (slot.waiters, slot.clients) == ([], [str(somebody("owner"))])
        assert desk.manager.contexts == {owner.context}
        assert slot.holder == str(somebody("owner"))
        assert await owner.card.transmit(APDU, T1) == OK
        await owner.card.end(LEAVE)


# Bugs


class BugError(Exception):
    """Not a PcscError."""


async def test_bug_behind_one_call_fails_that_call_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> None:
        raise BugError("oops")

    async with at_desk(tmp_path) as post, post.program() as program, post.program() as other:
        card = await program.connected()
        with monkeypatch.context() as patch:
            patch.setattr("cardferry.manager.card.LocalCard.status", broken)
            assert await program.status(card) == E.F_INTERNAL_ERROR
        assert await program.status(card) == 0
        await other.connected()
        assert "BugError: oops" in caplog.text
        assert any(record.levelno == logging.ERROR for record in caplog.records)


async def test_bug_in_a_reader_fails_that_call_only(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program() as program:
        card = await program.connected()
        post.desk.reader.fails["transmit"] = BugError("oops")
        assert await program.sending(card) == (0, E.F_INTERNAL_ERROR)
        assert await program.sending(card) == (2, 0)
