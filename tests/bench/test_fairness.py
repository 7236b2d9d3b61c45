"""Judging who had the card: the arithmetic, on histories made up for it."""

from __future__ import annotations

import pytest
from bench.fairness import Turn, jain, outcome, table


def turns(*owned: float, asked: float = 0.0, held: float = 0.02) -> list[Turn]:
    """Turns that begin at these times; each was asked for when the one before ended."""
    result: list[Turn] = []
    for time in owned:
        result.append(Turn(result[-1].released if result else asked, time, time + held))
    return result


def test_jains_index_is_one_for_equals_and_one_nth_for_one_alone() -> None:
    assert jain([5, 5, 5, 5]) == 1
    assert jain([8, 0, 0, 0]) == 0.25
    assert jain([0, 0]) == 0


def test_programs_that_alternate_are_judged_fair() -> None:
    one = turns(*(0.04 * step for step in range(25)))
    other = turns(*(0.02 + 0.04 * step for step in range(25)))
    judged = outcome("cardferry", 0.02, 1.0, [one, other])
    assert judged.jain == pytest.approx(1, abs=0.01)
    assert judged.longest_wait == pytest.approx(0.02)
    assert judged.rate == pytest.approx(50, rel=0.05)
    assert judged.hand_over == pytest.approx(0, abs=1e-6)


def test_a_program_that_never_has_a_turn_has_waited_for_the_whole_run() -> None:
    lucky = turns(*(0.02 * step for step in range(500)))
    judged = outcome("pcscd", 0.02, 10.0, [lucky, []])
    assert judged.turns[-1] == 0
    assert judged.jain == 0.5
    assert judged.longest_wait == 10


def test_a_program_whose_only_turn_comes_when_the_others_have_stopped_counts_as_starved() -> None:
    lucky = turns(*(0.02 * step for step in range(500)))
    starved = turns(10.5)
    judged = outcome("pcscd", 0.02, 10.0, [lucky, starved])
    assert judged.turns[-1] == 0
    assert judged.longest_wait > 10


def test_the_table_compares_with_one_program_alone() -> None:
    alone = outcome("cardferry", 0.02, 1.0, [turns(*(0.02 * step for step in range(50)))])
    both = outcome(
        "cardferry",
        0.02,
        1.0,
        [turns(*(0.04 * step for step in range(25))), turns(*(0.02 + 0.04 * step for step in range(25)))],
    )
    last = table([alone, both]).splitlines()[-1]
    assert "| 20 ms | 2 | cardferry |" in last
    assert "| 1.000 |" in last
