"""Reader names as bytes and as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardferry.pcsc.reader_name import decode_reader_name, encode_reader_name, shortened_reader_name


@given(st.binary())
def test_every_byte_is_kept(raw: bytes) -> None:
    assert encode_reader_name(decode_reader_name(raw)) == raw


def test_what_stands_for_no_byte() -> None:
    assert encode_reader_name("a\ud800b\udcfc") == b"a?b?"


@given(st.text(), st.integers(0, 60))
def test_a_character_goes_as_a_whole(text: str, size: int) -> None:
    raw = encode_reader_name(text)
    short = shortened_reader_name(raw, size)
    assert short == raw[:size].decode("utf-8", "ignore").encode()


@pytest.mark.parametrize("raw", [b"\xfc" * 9, b"\x80" * 9, b"R\xe2\x98 and so on"])
def test_what_is_no_text_is_shortened_all_the_same(raw: bytes) -> None:
    for size in range(12):
        short = shortened_reader_name(raw, size)
        assert raw.startswith(short)
        assert size - 3 <= len(short) <= size or short == raw
