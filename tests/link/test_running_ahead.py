"""Running ahead from end to end: what it saves, and that a program cannot tell."""

from __future__ import annotations

import asyncio
import random

import pytest

from cardferry.link import Guest
from cardferry.link.guest_foreseen import Foreseen
from cardferry.link.messages import REVOKED, Ahead
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.interface import Card
from tests.link.cards import COUNT, FileCard
from tests.link.desk import ALICE, ANY, BOB, LEAVE, READER, RESET, SHARED, T1, Desk, becomes, raises
from tests.link.test_host_run_ahead import CONTENT, GET_DATA, SELECT, get_response, read
from tests.link.test_round_trips import DELAY, round_trips

__all__ = ["becomes"]


async def connect(guest: Guest, patience: float | None = 1.0) -> Card:
    return await (await guest.open(ALICE, patience)).connect(READER, SHARED, ANY)


async def fetch(card: Card, first: bytes = GET_DATA) -> bytes:
    response = await card.transmit(first, T1)
    whole = response[:-2]
    while response[-2] == 0x61:
        response = await card.transmit(get_response(response[-1]), T1)
        whole += response[:-2]
    assert response[-2:] == b"\x90\0"
    return whole


async def read_file(card: Card, size: int = 1000, portion: int = 200) -> bytes:
    whole = b""
    for offset in range(0, size, portion):
        response = await card.transmit(read(offset, min(portion, size - offset)), T1)
        assert response[-2:] == b"\x90\0"
        whole += response[:-2]
    return whole


async def test_a_long_response_costs_one_round_trip() -> None:
    async with Desk(FileCard(CONTENT), delay=DELAY) as desk:
        guest = await desk.guest()
        card = await connect(guest)
        with round_trips(1):
            assert await fetch(card) == CONTENT
        await card.disconnect(LEAVE)
        assert (guest.counters.hits, guest.counters.waste) == (3, 0)
        await asyncio.sleep(0.1)
        assert desk.host.status.guests[0].ahead_hits == 3


async def test_a_file_costs_one_round_trip() -> None:
    async with Desk(FileCard(CONTENT), delay=DELAY, card_delay=0.001) as desk:
        guest = await desk.guest()
        card = await connect(guest)
        await card.begin()
        await card.transmit(SELECT, T1)
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert await read_file(card) == CONTENT
        assert loop.time() - began < 2 * DELAY + 0.01
        await card.end(LEAVE)
        assert guest.counters.hits == 4


async def test_reading_ahead_is_left_alone_when_the_card_is_slower_than_the_way() -> None:
    async with Desk(FileCard(CONTENT), delay=0.001, card_delay=0.02) as desk:
        guest = await desk.guest()
        card = await connect(guest)
        await card.begin()
        assert await read_file(card) == CONTENT
        await card.end(LEAVE)
        assert guest.counters.hits == 0
        assert desk.card.count == 5


@pytest.mark.parametrize("at_host", [True, False])
async def test_it_can_be_turned_off_at_either_end(at_host: bool) -> None:
    async with Desk(FileCard(CONTENT), delay=DELAY, accelerate=not at_host) as desk:
        guest = await desk.guest(accelerate=at_host)
        card = await connect(guest)
        with round_trips(4):
            assert await fetch(card) == CONTENT


async def test_nothing_ahead_is_served_after_the_end_of_the_transaction() -> None:
    file = FileCard(CONTENT)
    async with Desk(file, delay=DELAY) as desk:
        guest = await desk.guest()
        card = await connect(guest)
        await card.begin()
        first = await card.transmit(read(0, 200), T1)
        await asyncio.sleep(0.2)
        assert len(file.seen) == 6
        await card.end(LEAVE)
        file.content = bytes(1000)
        await card.begin()
        assert await card.transmit(read(200, 200), T1) == bytes(200) + b"\x90\0"
        assert first == CONTENT[:200] + b"\x90\0"
        await card.end(LEAVE)
        assert guest.counters.hits == 0


async def test_nothing_ahead_is_served_after_another_command() -> None:
    file = FileCard(CONTENT)
    async with Desk(file, delay=DELAY) as desk:
        guest = await desk.guest()
        card = await connect(guest)
        await card.begin()
        await card.transmit(read(0, 200), T1)
        await asyncio.sleep(0.2)
        await card.transmit(COUNT, T1)
        file.content = bytes(1000)
        assert await card.transmit(read(200, 200), T1) == bytes(200) + b"\x90\0"
        await card.end(LEAVE)


async def test_nothing_ahead_is_served_after_a_reset_by_somebody_else() -> None:
    async with Desk(FileCard(CONTENT), delay=DELAY) as desk:
        guest = await desk.guest()
        card = await connect(guest)
        bob = await (await desk.manager.open(BOB)).connect(READER, SHARED, ANY)
        response = await card.transmit(GET_DATA, T1)
        await bob.reconnect(SHARED, ANY, RESET)
        await asyncio.sleep(0.2)
        with raises(ReturnCode.W_RESET_CARD):
            await card.transmit(get_response(response[-1]), T1)


