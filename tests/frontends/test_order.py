"""Calls that are sent ahead: made one after the other, each answered once, in their order."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import pytest

from cardferry.pcsc.errors import PcscError, ReturnCode
from tests.frontends.at_desk import STATUS, Program, at_desk
from tests.frontends.library import BEGIN, END, TRANSMIT
from tests.manager.desk import APDU, OK

TRANSMIT_FORM = "iIIIIIII"


def request(command: int, form: str, *values: int) -> bytes:
    body = struct.pack(f"={form}", *values)
    return struct.pack("=II", len(body), command) + body


def transmit(card: int, apdu: bytes = APDU, room: int = 65548) -> bytes:
    return request(TRANSMIT, TRANSMIT_FORM, card, 2, 16, len(apdu), 3, 16, room, 0) + apdu


def begin(card: int) -> bytes:
    return request(BEGIN, "iI", card, 0)


def end(card: int, disposition: int = 0) -> bytes:
    return request(END, "iII", card, disposition, 0)


def status(card: int) -> bytes:
    return request(STATUS, "iI", card, 0)


async def answer(program: Program) -> tuple[int, bytes]:
    """The return value of a transmit, and the response."""
    *_, length, rv = await program.hear(TRANSMIT_FORM)
    return rv, b"" if rv else await program.raw(length)


@pytest.mark.parametrize("slow", [(), ("transmit",), ("claim", "release"), ("claim", "release", "transmit")])
async def test_requests_that_are_sent_ahead_are_answered_in_their_order(tmp_path: Path, slow: tuple[str, ...]) -> None:
    """Whichever of them take their time: nothing overtakes, and nothing begins before what comes before has ended."""
    async with at_desk(tmp_path) as post, post.program() as program:
        card = await program.connected()
        reader = post.desk.reader
        reader.takes.update(dict.fromkeys(slow, 0.1))
        del reader.calls[:]
        rounds = 5
        one = begin(card) + transmit(card) + transmit(card) + status(card) + end(card) + transmit(card) + status(card)
        program.write(one * rounds)
        for _ in range(rounds):
            assert (await program.hear("iI"))[-1] == 0
            for _ in range(2):
                assert await answer(program) == (0, OK)
            assert (await program.hear("iI"))[-1] == 0
            assert (await program.hear("iII"))[-1] == 0
            assert await answer(program) == (0, OK)
            assert (await program.hear("iI"))[-1] == 0
        await program.silence()
        assert reader.calls == ["claim", "transmit", "transmit", "release", "transmit"] * rounds


async def test_errors_are_answered_once_too_and_what_comes_behind_them_goes_on(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program() as program:
        card = await program.connected()
        post.desk.reader.fails["transmit"] = PcscError(ReturnCode.F_COMM_ERROR)
        program.write(transmit(card) + transmit(card) + status(card))
        assert await answer(program) == (ReturnCode.F_COMM_ERROR, b"")
        assert await answer(program) == (0, OK)
        assert (await program.hear("iI"))[-1] == 0
        await program.silence()


async def test_an_end_that_resets_does(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program() as program:
        card = await program.connected()
        program.write(begin(card) + end(card, 1))
        assert (await program.hear("iI"))[-1] == 0
        assert (await program.hear("iII"))[-1] == 0
        assert post.desk.reader.calls[-2:] == ["reset RESET", "release"]


async def test_a_command_without_room_for_its_answer_is_not_carried_out(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program() as program:
        card = await program.connected()
        program.write(transmit(card, room=1) + transmit(card, room=2))
        assert await answer(program) == (ReturnCode.E_INSUFFICIENT_BUFFER, b"")
        assert await answer(program) == (0, OK)
        assert post.desk.reader.session == [APDU]


async def test_a_handle_that_is_not_the_programs(tmp_path: Path) -> None:
    async with at_desk(tmp_path) as post, post.program() as program:
        card = await program.connected()
        program.write(begin(card + 1) + transmit(card + 1) + end(card + 1))
        assert (await program.hear("iI"))[-1] == ReturnCode.E_INVALID_HANDLE
        assert await answer(program) == (ReturnCode.E_INVALID_HANDLE, b"")
        assert (await program.hear("iII"))[-1] == ReturnCode.E_INVALID_HANDLE


@pytest.mark.parametrize("transaction", [False, True])
async def test_a_program_goes_away_in_the_middle_of_a_command(tmp_path: Path, transaction: bool) -> None:
    async with at_desk(tmp_path) as post:
        async with post.program() as program:
            card = await program.connected()
            post.desk.reader.takes["transmit"] = 1
            program.write((begin(card) if transaction else b"") + transmit(card) + transmit(card))
            await asyncio.sleep(0.5)
            assert not post.desk.reader.idle
            program.hang_up()
        await asyncio.sleep(2)
        assert post.desk.reader.history.count(APDU) == 1
        assert ("reset RESET" in post.desk.reader.calls) is transaction
        post.desk.reader.takes.clear()
        await post.desk.check_usable()
