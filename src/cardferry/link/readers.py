"""Snapshots across the link: the host sends what has changed, the guest puts it together again.

`ReadersSender` knows what a guest has been told, `ReadersReceiver` what it may show. A receiver counts readers that
come and go by itself, because it outlives sessions: when a session ends, its readers go, and applications must see it.
"""

from __future__ import annotations

from cardferry.link.messages import ReaderEntry, Readers
from cardferry.pcsc.constants import MAX_READERNAME, CardState, Protocol
from cardferry.pcsc.reader_state import ReaderState, Snapshot, events_between
from cardferry.wire.errors import WireError


def _entry(reader: ReaderState) -> ReaderEntry:
    return ReaderEntry(
        reader.name,
        reader.event_counter,
        int(reader.state),
        reader.sharing,
        reader.atr,
        int(reader.protocol),
        reader.marks,
    )


def _state(entry: ReaderEntry) -> ReaderState:
    return ReaderState(
        entry.name,
        entry.event_counter,
        CardState(entry.state),
        entry.sharing,
        entry.atr,
        Protocol(entry.protocol),
        entry.marks,
    )


def _only_counts(old: ReaderState, new: ReaderState) -> bool:
    """Whether nothing has changed but the number of those who share the reader."""
    return (
        old.sharing >= 0
        and new.sharing >= 0
        and (old.name, old.event_counter, old.state, old.atr, old.protocol, old.marks)
        == (new.name, new.event_counter, new.state, new.atr, new.protocol, new.marks)
    )


class ReadersSender:
    """What one guest knows of the readers."""

    def __init__(self) -> None:
        self._told: Snapshot | None = None
        #: The latest snapshot that was found not to be urgent.
        self._can_wait: Snapshot | None = None

    @property
    def begun(self) -> bool:
        """Whether the guest has been told anything."""
        return self._told is not None

    def urgent(self, snapshot: Snapshot) -> bool:
        """Whether the guest must know the news before it gets another answer."""
        told = self._told
        if snapshot is told or snapshot is self._can_wait:
            return False
        if told is None or told.reader_events != snapshot.reader_events or len(told.readers) != len(snapshot.readers):
            return True
        if all(
            old is new or old == new or _only_counts(old, new)
            for old, new in zip(told.readers, snapshot.readers, strict=True)
        ):
            self._can_wait = snapshot
            return False
        return True

    def news(self, snapshot: Snapshot) -> Readers | None:
        """The message that brings the guest up to date, None when it is."""
        told = self._told
        if told is snapshot:
            return None
        self._told = snapshot
        if told is None:
            return Readers(
                snapshot.reader_events,
                [reader.name for reader in snapshot.readers],
                [_entry(reader) for reader in snapshot.readers],
            )
        before = {reader.name: reader for reader in told.readers}
        changed = [_entry(reader) for reader in snapshot.readers if before.get(reader.name) != reader]
        names = [reader.name for reader in snapshot.readers]
        same = names == [reader.name for reader in told.readers]
        if same and not changed and told.reader_events == snapshot.reader_events:
            return None
        return Readers(snapshot.reader_events, None if same else names, changed)


class ReadersReceiver:
    """The readers that a guest shows.

    Attributes:
        snapshot: all of them, now.
    """

    def __init__(self) -> None:
        self.snapshot = Snapshot()
        self._readers: dict[str, ReaderState] = {}
        #: The host's count at the last message, None before the first one of a session.
        self._host_events: int | None = None

    def find(self, name: str) -> ReaderState | None:
        """The reader of that name, or None."""
        return self._readers.get(name)

    def receive(self, news: Readers) -> bool:
        """Take a message; return whether readers came or went.

        Raises:
            WireError: it does not fit what was said before.
        """
        changed = {entry.name: _state(entry) for entry in news.changed}
        names = list(self._readers) if news.names is None else news.names
        if any(len(name.encode()) >= MAX_READERNAME or not name for name in names) or len(set(names)) < len(names):
            raise WireError("the names of the readers are not valid")
        if changed.keys() - set(names):
            raise WireError("a reader has changed that does not exist")
        readers = {}
        for name in names:
            reader = changed.get(name) or self._readers.get(name)
            if reader is None:
                raise WireError("a reader came without its state")
            readers[name] = reader
        before, self._host_events = self._host_events, news.events
        came_or_went = before != news.events
        self._publish(readers, 0 if before is None else events_between(before, news.events))
        return came_or_went

    def vanish(self) -> None:
        """The session is over: so are its readers."""
        self._host_events = None
        self._publish({})

    def _publish(self, readers: dict[str, ReaderState], events: int = 0) -> None:
        self._readers = readers
        self.snapshot = self.snapshot.followed_by(tuple(readers.values()), events)
