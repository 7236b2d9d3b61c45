"""The readers that a guest shows, put together from what `cardferry.link.host_readers` sends.

Readers that come and go are counted here, because this outlives sessions: when a session ends, its readers go, and
applications must see it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from cardferry.link.messages import ReaderEntry, Readers, TroubleEntry, UseEntry, UserEntry, name_of
from cardferry.pcsc.constants import MAX_READERNAME, CardState, Protocol
from cardferry.pcsc.reader_name import encode_reader_name
from cardferry.pcsc.reader_state import Queue, ReaderState, Snapshot, Use, User, events_between
from cardferry.pcsc.reply import Reply
from cardferry.pcsc.trouble import Cause, Trouble
from cardferry.wire.errors import WireError


def _user(entry: UserEntry, now: float) -> User:
    since = now - entry.ms / 1000
    return User(entry.client, entry.principal, since, entry.wait, program=entry.client, ours=entry.ours)


def _use(entry: UseEntry | None, now: float) -> Use | None:
    if entry is None:
        return None
    holder = None if entry.holder is None else _user(entry.holder, now)
    return Use(holder, tuple(_user(user, now) for user in entry.waiting))


def _trouble(entry: TroubleEntry, host: str) -> Trouble:
    if entry.cause not in Cause.__members__.values() or entry.cause == Cause.OTHER:
        return Trouble(Cause.OTHER, entry.place, entry.says, host)
    return Trouble(Cause(entry.cause), entry.place, entry.detail, host)


def _state(entry: ReaderEntry, now: float, queue: Callable[[str], Reply[Queue]] | None) -> ReaderState:
    name = name_of(entry.name)
    return ReaderState(
        name,
        entry.event_counter,
        CardState(entry.state),
        entry.sharing,
        entry.atr,
        Protocol(entry.protocol),
        entry.marks,
        use=_use(entry.use, now),
        queue=None if queue is None else partial(queue, name),
    )


class ReadersReceiver:
    """The readers that a guest shows.

    Args:
        host: what their computer is called, for people.
        queue: asks how long a reader's queue is, see `ReaderState.queue`.

    Attributes:
        snapshot: all of them, now.
    """

    def __init__(self, host: str = "", queue: Callable[[str], Reply[Queue]] | None = None) -> None:
        self._host = host
        self._queue = queue
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

    def receive(self, news: Readers, now: float = 0.0) -> bool:
        """Take a message; return whether readers came or went.

        Args:
            now: on the event loop's clock, in s.

        Raises:
            WireError: it does not fit what was said before.
        """
        changed = {state.name: state for state in (_state(entry, now, self._queue) for entry in news.changed)}
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
        troubles = self.snapshot.troubles
        if news.troubles is not None:
            troubles = tuple(_trouble(entry, self._host) for entry in news.troubles)
        self._publish(readers, 0 if before is None else events_between(before, news.events), troubles)
        return came_or_went

    def vanish(self) -> None:
        """The session is over: so are its readers."""
        self._host_events = None
        self._others = {}
        self._publish({})

    def _publish(self, readers: dict[str, ReaderState], events: int = 0, troubles: tuple[Trouble, ...] = ()) -> None:
        self._readers = readers
        self.snapshot = self.snapshot.followed_by(tuple(readers.values()), events, troubles)
