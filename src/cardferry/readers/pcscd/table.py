"""What happened between two looks at pcscd's reader table.

Source: ``eventhandler.c`` of pcsc-lite. ``eventCounter`` grows by one with each insertion and each removal and wraps
from 65535 to 0; resets and errors do not count. A table says what is, not what was, so a card that was exchanged
between two looks shows in the counter only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import Enum, auto
from typing import Final

from cardferry.pcsc.constants import CardState
from cardferry.pcsc.reader_state import ReaderState

#: Eventcounts are numbers modulo this.
_WRAP: Final = 0x1_0000
#: A counter that seems to have advanced by more than this was set back: it is another reader of the same name.
_PLAUSIBLE: Final = _WRAP // 2


class Change(Enum):
    """One thing to report to an observer."""

    READER_ADDED = auto()
    READER_REMOVED = auto()
    #: The driver cannot reach the reader any more, nor a card in it. A card change is the end of that.
    READER_FAILED = auto()
    CARD_INSERTED = auto()
    CARD_REMOVED = auto()


def by_name(table: Iterable[ReaderState]) -> dict[str, ReaderState]:
    """A table as pcscd sends it, by name. A name can be there once only; a second one is left out."""
    readers: dict[str, ReaderState] = {}
    for reader in table:
        readers.setdefault(reader.name, reader)
    return readers


def settled(reader: ReaderState) -> bool:
    """Whether the record is worth looking at: not while pcscd is still powering the card up.

    The driver's error, no card, a card with its ATR and a mute card are settled; a card whose ATR is still to come is
    not.
    """
    if not reader.state & CardState.PRESENT or in_error(reader):
        return True
    return bool(reader.atr) or bool(reader.state & CardState.SWALLOWED)


def in_error(reader: ReaderState) -> bool:
    """Whether the driver says that it cannot reach the reader."""
    return bool(reader.state & CardState.UNKNOWN)


def has_card(reader: ReaderState) -> bool:
    """Whether a card is in there, answering or mute. A reader in error has none that could be used."""
    return bool(reader.state & CardState.PRESENT) and not in_error(reader)


def changes(old: Mapping[str, ReaderState], new: Mapping[str, ReaderState]) -> Iterator[tuple[Change, ReaderState]]:
    """What happened, in an order in which it can have happened; each with the record it happened to.

    Args:
        old: what was reported last, see `merge`.
        new: the table now.
    """
    for name, before in old.items():
        if name not in new or _replaced(before, new[name]):
            yield Change.READER_REMOVED, before
    for name, now in new.items():
        known = old.get(name)
        if known is None or _replaced(known, now):
            yield Change.READER_ADDED, now
            if in_error(now):
                yield Change.READER_FAILED, now
            elif has_card(now) and settled(now):
                yield Change.CARD_INSERTED, now
        elif settled(now):
            yield from _card_changes(known, now)


def merge(old: Mapping[str, ReaderState], new: Mapping[str, ReaderState]) -> dict[str, ReaderState]:
    """The table to compare the next one with: ``new``, but with what was known of readers that are not settled."""
    merged = {}
    for name, now in new.items():
        if settled(now):
            merged[name] = now
            continue
        before = old.get(name)
        if before is None or _replaced(before, now):
            merged[name] = ReaderState(name, now.event_counter, CardState.NONE, now.sharing)
        else:
            merged[name] = before
    return merged


def _advance(before: ReaderState, now: ReaderState) -> int:
    return (now.event_counter - before.event_counter) % _WRAP


def _replaced(before: ReaderState, now: ReaderState) -> bool:
    return _advance(before, now) > _PLAUSIBLE


def _card_changes(before: ReaderState, now: ReaderState) -> Iterator[tuple[Change, ReaderState]]:
    if in_error(before) or in_error(now):
        if not in_error(now):
            yield Change.CARD_INSERTED if has_card(now) else Change.CARD_REMOVED, now
        elif not in_error(before):
            yield Change.READER_FAILED, now
        return
    was, is_there = has_card(before), has_card(now)
    if was and is_there:
        # The same card, unless it was exchanged. One that began to answer, or ceased to, is as good as another one.
        if _advance(before, now) or bool(before.atr) != bool(now.atr):
            yield Change.CARD_REMOVED, before
            yield Change.CARD_INSERTED, now
    elif was:
        yield Change.CARD_REMOVED, before
    elif is_there:
        yield Change.CARD_INSERTED, now
