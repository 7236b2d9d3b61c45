"""Where faults of reader sources stop: one source's fault, or one report's, ends nothing else.

Each `ReaderSource` runs in a task of its own and reports to an observer of its own. What a source raises is a bug: it
is logged, the source's readers are gone, and it is started again after a pause. What comes of a report goes no further
than that report: the source, and the cards in its other readers, do not notice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from cardferry.pcsc.trouble import Trouble
from cardferry.readers.base import Reader, ReaderObserver, ReaderSource

log = logging.getLogger(__name__)

#: How long a source that has failed is left alone, in s.
PAUSE: Final = 1.0


class SourceReports:
    """What one source reports, passed on to an observer.

    Args:
        observer: who is told.
    """

    def __init__(self, observer: ReaderObserver) -> None:
        self._observer = observer
        self._readers: list[Reader] = []

    def reader_added(self, reader: Reader) -> None:
        """A reader was plugged in."""
        self._readers.append(reader)
        self._report(reader.name, lambda: self._observer.reader_added(reader))

    def reader_removed(self, reader: Reader) -> None:
        """A reader was unplugged."""
        if reader in self._readers:
            self._readers.remove(reader)
        self._report(reader.name, lambda: self._observer.reader_removed(reader))

    def card_inserted(self, reader: Reader, atr: bytes) -> None:
        """A card was inserted."""
        self._report(reader.name, lambda: self._observer.card_inserted(reader, atr))

    def card_removed(self, reader: Reader) -> None:
        """The card was taken out."""
        self._report(reader.name, lambda: self._observer.card_removed(reader))

    def reader_failed(self, reader: Reader) -> None:
        """The driver cannot reach the reader."""
        self._report(reader.name, lambda: self._observer.reader_failed(reader))

    def outsiders(self, reader: Reader, present: bool) -> None:
        """Others use the reader, or none do any more."""
        self._report(reader.name, lambda: self._observer.outsiders(reader, present))

    def looked(self, source: ReaderSource, trouble: Trouble | None) -> None:
        """The source has looked for its readers."""
        self._report(repr(source), lambda: self._observer.looked(source, trouble))

    def clear(self, source: ReaderSource) -> None:
        """All readers of this source are gone."""
        for reader in tuple(self._readers):
            self.reader_removed(reader)
        self.looked(source, None)

    @staticmethod
    def _report(name: str, report: Callable[[], None]) -> None:
        try:
            report()
        except Exception:  # the boundary that the module's docstring describes
            log.exception("%s: a bug in what comes of a report", name)


async def keep_running(source: ReaderSource, observer: ReaderObserver) -> None:
    """Run a source until cancelled, or until it returns."""
    while True:
        reports = SourceReports(observer)
        try:
            await source.run(reports)
        except Exception:  # the boundary that the module's docstring describes
            log.exception("a bug in %r: its readers are gone, and it is started again", source)
        else:
            return
        reports.clear(source)
        await asyncio.sleep(PAUSE)
