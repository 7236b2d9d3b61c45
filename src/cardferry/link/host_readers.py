"""What a guest is told of the readers: only what has changed; `guest_readers` puts it together again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cardferry.link import messages as m
from cardferry.link.messages import ReaderEntry, Readers, packed_name
from cardferry.pcsc.reader_state import ReaderState, Snapshot, Use, User
from cardferry.pcsc.trouble import Trouble

#: s that a guest may learn later that only the number of those who share a reader has changed.
SHARING_DELAY: Final = 0.25
#: Likewise, that it has a reader for itself again.
ALONE_DELAY: Final = 0.05
#: s between two pieces of news for people only: who has a card, who waits, how many there are. At least; with many
#: guests a host sends `MOST_NEWS` of them a second to all together; and at most.
USE_PAUSE: Final = 0.5
MOST_NEWS: Final = 20.0
LONGEST_USE_PAUSE: Final = 5.0


def _entry(reader: ReaderState, others: int, use: m.UseEntry | None) -> ReaderEntry:
    return ReaderEntry(
        packed_name(reader.name),
        reader.event_counter,
        int(reader.state),
        reader.sharing,
        reader.atr,
        int(reader.protocol),
        reader.marks,
        others,
        use,
    )


def _text(words: str, most: int) -> str:
    """Words of others as they may travel: msgpack's strings are UTF-8."""
    return words[:most].encode(errors="replace").decode()


def _trouble(trouble: Trouble) -> m.TroubleEntry:
    said = (trouble.place, trouble.detail, trouble.says)
    return m.TroubleEntry(trouble.cause, *(_text(words, m.MOST_TEXT) for words in said))


def use_pause(guests: int) -> float:
    """s between two pieces of news for people, for a host with so many guests: they are to cost the cards nothing."""
    return min(max(USE_PAUSE, guests / MOST_NEWS), LONGEST_USE_PAUSE)


def _only_counts(old: ReaderState, new: ReaderState) -> bool:
    """Whether nothing has changed that cannot wait: the number of those who share the reader, and who they are."""
    return (old.sharing == new.sharing or (old.sharing >= 0 and new.sharing >= 0)) and (
        old.name,
        old.event_counter,
        old.state,
        old.atr,
        old.protocol,
        old.marks,
    ) == (new.name, new.event_counter, new.state, new.atr, new.protocol, new.marks)


class ReadersSender:
    """What one guest knows of the readers.

    Args:
        own: how many of a reader's handles are the guest's, of those that `ReaderState.sharing` counts.
        unsettled: how many of the guest's are being connected or closed: that counts them already, or still, or not.
        session: the guest's number, see `User.session`.

    Programs that are in no queue of the host's count as one handle of others.
    """

    def __init__(
        self, own: Callable[[str], int], session: int = 0, unsettled: Callable[[str], int] = lambda reader: 0
    ) -> None:
        self._own = own
        self._unsettled = unsettled
        self._session = session
        self._told: Snapshot | None = None
        self._told_at = 0.0
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

    def due(self, snapshot: Snapshot, everything: Snapshot, now: float, pause: float = USE_PAUSE) -> float:
        """When the guest is to be told what is not urgent.

        Args:
            snapshot: as the guest sees the readers.
            everything: as they are.
            now: on the event loop's clock, in s.
            pause: see `use_pause`.
        """
        if self._only_for_people(snapshot):
            return max(now, self._told_at + pause)
        return now + (ALONE_DELAY if self._alone_again(everything) else SHARING_DELAY)

    def _only_for_people(self, snapshot: Snapshot) -> bool:
        """Whether the news, which is not urgent, is such as no program can see: who there is, and how many."""
        told = self._told
        return (
            told is not None
            and told.troubles == snapshot.troubles
            and all(
                (old.sharing > 0, old.sharing < 0) == (new.sharing > 0, new.sharing < 0)
                and bool(self._others.get(new.name)) == (self._others_on(new) > 0)
                for old, new in zip(told.readers, snapshot.readers, strict=True)
            )
        )

    def _alone_again(self, snapshot: Snapshot) -> bool:
        """Whether the guest believes that others are on a reader that it has for itself: its begins need not wait."""
        return any(self._others.get(reader.name) and not self._others_on(reader) for reader in snapshot.readers)

    def _no_longer_alone(self, reader: ReaderState) -> bool:
        """Whether the guest believes to be alone on the reader and is not: its begins have to wait from now on."""
        return not self._others.get(reader.name) and self._others_on(reader) > 0

    def _others_on(self, reader: ReaderState) -> int:
        # Of an exclusive reader either the guest is the owner, or all its handles there are marked.
        handles = max(0, reader.sharing - self._own(reader.name)) if reader.sharing > 0 else 0
        others = handles + reader.coming + reader.outsiders
        unsettled = self._unsettled(reader.name)
        if not unsettled:
            return others
        return max(min(others, self._others.get(reader.name, 0)), others - unsettled)  # as it was told, if that may be

    def _use(self, use: Use | None, now: float) -> m.UseEntry | None:
        if use is None:
            return None
        holder = None if use.holder is None else self._user(use.holder, now)
        return m.UseEntry(holder, [self._user(user, now) for user in use.waiting[: m.MAX_WAITING]])

    def _user(self, user: User, now: float) -> m.UserEntry:
        """What the guest may know of another guest's program is less than what it says itself of its own."""
        ours = user.session == self._session
        client = _text(user.client if ours else user.program, m.MOST_WORDS)
        principal = _text(user.principal, m.MOST_WORDS)
        return m.UserEntry(client, principal, max(0, int((now - user.since) * 1000)), user.wait, ours)

    def news(self, snapshot: Snapshot, now: float = 0.0) -> Readers | None:
        """The message that brings the guest up to date, None when it is; ``now`` is on the event loop's clock, in s."""
        if snapshot is self._seen is self._told:
            return None
        told, self._told = self._told, snapshot
        self._seen = snapshot
        counted, self._others = self._others, {reader.name: self._others_on(reader) for reader in snapshot.readers}
        before = {} if told is None else {reader.name: reader for reader in told.readers}
        changed = [
            _entry(reader, others, self._use(reader.use, now))
            for reader, others in zip(snapshot.readers, self._others.values(), strict=True)
            if before.get(reader.name) != reader or counted.get(reader.name) != others
        ]
        names = [reader.name for reader in snapshot.readers]
        same = told is not None and names == [reader.name for reader in told.readers]
        troubles = None
        if snapshot.troubles != (() if told is None else told.troubles):
            troubles = [_trouble(trouble) for trouble in snapshot.troubles[: m.MAX_TROUBLES]]
        nothing = same and not changed and troubles is None
        if told is not None and nothing and told.reader_events == snapshot.reader_events:
            return None
        self._told_at = now
        packed = None if same else [packed_name(name) for name in names]
        return Readers(snapshot.reader_events, packed, changed, troubles)
