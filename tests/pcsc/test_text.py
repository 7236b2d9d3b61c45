"""The door for words of others: whatever they are, one printable line of bounded length comes out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardferry.pcsc.text import MOST_SHOWN, shown, shown_lines

ANYTHING = st.text(st.characters(), max_size=50)  # lone surrogates as well


@pytest.mark.parametrize(
    ("said", "seen"),
    [
        ("Kartenleser für Büros (日本) 00 00", "Kartenleser für Büros (日本) 00 00"),
        ("[red]x[/red] \\ %s {0}", "[red]x[/red] \\ %s {0}"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\x9b31m\x85", r"\x9b31m\x85"),
        ("a\r\nb\tc\0\x7f", r"a\r\nb\tc\x00\x7f"),
        ("\u202ecba\u2066\u200f\u061c", r"\u202ecba\u2066\u200f\u061c"),
        ("\u200b\ufeff\u00a0\u2028\U000e0041", r"\u200b\ufeff\xa0\u2028\U000e0041"),
        ("f\udcfcr", r"f\udcfcr"),
    ],
)
def test_what_is_seen(said: str, seen: str) -> None:
    assert shown(said) == seen


def test_the_end_of_a_long_text_is_cut_off() -> None:
    assert shown("x" * MOST_SHOWN) == "x" * MOST_SHOWN
    assert shown("x" * MOST_SHOWN + "yz") == "x" * MOST_SHOWN + "... (2 characters more)"
    assert shown("abcdef", 4) == "abcd... (2 characters more)"


@given(ANYTHING)
def test_one_printable_line(said: str) -> None:
    seen = shown(said)
    assert seen.isprintable()
    assert shown(seen) == seen


@given(ANYTHING)
def test_lines_of_a_traceback(said: str) -> None:
    assert all(line.startswith("  ") and line.isprintable() for line in shown_lines(said).split("\n") if line)
