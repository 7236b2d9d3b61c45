"""What a guest is told of the readers: only what has changed; `guest_readers` puts it together again."""

from __future__ import annotations

from collections.abc import Callable

from cardferry.link.messages import ReaderEntry, Readers, packed_name
from cardferry.pcsc.reader_state import ReaderState, Snapshot


def _entry(reader: ReaderState, others: int) -> ReaderEntry:
    return ReaderEntry(
        packed_name(reader.name),
        reader.event_counter,
        int(reader.state),
        reader.sharing,
        reader.atr,
        int(reader.protocol),
        reader.marks,
        others,
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
    """What one guest knows of the readers.

    Args:
        own: how many of a reader's handles are the guest's, of those that `ReaderState.sharing` counts.

    Programs that are in no queue of the host's count as one handle of others.
    """

    def __init__(self, own: Callable[[str], int]) -> None:
        self._own = own
        self._told: Snapshot | None = None
        #: By reader, as the guest was told: handles that are not its own.
        self._others: dict[str, int] = {}
        #: The latest snapshot that was found not to be urgent, or to be what the guest was told.
        self._seen: Snapshot | None = None

    @property
    def begun(self) -> bool:
        """Whether the guest has been told anything."""
        return self._told is not None

    def own_changed(self) -> None:
        """A handle of the guest has come or gone: how many others there are may be news, if the sum is the same."""
        self._seen = None

    def urgent(self, snapshot: Snapshot) -> bool:
        """Whether the guest must know the news before it gets another answer."""
        if snapshot is self._seen:
            return False
        told = self._told
        if told is None or told.reader_events != snapshot.reader_events or len(told.readers) != len(snapshot.readers):
            return True
        if all(
            (old is new or old == new or _only_counts(old, new)) and not self._no_longer_alone(new)
            for old, new in zip(told.readers, snapshot.readers, strict=True)
        ):
            self._seen = snapshot
            return False
        return True

    def _no_longer_alone(self, reader: ReaderState) -> bool:
        """Whether the guest believes to be alone on the reader and is not: its begins have to wait from now on."""
        return not self._others.get(reader.name) and self._others_on(reader) > 0

    def _others_on(self, reader: ReaderState) -> int:
        # Of an exclusive reader either the guest is the owner, or all its handles there are marked.
        handles = max(0, reader.sharing - self._own(reader.name)) if reader.sharing > 0 else 0
        return handles + reader.outsiders

    def news(self, snapshot: Snapshot) -> Readers | None:
        """The message that brings the guest up to date, None when it is."""
        if snapshot is self._seen is self._told:
            return None
        told, self._told = self._told, snapshot
        self._seen = snapshot
        counted, self._others = self._others, {reader.name: self._others_on(reader) for reader in snapshot.readers}
        before = {} if told is None else {reader.name: reader for reader in told.readers}
        changed = [
            _entry(reader, others)
            for reader, others in zip(snapshot.readers, self._others.values(), strict=True)
            if before.get(reader.name) != reader or counted.get(reader.name) != others
        ]
        names = [reader.name for reader in snapshot.readers]
        same = told is not None and names == [reader.name for reader in told.readers]
        if told is not None and same and not changed and told.reader_events == snapshot.reader_events:
            return None
        return Readers(snapshot.reader_events, None if same else [packed_name(name) for name in names], changed)
