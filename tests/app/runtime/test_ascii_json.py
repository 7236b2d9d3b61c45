"""Values with words of others as JSON: printable ASCII, and the same value again."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardferry.app.runtime import ascii_json


class Value(msgspec.Struct, omit_defaults=True):
    word: str
    more: list[str] = []
    number: float | None = None


@given(st.text(st.characters(), max_size=30))
def test_there_and_back(word: str) -> None:
    value = Value(word, [word])
    for text in (ascii_json.encode(value), ascii_json.encode(value, indent=2)):
        assert all(" " <= char <= "~" or char == "\n" for char in text)
        assert ascii_json.decode(text.encode(), Value) == value
    assert "\n" not in ascii_json.encode(value)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"word": 1}', b"\xff", b'"\\udc"', b"[" * 100_000])
def test_what_is_no_such_value(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - that is what it promises
        ascii_json.decode(data, Value)
