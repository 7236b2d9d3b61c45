"""Hello and bye: laid out by hand, and versions that may be one step apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardferry.wire.errors import WireError
from cardferry.wire.link.greeting import Bye, Hello, Reason, Role, VersionError, agree

IDENTITY = bytes(range(16))
HELLO = Hello(Role.GUEST, IDENTITY, True, 258, 10000, 2, 1, "cardferry 1.0")
BYTES = (
    b"cardferry link\n"
    + bytes.fromhex("0002 0001 01 01")
    + IDENTITY
    + bytes.fromhex("0000000000000102 00002710 0d")
    + b"cardferry 1.0"
)


def test_the_layout_of_a_hello() -> None:
    assert HELLO.encode() == BYTES
    assert Hello.parse(BYTES) == HELLO


def test_a_newer_version_may_say_more() -> None:
    assert Hello.parse(BYTES + b"something new") == HELLO
    assert Bye.parse(Bye(Reason.FULL, "full").encode() + b"new") == Bye(Reason.FULL, "full")
    assert Bye.parse(b"\xc8\x02no") == Bye(Reason.REFUSED, "no")


@pytest.mark.parametrize("size", range(len(BYTES) - len("cardferry 1.0")))
def test_a_hello_that_is_too_short(size: int) -> None:
    with pytest.raises(WireError):
        Hello.parse(BYTES[:size])


@pytest.mark.parametrize(("at", "new"), [(0, b"SSH-2.0"), (19, b"\x03"), (15, b"\0\0"), (17, b"\0\0"), (17, b"\0\3")])
def test_a_hello_that_cannot_be(at: int, new: bytes) -> None:
    with pytest.raises(WireError):
        Hello.parse(BYTES[:at] + new + BYTES[at + len(new) :])


@given(st.binary(max_size=100))
def test_any_bytes_are_a_bye_or_the_one_error(data: bytes) -> None:
    try:
        Bye.parse(data)
    except WireError:
        assert len(data) < 2


@given(st.binary(max_size=100))
def test_any_bytes_are_a_hello_or_the_one_error(data: bytes) -> None:
    for payload in (data, BYTES[:15] + data):
        try:
            Hello.parse(payload)
        except WireError:
            continue


def test_long_words_are_cut_between_characters() -> None:
    assert len(Bye(Reason.CLOSED, "€" * 1000).encode()) == 2 + 198
    assert Bye.parse(Bye(Reason.CLOSED, "€" * 1000).encode()).text == "€" * 66


@pytest.mark.parametrize(
    ("mine", "theirs", "agreed"),
    [((1, 1), (1, 1), 1), ((2, 1), (1, 1), 1), ((1, 1), (2, 1), 1), ((3, 2), (2, 1), 2), ((3, 2), (3, 2), 3)],
)
def test_either_end_may_be_newer_by_one_step(mine: tuple[int, int], theirs: tuple[int, int], agreed: int) -> None:
    one = replace(HELLO, version=mine[0], oldest=mine[1])
    two = replace(HELLO, role=Role.HOST, version=theirs[0], oldest=theirs[1])
    assert agree(one, two) == agree(two, one) == agreed


@pytest.mark.parametrize(("mine", "theirs"), [((3, 2), (1, 1)), ((1, 1), (3, 2)), ((9, 8), (4, 3))])
def test_two_steps_are_too_many(mine: tuple[int, int], theirs: tuple[int, int]) -> None:
    one = replace(HELLO, version=mine[0], oldest=mine[1])
    two = replace(HELLO, role=Role.HOST, version=theirs[0], oldest=theirs[1])
    with pytest.raises(VersionError, match="speaks version"):
        agree(one, two)
