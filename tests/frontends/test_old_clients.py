"""Whole conversations of libraries that no package supplies any more: 4:2 with both sizes of names, 4:3."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.frontends.library import BEGIN, CANCEL, DISCONNECT, END, RELEASE, Build, Library
from tests.frontends.served import ATR, EchoCard, Served, served

NAME = "Acme Reader 00 00"
OTHER = "Acme Reader 01 00"
OLD = [
    pytest.param(Build(2, name_size=100), id="4:2 short names"),
    pytest.param(Build(2, ">", name_size=100), id="4:2 short names, big-endian"),
    pytest.param(Build(2), id="4:2"),
    pytest.param(Build(2, ">"), id="4:2 big-endian"),
    pytest.param(Build(3), id="4:3"),
    pytest.param(Build(3, ">"), id="4:3 big-endian"),
]


async def converse(library: Library, front: Served) -> None:
    """What ``pcsc_scan`` and then a program that uses the card say."""
    await library.establish()
    empty, other = await library.readers()
    assert (empty.name, empty.state, empty.atr, other.name) == (NAME, 0x02, b"", OTHER)
    # SCardGetStatusChange: the states, the wait, which has no answer, and the event
    await library.readers()
    await library.wait()
    await library.silence()
    front.readers[0].insert(EchoCard())
    assert await library.event() == 0
    full, _ = await library.readers()
    assert (full.state, full.atr, full.counter) == (0x34, ATR, 1)
    # it times out: stop, and its answer
    await library.wait()
    await library.stop()
    # SCardCancel comes on a connection of its own
    await library.readers()
    await library.wait()
    await library.silence()
    async with Library(library.build, front.path) as canceller:
        await canceller.ask(CANCEL, "II", library.context, 0)
    assert await library.event() == 0x80100002
    # the card
    card, protocol = await library.connect(NAME)
    assert protocol == 2
    await library.ask(BEGIN, "iI", card, 0)
    for size in (5, 255, 4000):
        command = bytes(index & 0xFF for index in range(size))
        assert await library.transmit(card, protocol, command) == command + b"\x90\x00"
    await library.ask(END, "iII", card, 0, 0)
    await library.ask(DISCONNECT, "iII", card, 0, 0)
    await library.ask(RELEASE, "II", library.context, 0)
    await library.silence()


@pytest.mark.parametrize("build", OLD)
async def test_conversation(build: Build, tmp_path: Path) -> None:
    async with (
        served(tmp_path, (NAME, OTHER), name_size=build.name_size) as front,
        Library(build, front.path) as library,
    ):
        await converse(library, front)


async def test_change_between_states_and_wait_is_not_lost(tmp_path: Path) -> None:
    """Up to 4:3 the library asks for the states first and then waits: a card may come in between."""
    async with served(tmp_path, (NAME, OTHER)) as front, Library(Build(3), front.path) as library:
        await library.establish()
        await library.readers()
        front.readers[0].insert(EchoCard())
        await asyncio.sleep(0)
        await library.wait()
        assert await library.event() == 0


async def test_connect_with_a_short_name_tells_the_librarys_size(tmp_path: Path) -> None:
    """Nobody has said that this program is so old; from its connect on it is answered in its own size."""
    build = Build(2, name_size=100)
    async with served(tmp_path, (NAME, OTHER)) as front, Library(build, front.path) as library:
        front.readers[1].insert(EchoCard())
        await library.establish()
        await library.connect(OTHER)
        assert [reader.name for reader in await library.readers()] == [NAME, OTHER]


async def test_old_and_new_programs_side_by_side(tmp_path: Path) -> None:
    builds = (Build(2), Build(3, ">"), Build(4), Build(4, ">"), Build(5))
    async with served(tmp_path, (NAME, OTHER)) as front:
        libraries = [Library(build, front.path) for build in builds]
        for library in libraries:
            await library.__aenter__()
            await library.establish()
            await library.readers()
            await library.wait()
        front.readers[1].insert(EchoCard())
        for library in libraries:
            assert await library.event() == 0
            assert (await library.readers())[1].atr == ATR
            await library.__aexit__(None, None, None)
