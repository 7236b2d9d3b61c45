from __future__ import annotations

from bench.quiet import Patience, parsed, share

_STAT = "cpu  100 20 30 800 50 5 5 10 7 7\ncpu0 1 2 3 4 5 6 7 8 9 10\n"


def test_busy_is_what_is_neither_idle_nor_waiting_for_a_disk() -> None:
    assert parsed(_STAT) == (170, 1020)


def test_share_of_a_stretch_of_time() -> None:
    assert share((100, 1000), (110, 1040)) == 0.25
    assert share((100, 1000), (100, 1000)) == 0


def test_patience_ends() -> None:
    patience = Patience(0.0)
    for _ in range(3):
        patience.wait()
    assert patience.rounds == 3
    assert patience.quiet <= 3
