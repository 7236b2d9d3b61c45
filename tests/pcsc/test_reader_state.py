"""Snapshots that follow one another, and what they count."""

from __future__ import annotations

import pytest

from cardferry.pcsc.reader_state import ReaderState, Snapshot, events_between

A, B = ReaderState("A"), ReaderState("B")


@pytest.mark.parametrize(
    ("before", "readers", "events", "after"),
    [
        ((A,), (A,), 0, 10),
        ((A,), (A, B), 0, 11),
        ((A, B), (), 0, 12),
        ((A,), (B,), 0, 12),
        ((A,), (B,), 2, 12),
        ((A,), (A,), 2, 12),  # went and came back
        ((), (A,), 3, 13),
        ((A, B), (B, A), 0, 10),  # another order is no event
    ],
)
def test_readers_that_come_and_go_are_counted(
    before: tuple[ReaderState, ...], readers: tuple[ReaderState, ...], events: int, after: int
) -> None:
    assert Snapshot(4, 10, before).followed_by(readers, events) == Snapshot(5, after, readers)


def test_events_wrap_from_32767_to_1() -> None:
    last = Snapshot(0, 32766, ()).followed_by((A,))
    assert last.reader_events == 32767
    assert last.followed_by(()).reader_events == 1
    assert last.followed_by((B,)).reader_events == 2


@pytest.mark.parametrize(
    ("before", "now", "count"), [(1, 1, 0), (1, 4, 3), (32767, 1, 1), (32766, 2, 3), (1, 32767, 32766)]
)
def test_events_between_two_counts(before: int, now: int, count: int) -> None:
    assert events_between(before, now) == count
    assert Snapshot(0, before).followed_by((), count).reader_events == now
