"""Pauses between attempts: further and further apart, and not all alike."""

from __future__ import annotations

import pytest

from cardferry.backoff import RARELY, Backoff, Seldom


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


def test_a_failure_is_told_at_first_and_then_rarely_whatever_its_words() -> None:
    seldom = Seldom(first=2)
    assert [seldom.due(words, now) for now, words in enumerate(["lost", "silent", "lost", "no route", "silent"])] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert not seldom.due("silent", RARELY)
    assert seldom.due("silent", RARELY + 1)
    assert not seldom.due("silent", RARELY + 2)
    seldom.reset()
    assert seldom.due("silent", RARELY + 3)
    assert not seldom.due("silent", RARELY + 4)


def test_each_of_several_reasons_is_told_once_also_when_they_alternate() -> None:
    seldom = Seldom(first=3)
    assert [
        words for words in ("down", "silent", "down", "silent", "closed", "down", "other") if seldom.due(words, 1)
    ] == [
        "down",
        "silent",
        "closed",
    ]
