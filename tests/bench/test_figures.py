from __future__ import annotations

import pytest
from bench.figures import Figures, duration, percentile, ratio


def test_percentiles_are_nearest_ranks() -> None:
    hundred = [float(number) for number in range(1, 101)]
    assert percentile(hundred, 50) == 50
    assert percentile(hundred, 99) == 99
    assert percentile([*hundred, 101.0], 99) == 100
    assert percentile([1.0, 2.0, 3.0], 50) == 2


def test_with_few_durations_the_99th_percentile_is_the_longest() -> None:
    assert percentile([1.0, 2.0, 7.0], 99) == 7


def test_figures_do_not_depend_on_the_order() -> None:
    figures = Figures.of([3.0, 1.0, 2.0])
    assert figures == Figures(count=3, p50=2.0, p99=3.0, shortest=1.0, longest=3.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.000_031_4, "31 µs"),
        (0.000_999_4, "999 µs"),
        (0.000_999_6, "1.00 ms"),
        (0.012_34, "12.3 ms"),
        (0.157, "157 ms"),
        (0.999_9, "1.00 s"),
        (20.93, "20.9 s"),
    ],
)
def test_durations_are_written_with_about_three_digits(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("value", "text"), [(0.0071, "0.007x"), (0.104, "0.10x"), (1.25, "1.25x"), (41.7, "42x")])
def test_ratios_are_written_with_about_two_digits(value: float, text: str) -> None:
    assert ratio(value) == text
