"""The readers of one pcscd as an observer has been told of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from cardferry.pcsc.reader_state import ReaderState
from cardferry.readers.base import ReaderObserver
from cardferry.readers.pcscd.connector import Connector
from cardferry.readers.pcscd.reader import PcscdReader
from cardferry.readers.pcscd.table import Change, by_name, changes, merge

#: How long a reader whose connection was cut stays away, in s: if it was pcscd that ended, this is known by then.
_ABSENCE: Final = 0.1


class Inventory:
    """Keeps a `PcscdReader` for each reader of the table, and the observer up to date.

    Args:
        observer: whom to tell.
        connector: for the readers' own connections.
    """

    def __init__(self, observer: ReaderObserver, connector: Connector) -> None:
        self._observer = observer
        self._connector = connector
        self._readers: dict[str, PcscdReader] = {}
        self._known: dict[str, ReaderState] = {}
        self._cut: dict[str, asyncio.TimerHandle] = {}
        self._minor = 0

    @property
    def readers(self) -> tuple[PcscdReader, ...]:
        """The readers there are now."""
        return tuple(self._readers.values())

    def update(self, records: Iterable[ReaderState], minor: int) -> None:
        """Report what has changed. ``records``: the whole table; ``minor``: the protocol level of this pcscd."""
        self._minor = minor
        self._forget_cuts()
        table = by_name(records)
        for change, record in changes(self._known, table):
            self._report(change, record)
        self._known = merge(self._known, table)
        for name, record in table.items():
            reader = self._readers[name]
            reader.table(record)
            reader.verify()

    def clear(self) -> None:
        """Report that all readers are gone, because pcscd is."""
        self._forget_cuts()
        for record in self._known.values():
            self._report(Change.READER_REMOVED, record)
        self._known = {}

    def close(self) -> None:
        """Let the readers go without a word: nobody is interested any more."""
        self._forget_cuts()
        for reader in self._readers.values():
            reader.close()
        self._readers, self._known = {}, {}

    def _report(self, change: Change, record: ReaderState) -> None:
        observer = self._observer
        if change is Change.READER_ADDED:
            reader = PcscdReader(record.name, self._connector, self._minor, self._replace, observer.outsiders)
            self._readers[record.name] = reader
            observer.reader_added(reader)
        elif change is Change.READER_REMOVED:
            reader = self._readers.pop(record.name)
            reader.close()
            observer.reader_removed(reader)
        elif change is Change.CARD_INSERTED:
            observer.card_inserted(self._readers[record.name], record.atr)
        else:
            reader = self._readers[record.name]
            reader.card_gone()
            if change is Change.CARD_REMOVED:
                observer.card_removed(reader)
            else:
                observer.reader_failed(reader)

    def _replace(self, lost: PcscdReader) -> None:
        """A reader's handle is lost: as if it had been unplugged and plugged in, which may be what has happened."""
        name = lost.name
        record = self._known.pop(name, None)
        if record is not None and self._readers.get(name) is lost:
            self._report(Change.READER_REMOVED, record)
            self._cut[name] = asyncio.get_running_loop().call_later(_ABSENCE, self._back, record)

    def _back(self, record: ReaderState) -> None:
        del self._cut[record.name]
        self._known[record.name] = record
        for change, _ in changes({}, {record.name: record}):
            self._report(change, record)

    def _forget_cuts(self) -> None:
        for timer in self._cut.values():
            timer.cancel()
        self._cut = {}
