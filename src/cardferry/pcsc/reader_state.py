"""What is known about readers without asking them: the snapshot that every layer keeps at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cardferry.pcsc.constants import CardState, Protocol
from cardferry.pcsc.reply import Reply
from cardferry.pcsc.trouble import Trouble

#: Reader events wrap from here to 1: they lie in the high half of ``dwEventState``, where the sign must stay clear and
#: 0 is what a program passes that has not looked yet (pcsc-lite, ``winscard_clnt.c``).
_MAX_READER_EVENTS: Final = 32767


@dataclass(frozen=True, slots=True)
class User:
    """Who has a card, or waits for it.

    Attributes:
        client: which program, in words, as whoever serves it is told.
        principal: on whose behalf, such as ``ssh:build1``; empty where nobody knows.
        since: when it got the card, or first asked for it, in s on the event loop's clock.
        wait: tells one wait of a program from the next one.
        session: the guest session that it came through, 0 for none.
        program: which program, as everybody may know: without its process and user.
        ours: whether it is served here, rather than by somebody else on the same reader.
    """

    client: str
    principal: str
    since: float
    wait: int = 0
    session: int = 0
    program: str = ""
    ours: bool = True


@dataclass(frozen=True, slots=True)
class Use:
    """Who has a card, and who waits for it, by their places in the queue."""

    holder: User | None = None
    waiting: tuple[User, ...] = ()


@dataclass(frozen=True, slots=True)
class Queue:
    """How long the queue of a reader is at this moment: for programs that choose, where `Use` is for people.

    Attributes:
        busy: handles that have the card, wait for it, or were opened and have not used it yet.
        handles: all that are open.
    """

    busy: int
    handles: int


@dataclass(frozen=True, slots=True)
class ReaderState:
    """One reader as applications see it (pcsc-lite's ``READER_STATE``).

    Attributes:
        name: unique, at most 127 bytes in UTF-8.
        event_counter: insertions and removals since the reader came, modulo 65536.
        state: bits of `CardState`.
        sharing: 0 nobody, n shared handles, -1 exclusive.
        atr: answer to reset, empty without a card, at most 33 bytes.
        protocol: the protocol in force, 0 while the card is not powered for anybody.
        marks: another number each time that handles on this reader are told that the card was reset or removed, and
            for a reader that comes again under its name. A handle that was in order when it had a value is in order as
            long as it has. None where nobody counts.
        outsiders: whether programs use the reader that are in no queue of ours, or may have until now.
        coming: handles that wait until they can be opened; `sharing` does not count them yet.
        use: who has the card and who waits, as it was when somebody had lasted for a moment; None while nobody has. For
            people: it comes late, and is not renewed with every turn.
        queue: asks whoever has the queue how long it is; ``E_READER_UNAVAILABLE`` when that one is out of reach. None
            where nobody can be asked.
    """

    name: str
    event_counter: int = 0
    state: CardState = CardState.ABSENT
    sharing: int = 0
    atr: bytes = b""
    protocol: Protocol = Protocol.UNDEFINED
    marks: int | None = None
    outsiders: bool = False
    coming: int = 0
    use: Use | None = None
    queue: Callable[[], Reply[Queue]] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All readers at one moment.

    Attributes:
        serial: grows by one with every published change; compare it to know whether anything happened.
        reader_events: readers added or removed so far: starts at 1, wraps from 32767 to 1
            (pcsc-lite ``GET_READER_EVENTS``).
        readers: in a stable order: a reader keeps its place as long as it exists.
        troubles: why there are none, or not those of some place; empty when all is well, or nothing is known yet.
    """

    serial: int = 0
    reader_events: int = 1
    readers: tuple[ReaderState, ...] = field(default=())
    troubles: tuple[Trouble, ...] = ()

    def find(self, name: str) -> ReaderState | None:
        """The reader of that name, or None."""
        return next((reader for reader in self.readers if reader.name == name), None)

    def followed_by(
        self, readers: tuple[ReaderState, ...], events: int = 0, troubles: tuple[Trouble, ...] = ()
    ) -> Snapshot:
        """The next snapshot.

        Args:
            readers: all of them.
            events: readers that came or went since this one, as far as that is known. The names tell at least how
                many did; a reader that went and came back, or was there for a moment, does not show in them.
        """
        before, now = ({reader.name for reader in some} for some in (self.readers, readers))
        events = max(events, len(before ^ now))
        events = (self.reader_events - 1 + events) % _MAX_READER_EVENTS + 1
        return Snapshot(self.serial + 1, events, readers, troubles)


def presumed(reader: ReaderState) -> Queue:
    """How long the queue of a reader is, as far as its state tells."""
    use = reader.use or Use()
    return Queue(len(use.waiting) + (use.holder is not None), max(0, reader.sharing) + reader.outsiders)


def events_between(before: int, now: int) -> int:
    """Readers that came or went between two values of `Snapshot.reader_events`: 0 to 32766."""
    return (now - before) % _MAX_READER_EVENTS
