"""More readers than a program can see, and longer names than fit in its protocol."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.frontends.library import ARRAY, SIZE, Build, Library
from tests.frontends.served import EchoCard, served

MANY = [f"Reader {number:02X} 00" for number in range(60)]
#: Nearly as long as a reader's name can be, and alike in their first 121 bytes.
LONG = [f"{'A very long name of a réader ' * 4} {index:02X} 00" for index in range(2)]


@pytest.mark.parametrize("minor", [2, 3, 4, 5])
@pytest.mark.parametrize("slots", [16, 48])
async def test_program_sees_as_many_readers_as_its_library_has_room_for(minor: int, slots: int, tmp_path: Path) -> None:
    build = Build(minor, slots=slots)
    async with served(tmp_path, MANY, slots=slots) as front, Library(build, front.path) as library:
        await library.establish()
        assert [reader.name for reader in await library.readers()] == MANY[:slots]
        if minor >= 4:
            assert [reader.name for reader in await library.wait()] == MANY[:slots]
            await library.stop()
        await library.silence()


@pytest.mark.parametrize("order", ["<", ">"])
async def test_new_library_sees_all_readers(order: str, tmp_path: Path) -> None:
    async with served(tmp_path, MANY) as front, Library(Build(6, order), front.path) as library:
        await library.establish()
        library.tell(SIZE)
        assert await library.hear("i") == (len(MANY),)
        library.tell(ARRAY)
        assert [reader.name for reader in await library.array(len(MANY))] == MANY


async def test_array_of_new_libraries_never_shrinks(tmp_path: Path) -> None:
    async with served(tmp_path, MANY) as front, Library(Build(6), front.path) as library:
        await library.establish()
        library.tell(SIZE)
        assert await library.hear("i") == (len(MANY),)
        for reader in front.readers[20:]:
            front.source.remove_reader(reader)
        async with Library(Build(6), front.path) as another:
            for one in (library, another):
                one.tell(SIZE)
                assert await one.hear("i") == (len(MANY),)
                one.tell(ARRAY)
                assert [reader.name for reader in await one.array(len(MANY))] == MANY[:20]


async def test_readers_that_the_user_named_are_seen_first(tmp_path: Path) -> None:
    async with (
        served(tmp_path, MANY, patterns=("Reader 3B*", "reader 2? *")) as front,
        Library(Build(4), front.path) as library,
    ):
        await library.establish()
        expected = ["Reader 3B 00", *(f"Reader 2{digit:X} 00" for digit in range(15))]
        assert [reader.name for reader in await library.readers()] == expected


async def test_which_readers_are_seen_stays_while_others_come_and_go(tmp_path: Path) -> None:
    async with served(tmp_path, MANY) as front, Library(Build(4), front.path) as library:
        await library.establish()
        for reader in front.readers[16:]:
            front.source.remove_reader(reader)
        front.source.add_reader("New 00 00")
        assert [reader.name for reader in await library.readers()] == MANY[:16]
        front.source.remove_reader(front.readers[3])
        assert [reader.name for reader in await library.readers()] == [*MANY[:3], *MANY[4:16], "New 00 00"]


@pytest.mark.parametrize("name", ["Kartenleser f\udcfcr B\udcfcros 00 00", "\udcfc" * 110 + " 00 00"])
@pytest.mark.parametrize("build", [Build(2, name_size=100), Build(4), Build(6, ">")])
async def test_names_that_are_not_utf_8_pass_through_and_lead_to_their_readers(
    name: str, build: Build, tmp_path: Path
) -> None:
    async with (
        served(tmp_path, (name,), name_size=build.name_size) as front,
        Library(build, front.path) as library,
    ):
        front.readers[0].insert(EchoCard())
        await library.establish()
        (seen,) = await library.readers()
        assert seen.name == name or len(name) >= build.name_size
        card, protocol = await library.connect(seen.name)
        assert await library.transmit(card, protocol, b"hello") == b"hello\x90\x00"


@pytest.mark.parametrize("order", ["<", ">"])
async def test_names_that_are_too_long_stay_different_and_lead_to_their_readers(order: str, tmp_path: Path) -> None:
    build = Build(2, order, name_size=100)
    async with served(tmp_path, LONG, name_size=100) as front, Library(build, front.path) as library:
        front.readers[1].insert(EchoCard())
        await library.establish()
        empty, full = await library.readers()
        assert empty.name != full.name
        assert max(len(reader.name.encode()) for reader in (empty, full)) <= 99
        assert (empty.atr, full.atr) == (b"", EchoCard.atr)
        card, protocol = await library.connect(full.name)
        assert await library.transmit(card, protocol, b"hello") == b"hello\x90\x00"
