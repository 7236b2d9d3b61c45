"""What a link would bring: more over a longer way, from the distance that was measured."""

from __future__ import annotations

import pytest

from cardferry.app.hosts.gain import gain, times_faster


def test_the_figure_comes_from_the_distance() -> None:
    assert gain(0.05, "laptop") == "10 times faster over this distance (50 ms): cardferry setup laptop"
    assert gain(0.0002, "laptop") == "with it, programs outlive a network that breaks: cardferry setup laptop"
    assert times_faster(0.0) == 1
    assert times_faster(0.01) < times_faster(0.1) < times_faster(1.0) < 45 / 4


@pytest.mark.parametrize("milliseconds", [1, 20, 150])
def test_it_says_the_distance(milliseconds: int) -> None:
    assert f"({milliseconds} ms)" in gain(milliseconds / 1000, "laptop") or times_faster(milliseconds / 1000) < 2
