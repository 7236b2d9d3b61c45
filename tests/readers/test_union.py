"""Several hosts' readers side by side: no name twice, and each keeps its name."""

from __future__ import annotations

import asyncio

from cardferry.pcsc.constants import MAX_READERNAME
from cardferry.readers.base import Reader
from cardferry.readers.union import UnionSource
from cardferry.readers.virtual import VirtualReaderSource


class Notes:
    """Observes, and notes the names."""

    def __init__(self) -> None:
        self.noted: list[tuple[str, str]] = []

    def reader_added(self, reader: Reader) -> None:
        self.noted.append(("added", reader.name))

    def reader_removed(self, reader: Reader) -> None:
        self.noted.append(("removed", reader.name))

    def card_inserted(self, reader: Reader, atr: bytes) -> None:
        self.noted.append(("inserted", reader.name))

    def card_removed(self, reader: Reader) -> None:
        self.noted.append(("taken", reader.name))


async def reported() -> None:
    """These sources have reported when they run."""
    await asyncio.sleep(0)


async def test_equal_names_tell_their_host_and_a_reader_that_comes_back_keeps_its_name() -> None:
    laptop, desk = VirtualReaderSource(), VirtualReaderSource()
    notes = Notes()
    union = UnionSource([("laptop", laptop, reported), ("desk", desk, reported)])
    running = asyncio.get_running_loop().create_task(union.run(notes))
    for _ in range(4):
        await asyncio.sleep(0)
    first = laptop.add_reader("Reader 00 00")
    second = desk.add_reader("Reader 00 00")
    desk.add_reader("Other 00 00")
    laptop.remove_reader(first)
    desk.remove_reader(second)
    desk.add_reader("Reader 00 00")
    laptop.add_reader("Reader 00 00")
    running.cancel()
    assert notes.noted == [
        ("added", "Reader 00 00"),
        ("added", "Reader 00 00 (desk)"),
        ("added", "Other 00 00"),
        ("removed", "Reader 00 00"),
        ("removed", "Reader 00 00 (desk)"),
        ("added", "Reader 00 00 (desk)"),
        ("added", "Reader 00 00"),
    ]


def test_long_names_are_shortened_without_becoming_equal() -> None:
    union = UnionSource([])
    name = "é" * 63
    names = {union.name_for(number, "host" if number else "laptop", name) for number in range(5)}
    assert len(names) == 5
    assert all(len(one.encode()) < MAX_READERNAME for one in names)
    assert union.name_for(3, "host", name) in names
