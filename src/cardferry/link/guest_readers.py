"""The readers that a guest shows, put together from what `cardferry.link.host_readers` sends.

Readers that come and go are counted here, because this outlives sessions: when a session ends, its readers go, and
applications must see it.
"""

from __future__ import annotations

from cardferry.link.messages import ReaderEntry, Readers, name_of
from cardferry.pcsc.constants import MAX_READERNAME, CardState, Protocol
from cardferry.pcsc.reader_name import encode_reader_name
from cardferry.pcsc.reader_state import ReaderState, Snapshot, events_between
from cardferry.wire.errors import WireError


def _state(entry: ReaderEntry) -> ReaderState:
    return ReaderState(
        name_of(entry.name),
        entry.event_counter,
        CardState(entry.state),
        entry.sharing,
        entry.atr,
        Protocol(entry.protocol),
        entry.marks,
    )


class ReadersReceiver:
    """The readers that a guest shows.

    Attributes:
        snapshot: all of them, now.
    """

    def __init__(self) -> None:
        self.snapshot = Snapshot()
        self._readers: dict[str, ReaderState] = {}
        self._others: dict[str, int] = {}
        #: The host's count at the last message, None before the first one of a session.
        self._host_events: int | None = None

    def find(self, name: str) -> ReaderState | None:
        """The reader of that name, or None."""
        return self._readers.get(name)

    def others(self, name: str) -> int:
        """How many handles on that reader are not ours, as far as the host says."""
        return self._others.get(name, 0)

    def receive(self, news: Readers) -> bool:
        """Take a message; return whether readers came or went.

        Raises:
            WireError: it does not fit what was said before.
        """
        changed = {state.name: state for state in map(_state, news.changed)}
        names = list(self._readers) if news.names is None else [name_of(name) for name in news.names]
        sizes = [len(encode_reader_name(name)) for name in names]
        if not all(0 < size < MAX_READERNAME for size in sizes) or len(set(names)) < len(names):
            raise WireError("the names of the readers are not valid")
        if changed.keys() - set(names):
            raise WireError("a reader has changed that does not exist")
        readers = {}
        for name in names:
            reader = changed.get(name) or self._readers.get(name)
            if reader is None:
                raise WireError("a reader came without its state")
            readers[name] = reader
        self._others |= {name_of(entry.name): entry.others or 0 for entry in news.changed}
        if self._others.keys() != readers.keys():
            self._others = {name: self._others[name] for name in names}
        before, self._host_events = self._host_events, news.events
        came_or_went = before != news.events
        self._publish(readers, 0 if before is None else events_between(before, news.events))
        return came_or_went

    def vanish(self) -> None:
        """The session is over: so are its readers."""
        self._host_events = None
        self._others = {}
        self._publish({})

    def _publish(self, readers: dict[str, ReaderState], events: int = 0) -> None:
        self._readers = readers
        self.snapshot = self.snapshot.followed_by(tuple(readers.values()), events)
