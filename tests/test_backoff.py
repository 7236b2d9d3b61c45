"""Pauses between attempts: further and further apart, and not all alike."""

from __future__ import annotations

import pytest

from cardferry.backoff import Backoff


def test_each_pause_is_twice_as_long_up_to_the_longest() -> None:
    backoff = Backoff(1.0, 30.0)
    assert [backoff.pause() for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert backoff.attempts == 7


def test_after_a_success_they_begin_anew() -> None:
    backoff = Backoff(1.0, 30.0)
    backoff.pause()
    backoff.pause()
    backoff.reset()
    assert backoff.attempts == 0
    assert backoff.pause() == 1


def test_another_limit_for_once() -> None:
    backoff = Backoff(0.05, 5.0)
    assert [backoff.pause(0.2) for _ in range(4)] == pytest.approx([0.05, 0.1, 0.2, 0.2])
    assert backoff.pause() == pytest.approx(0.2)
    assert backoff.pause() == pytest.approx(0.4)


@pytest.mark.parametrize(("chance", "pause"), [(0.0, 8.0), (0.5, 10.0), (1.0, 12.0)])
def test_they_vary_by_a_part_of_themselves(chance: float, pause: float) -> None:
    assert Backoff(10.0, 10.0, 0.2, lambda: chance).pause() == pytest.approx(pause)
