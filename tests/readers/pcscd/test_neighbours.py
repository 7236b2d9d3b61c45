"""Turns for the programs on the host itself: pure arithmetic."""

from __future__ import annotations

import itertools

import pytest

from cardferry.readers.pcscd.neighbours import CONNECTED, CONNECTING, FRESH, MEMORY, Courtesy, Neighbours

BURST, GAP = CONNECTED.burst, CONNECTED.gap


def connected_ones(now: float = 0.0) -> Neighbours:
    neighbours = Neighbours()
    neighbours.table(2, 1, now)
    return neighbours


def turn(neighbours: Neighbours, now: float, length: float) -> float:
    """Claim when allowed, release; the time afterwards."""
    now += neighbours.gap(now)
    neighbours.claimed(now)
    neighbours.released(now + length)
    return now + length


def test_alone_until_the_table_shows_another_handle() -> None:
    neighbours = Neighbours()
    assert neighbours.alone(0)
    neighbours.table(1, 1, 0)
    assert neighbours.alone(0)
    neighbours.table(2, 1, 0)
    assert not neighbours.alone(100)
    neighbours.table(1, 1, 100)
    assert neighbours.alone(100)


def test_a_handle_that_is_not_ours_counts_when_we_have_none() -> None:
    neighbours = Neighbours()
    neighbours.table(1, 0, 0)
    assert not neighbours.alone(0)


def test_who_was_in_the_way_counts_for_a_while_whatever_the_table_says() -> None:
    neighbours = Neighbours()
    neighbours.seen(10)
    neighbours.table(1, 1, 10.1)
    assert not neighbours.alone(10.1)
    assert not neighbours.alone(10 + MEMORY - 0.01)
    assert neighbours.alone(10 + MEMORY)


def test_who_was_in_the_way_counts_until_the_table_says_otherwise() -> None:
    neighbours = Neighbours()
    neighbours.seen(10)
    assert not neighbours.alone(1000)
    neighbours.table(1, 1, 1000)
    assert neighbours.alone(1000)


@pytest.mark.parametrize("courtesy", [CONNECTED, CONNECTING])
def test_a_gap_comes_after_a_burst_and_only_then(courtesy: Courtesy) -> None:
    """Alone we know of nobody, but somebody may be about to connect."""
    neighbours, now = (connected_ones() if courtesy is CONNECTED else Neighbours()), 0.0
    pauses = []
    for _ in range(300):
        pauses.append(neighbours.gap(now))
        now = turn(neighbours, now, 0.1)
    owed = [index for index, pause in enumerate(pauses) if pause]
    assert owed
    assert {round(pauses[index], 6) for index in owed} == {courtesy.gap}
    # Between two pauses there is a burst, and no longer one than allowed plus the turn it ends with.
    turns = [after - before for before, after in itertools.pairwise(owed)]
    assert all(courtesy.burst / 0.1 <= count <= courtesy.burst / 0.1 + 1 for count in turns)


def test_alone_next_to_no_time_is_given_away() -> None:
    neighbours, now = Neighbours(), 0.0
    turns = 0
    while now < 100:
        now = turn(neighbours, now, 0.02)
        turns += 1
    assert turns * 0.02 / now > 0.985


@pytest.mark.parametrize("courtesy", [CONNECTED, CONNECTING])
def test_a_pause_of_our_own_counts_as_the_gap(courtesy: Courtesy) -> None:
    neighbours, now = (connected_ones() if courtesy is CONNECTED else Neighbours()), 0.0
    for _ in range(300):
        now = turn(neighbours, now, 0.1) + courtesy.gap + 0.001
        assert neighbours.gap(now) == 0


def test_what_is_left_of_a_pause_is_owed() -> None:
    neighbours, now = connected_ones(), 0.0
    now = turn(neighbours, now, BURST)
    assert neighbours.gap(now) == pytest.approx(GAP)
    assert neighbours.gap(now + 0.1) == pytest.approx(GAP - 0.1)
    assert neighbours.gap(now + GAP) == 0


def test_waiting_for_the_lock_is_no_use_of_it() -> None:
    neighbours, now = connected_ones(), 0.0
    now = turn(neighbours, now, BURST)
    now += 5  # somebody else has had the lock
    neighbours.claimed(now)
    neighbours.released(now + 0.1)
    assert neighbours.gap(now + 0.1) == 0


def test_the_table_gets_stale() -> None:
    neighbours = Neighbours()
    assert neighbours.stale(0)
    neighbours.table(1, 1, 5)
    assert not neighbours.stale(5 + FRESH - 0.01)
    assert neighbours.stale(5 + FRESH)
