"""What happened between two looks at the reader table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardferry.pcsc.constants import CardState
from cardferry.pcsc.reader_state import ReaderState
from cardferry.readers.pcscd.table import Change, by_name, changes, has_card, in_error, merge, settled
from tests.readers.pcscd.fake import ATR, POWERED, changed, table_of

EMPTY = ReaderState("R", 4, CardState.ABSENT)
CARD = ReaderState("R", 5, POWERED, 0, ATR)
MUTE = ReaderState("R", 5, CardState.PRESENT | CardState.SWALLOWED)
IN_ERROR = ReaderState("R", 5, CardState.UNKNOWN)
STARTING = ReaderState("R", 0, CardState.NONE)
POWERING_UP = ReaderState("R", 5, CardState.PRESENT)

ADDED, REMOVED = Change.READER_ADDED, Change.READER_REMOVED
IN, OUT, FAILED = Change.CARD_INSERTED, Change.CARD_REMOVED, Change.READER_FAILED


def what(old: ReaderState | None, new: ReaderState | None) -> list[Change]:
    before = table_of(old) if old else {}
    now = table_of(new) if new else {}
    return [change for change, _ in changes(merge({}, before), now)]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (None, EMPTY, [ADDED]),
        (None, CARD, [ADDED, IN]),
        (None, MUTE, [ADDED, IN]),
        (None, IN_ERROR, [ADDED, FAILED]),
        (None, STARTING, [ADDED]),
        (None, POWERING_UP, [ADDED]),
        (EMPTY, None, [REMOVED]),
        (CARD, None, [REMOVED]),
        (EMPTY, CARD, [IN]),
        (CARD, changed(EMPTY, event_counter=6), [OUT]),
        (CARD, CARD, []),
        (CARD, changed(CARD, sharing=3), []),
        (CARD, changed(CARD, state=CardState.PRESENT), []),  # another program has unpowered it
        (CARD, changed(CARD, atr=ATR + b"\x00"), []),  # warm and cold ATR may differ
        (CARD, changed(CARD, event_counter=7), [OUT, IN]),
        (CARD, changed(CARD, event_counter=9), [OUT, IN]),
        (MUTE, changed(MUTE, event_counter=7), [OUT, IN]),
        (MUTE, CARD, [OUT, IN]),
        (CARD, MUTE, [OUT, IN]),
        (EMPTY, changed(EMPTY, event_counter=6), []),  # in and out again
        (CARD, IN_ERROR, [FAILED]),
        (EMPTY, IN_ERROR, [FAILED]),
        (IN_ERROR, IN_ERROR, []),
        (IN_ERROR, changed(CARD, event_counter=6), [IN]),
        (IN_ERROR, changed(EMPTY, event_counter=6), [OUT]),
        (IN_ERROR, POWERING_UP, []),
        (IN_ERROR, None, [REMOVED]),
        (changed(CARD, event_counter=65535), changed(EMPTY, event_counter=0), [OUT]),
        (changed(CARD, event_counter=65535), changed(CARD, event_counter=1), [OUT, IN]),
        (CARD, changed(CARD, event_counter=0), [REMOVED, ADDED, IN]),
        (CARD, changed(EMPTY, event_counter=0), [REMOVED, ADDED]),
        (STARTING, CARD, [IN]),
        (EMPTY, POWERING_UP, []),
        (POWERING_UP, CARD, [IN]),
    ],
)
def test_one_reader(old: ReaderState | None, new: ReaderState | None, expected: list[Change]) -> None:
    assert what(old, new) == expected


def test_a_card_that_is_still_powered_up_is_reported_when_it_has_its_atr() -> None:
    known = merge({}, table_of(EMPTY))
    assert list(changes(known, table_of(POWERING_UP))) == []
    known = merge(known, table_of(POWERING_UP))
    assert [change for change, _ in changes(known, table_of(CARD))] == [IN]


def test_a_card_that_was_exchanged_while_powering_up_is_still_noticed() -> None:
    known = merge({}, table_of(CARD))
    unsettled = changed(POWERING_UP, event_counter=7)
    assert list(changes(known, table_of(unsettled))) == []
    known = merge(known, table_of(unsettled))
    assert [change for change, _ in changes(known, table_of(changed(CARD, event_counter=7)))] == [OUT, IN]


def test_readers_go_before_others_come() -> None:
    old = table_of(changed(CARD, name="A"), changed(EMPTY, name="B"))
    new = table_of(changed(EMPTY, name="B"), changed(CARD, name="C"))
    assert [(change, record.name) for change, record in changes(old, new)] == [
        (REMOVED, "A"),
        (ADDED, "C"),
        (IN, "C"),
    ]


def test_the_second_reader_of_a_name_is_left_out() -> None:
    assert by_name([CARD, EMPTY]) == {"R": CARD}


@pytest.mark.parametrize("state", [EMPTY, CARD, MUTE, IN_ERROR, STARTING])
def test_settled(state: ReaderState) -> None:
    assert settled(state)


def test_not_settled() -> None:
    assert not settled(POWERING_UP)


records = st.builds(
    ReaderState,
    name=st.sampled_from(["A", "B"]),
    event_counter=st.integers(0, 4) | st.integers(0, 65535),
    state=st.integers(0, 0x7F).map(CardState),
    sharing=st.integers(-1, 3),
    atr=st.sampled_from([b"", ATR]),
)


@given(st.lists(st.lists(records, max_size=3), max_size=8))
def test_reports_always_make_sense_and_end_at_what_is(history: list[list[ReaderState]]) -> None:
    """Whatever tables come: no card without reader, none twice, and in the end what the last table says.

    What was told of a reader is whether it has a card, or None while it is in error.
    """
    known: dict[str, ReaderState] = {}
    told: dict[str, bool | None] = {}
    for records_now in history:
        table = by_name(records_now)
        for change, record in changes(known, table):
            name = record.name
            if change is ADDED:
                assert name not in told
                told[name] = False
            elif change is REMOVED:
                del told[name]
            elif change is IN:
                assert not told[name]
                told[name] = True
            elif change is FAILED:
                assert told[name] is not None
                told[name] = None
            else:
                assert told[name] is not False
                told[name] = False
        known = merge(known, table)
        assert told.keys() == table.keys() == known.keys()
        for name, record in table.items():
            if settled(record):
                assert told[name] == (None if in_error(record) else has_card(record))
