"""The conversation about certificates: lines of JSON, in whatever pieces they come."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardferry.wire import enrolment as e
from cardferry.wire.errors import WireError

MESSAGES: list[e.FromGuest] = [e.Join("a secret", b"\x30\x03", "cardferry 1"), e.Renew("cardferry 1"), e.Join("ü", b"")]
WIRE = b"".join(map(e.encode, MESSAGES))


@pytest.mark.parametrize("size", range(1, 40))
def test_messages_in_pieces_of_any_size(size: int) -> None:
    reader: e.LineReader[e.FromGuest] = e.LineReader(e.FromGuest)
    pieces = [WIRE[start : start + size] for start in range(0, len(WIRE), size)]
    assert [message for piece in pieces for message in reader.receive(piece)] == MESSAGES


def test_what_goes_over_the_wire_is_what_older_programs_know() -> None:
    assert e.encode(e.Join("s", b"\x00\x01")) == b'{"type":"Join","secret":"s","request":"AAE=","software":""}\n'
    assert e.encode(e.Refused("no")) == b'{"type":"Refused","why":"no"}\n'


@given(st.binary(max_size=200))
def test_any_bytes_are_messages_or_the_one_error(data: bytes) -> None:
    with suppress(WireError):
        e.LineReader[e.FromGuest](e.FromGuest).receive(data + b"\n")


@pytest.mark.parametrize(
    "data", [b"x" * (e.MOST + 1), b"[" * 5000 + b"\n", b'{"type":"Join","secret":"' + b"s" * e.MOST]
)
def test_what_has_no_end_is_not_kept(data: bytes) -> None:
    with pytest.raises(WireError):
        e.LineReader[e.FromGuest](e.FromGuest).receive(data)