async def test_a_program_that_waits_for_what_is_on_its_way_gets_it_once() -> None:
    """The second command comes while the host is at it: it must neither be sent nor carried out again."""
    file = FileCard(CONTENT)
    async with Desk(file, delay=DELAY, card_delay=0.01) as desk:
        guest = await desk.guest()
        card = await connect(guest)
        assert await fetch(card) == CONTENT
        assert [command[1] for command in file.seen] == [0xCA, 0xC0, 0xC0, 0xC0]


async def test_an_error_while_running_ahead_belongs_to_the_command_that_it_hit() -> None:
    async with Desk(FileCard(CONTENT), delay=DELAY, card_delay=0.5) as desk:
        guest = await desk.guest()
        card = await connect(guest)
        response = await card.transmit(GET_DATA, T1)
        desk.reader.remove()
        with raises(ReturnCode.E_NO_SMARTCARD):
            await card.transmit(get_response(response[-1]), T1)
        with raises(ReturnCode.W_REMOVED_CARD):
            await card.status()


async def test_a_promise_that_must_wait_for_its_turn_is_taken_back() -> None:
    async with Desk(FileCard(CONTENT), delay=DELAY, card_delay=0.01) as desk:
        guest = await desk.guest()
        card = await connect(guest, 0.5)
        bob = await (await desk.manager.open(BOB)).connect(READER, SHARED, ANY)
        transmitting = desk.start(card.transmit(GET_DATA, T1))
        await asyncio.sleep(DELAY + 0.005)
        waiting = desk.start(bob.begin())
        response = await transmitting
        await waiting
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await card.transmit(get_response(response[-1]), T1)
        await bob.end(LEAVE)
        response = await card.transmit(get_response(response[-1]), T1)
        assert response[-2] == 0x61


@pytest.mark.parametrize("seed", range(6))
async def test_a_program_cannot_tell(seed: int) -> None:
    """The same random program, near the card and far from it, sees the same responses."""
    chance = random.Random(seed)
    commands = [
        chance.choice(
            [
                SELECT,
                GET_DATA,
                GET_DATA,
                get_response(0),
                get_response(chance.randint(1, 255)),
                get_response(256 - 24),
                read(chance.choice([0, 100, 200]), 100),
                COUNT[:1] + b"\xcc" + COUNT[2:],
            ]
        )
        for _ in range(300)
    ]

    def play(command: bytes, last: bytes) -> bytes:
        """Half of the time a program does what the card has just said."""
        return get_response(last[-1]) if last[-2:-1] == b"\x61" and command[-1] % 2 else command

    near = FileCard(CONTENT, 100)
    expected: list[bytes] = []
    for command in commands:
        if command[1] == 0xCC:
            continue
        expected.append(near.process(play(command, expected[-1] if expected else b"")))
    async with Desk(FileCard(CONTENT, 100), delay=DELAY, card_delay=0.001) as desk:
        card = await connect(await desk.guest())
        seen: list[bytes] = []
        await card.begin()
        for command in commands:
            if command[1] == 0xCC:
                if chance.random() < 0.5:
                    await card.end(LEAVE)
                    await card.begin()
                else:
                    await asyncio.sleep(chance.random() * 0.1)
                continue
            seen.append(await card.transmit(play(command, seen[-1] if seen else b""), T1))
        await card.end(LEAVE)
    assert seen == expected


async def test_responses_ahead_survive_a_break() -> None:
    async with Desk(FileCard(CONTENT), delay=DELAY, card_delay=0.02) as desk:
        guest = await desk.guest()
        card = await connect(guest)
        response = await card.transmit(GET_DATA, T1)
        desk.roads[0].cut()
        whole = response[:-2]
        while response[-2] == 0x61:
            response = await card.transmit(get_response(response[-1]), T1)
            whole += response[:-2]
        assert whole == CONTENT
        assert guest.counters.round_trips == 2


async def test_what_came_for_an_older_command_is_dropped() -> None:
    foreseen = Foreseen()
    foreseen.promised(7, T1, b"next")
    foreseen.came(Ahead(6, 1, 0, b"old"))
    assert foreseen.waste == 1
    foreseen.came(Ahead(7, 1, 0, b"new", b"after"))
    assert await foreseen.take(b"other", T1) is None
    assert await foreseen.take(b"next", T1 + 1) is None
    assert await foreseen.take(b"next", T1) == b"new"
    foreseen.came(Ahead(7, 1, REVOKED))
    assert await foreseen.take(b"after", T1) is None
    foreseen.promised(8, T1, b"fails")
    foreseen.came(Ahead(8, 1, ReturnCode.W_RESET_CARD))
    with pytest.raises(PcscError):
        await foreseen.take(b"fails", T1)
    foreseen.drop()
    assert await foreseen.take(b"fails", T1) is None
