"""Frames of pipes through NATS: what they look like, and that other bytes are an error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardferry.wire.errors import WireError
from cardferry.wire.nats import MOST_DATA, Frame, Kind, encode, parse


def test_a_frame_is_kind_number_and_data() -> None:
    assert encode(Kind.DATA, 258, b"abc") == b"\x03\0\0\0\0\0\0\x01\x02abc"
    assert encode(Kind.GONE) == b"\x06" + bytes(8)


@given(st.sampled_from(Kind), st.integers(0, (1 << 64) - 1), st.binary(max_size=64))
def test_what_was_sent_is_read(kind: Kind, number: int, data: bytes) -> None:
    assert parse(encode(kind, number, data)) == Frame(kind, number, data)


@given(st.binary(max_size=32))
def test_any_bytes_are_a_frame_or_the_one_error(message: bytes) -> None:
    try:
        assert encode(*parse(message)) == message
    except WireError:
        assert len(message) < 9 or message[0] not in tuple(Kind)


def test_a_frame_has_an_end() -> None:
    assert len(parse(encode(Kind.DATA, 0, bytes(MOST_DATA))).data) == MOST_DATA
    with pytest.raises(WireError):
        parse(encode(Kind.DATA, 0, bytes(MOST_DATA + 1)))
