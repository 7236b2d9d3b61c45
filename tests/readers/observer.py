"""An observer that remembers, for tests."""

from __future__ import annotations

import asyncio
from typing import cast

from cardferry.pcsc.trouble import Trouble
from cardferry.readers.base import Reader, ReaderSource

Report = tuple[str, str] | tuple[str, str, bytes]


class Remembering:
    """Keeps reports as tuples of words, and lets a test wait for them."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.readers: dict[str, Reader] = {}
        #: What was said of others on a reader, which is no report.
        self.others: dict[str, list[bool]] = {}
        #: What kept the readers away, one after the other.
        self.troubles: list[Trouble | None] = []
        self._news = asyncio.Event()

    def reader_added(self, reader: Reader) -> None:
        assert reader.name not in self.readers
        self.readers[reader.name] = reader
        self._note(("reader added", reader.name))

    def reader_removed(self, reader: Reader) -> None:
        assert self.readers.pop(reader.name) is reader
        self._note(("reader removed", reader.name))

    def card_inserted(self, reader: Reader, atr: bytes) -> None:
        assert self.readers[reader.name] is reader
        self._note(("card inserted", reader.name, atr))

    def card_removed(self, reader: Reader) -> None:
        assert self.readers[reader.name] is reader
        self._note(("card removed", reader.name))

    def reader_failed(self, reader: Reader) -> None:
        assert self.readers[reader.name] is reader
        self._note(("reader failed", reader.name))

    def outsiders(self, reader: Reader, present: bool) -> None:
        assert self.readers[reader.name] is reader
        self.others.setdefault(reader.name, []).append(present)

    def looked(self, source: ReaderSource, trouble: Trouble | None) -> None:
        self.troubles.append(trouble)

    def _note(self, report: Report) -> None:
        self.reports.append(report)
        self._news.set()

    async def take(self, count: int) -> list[Report]:
        """The next so many reports, waiting for them."""
        while len(self.reports) < count:
            self._news.clear()
            await self._news.wait()
        taken, self.reports = self.reports[:count], self.reports[count:]
        return taken

    async def wait_for(self, *report: str | bytes) -> None:
        """Take reports until this one has come."""
        while True:
            if (await self.take(1))[0] == cast(Report, report):
                return
