"""Assuan, as pinentry speaks it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardferry.wire.assuan import CANCELED, MOST, TIMEOUT, Conversation, request
from cardferry.wire.errors import WireError


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("GETPIN",), b"GETPIN\n"),
        (("SETDESC", "who\nwhat 100%"), b"SETDESC who%0Awhat 100%25\n"),
        (("SETDESC", "Lesegerät"), "SETDESC Lesegerät\n".encode()),
    ],
)
def test_requests(words: tuple[str, ...], line: bytes) -> None:
    assert request(*words) == line


@given(st.text(max_size=1200))
def test_a_request_is_one_line_that_is_not_too_long(text: str) -> None:
    line = request("SETDESC", text)
    assert len(line) <= MOST
    assert line.count(b"\n") == 1
    assert b"\r" not in line


@pytest.mark.parametrize(
    ("lines", "data", "code"),
    [
        ([b"OK Pleased to meet you\n"], b"", 0),
        ([b"D 12%2534\n", b"OK\n"], b"12%34", 0),
        ([b"S PIN_REPEATED\n", b"# a remark\n", b"D 1\n", b"D 2\n", b"OK\n"], b"12", 0),
        ([b"ERR 83886179 Operation cancelled <Pinentry>\n"], b"", CANCELED),
        ([b"ERR 83886142 Timeout <Pinentry>\n"], b"", TIMEOUT),
        ([b"ERR 65536\n"], b"", 1),
    ],
)
def test_answers(lines: list[bytes], data: bytes, code: int) -> None:
    conversation = Conversation()
    *before, last = [conversation.receive(line) for line in lines]
    assert not any(before)
    assert last is not None
    assert (bytes(last.data), last.code) == (data, code)
    assert "12" not in repr(last)


@pytest.mark.parametrize("line", [b"", b"OK", b"INQUIRE X\n", b"ERR x\n", b"ERR\n", b"X" * 1001 + b"\n"])
def test_what_is_not_the_protocol(line: bytes) -> None:
    with pytest.raises(WireError):
        Conversation().receive(line)
