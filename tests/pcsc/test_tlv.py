"""BER-TLV (ISO 7816-4:2020, 6.3)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardferry.pcsc.tlv import Tlv, TlvError, encode, encode_tag, parse, parse_leading, parse_map, parse_one

#: Tags that a tag field can spell.
TAGS = st.one_of(
    st.integers(1, 0xFF).filter(lambda tag: tag & 0x1F != 0x1F),
    st.builds(lambda first, last: (first | 0x1F) << 8 | last, st.integers(0, 0xFF), st.integers(0, 0x7F)),
    st.builds(
        lambda first, middle, last: (first | 0x1F) << 16 | (middle | 0x80) << 8 | last,
        st.integers(0, 0xFF),
        st.integers(0, 0xFF),
        st.integers(0, 0x7F),
    ),
)
OBJECTS = st.builds(Tlv, TAGS, st.binary(max_size=400))


@pytest.mark.parametrize(
    ("tag", "size", "header"),
    [
        (0x5C, 0, "5C00"),
        (0x5C, 0x7F, "5C7F"),
        (0x53, 0x80, "538180"),
        (0x53, 0xFF, "5381FF"),
        (0x53, 0x100, "53820100"),
        (0x53, 0xFFFF, "5382FFFF"),
        (0x7F49, 1, "7F4901"),
        (0x5FC102, 2, "5FC10202"),
    ],
)
def test_headers(tag: int, size: int, header: str) -> None:
    raw = bytes.fromhex(header) + bytes(size)
    assert encode(tag, bytes(size)) == raw
    assert parse(raw) == (Tlv(tag, bytes(size)),)


def test_an_example_of_the_standard() -> None:
    # the discovery object of SP 800-73-4 part 1, 3.3.2
    raw = bytes.fromhex("7E124F0BA0000003080000100001005F2F024000")
    inner = parse_one(raw, 0x7E)
    assert parse(inner) == (
        Tlv(0x4F, bytes.fromhex("A000000308000010000100")),
        Tlv(0x5F2F, bytes.fromhex("4000")),
    )


@pytest.mark.parametrize("text", ["81810100", "5C820001AA", "5C83000001AA", "5C8400000001AA"])
def test_wider_length_fields_than_needed_are_read(text: str) -> None:
    raw = bytes.fromhex(text)
    (item,) = parse(raw)
    assert len(item.value) == 1


@pytest.mark.parametrize(
    "text",
    [
        "00",  # no tag
        "0000",
        "5C",  # no length
        "5C02AA",  # value cut short
        "5C80",  # indefinite length
        "5C80AA0000",
        "5C81",  # length cut short
        "5C8201",
        "5C850000000001AA",  # length too wide
        "5CFF",
        "5F",  # tag cut short
        "5FC1",
        "5FC1C100",  # tag too long
        "5FC1C10100",
        "5C00 00",  # something behind it
    ],
)
def test_what_is_no_data_object(text: str) -> None:
    with pytest.raises(TlvError):
        parse(bytes.fromhex(text))


@pytest.mark.parametrize("tag", [0, -1, 0x5F, 0x1FFF, 0x5C01, 0x5FC1C1, 0x5FC1C101, 0x01020304])
def test_what_is_no_tag(tag: int) -> None:
    with pytest.raises(TlvError):
        encode_tag(tag)


def test_a_value_that_is_too_long() -> None:
    with pytest.raises(TlvError):
        encode(0x53, bytes(0x10000))


def test_parts_are_joined() -> None:
    assert encode(0x7C, b"\x81\x00", b"\x82\x00") == bytes.fromhex("7C0481008200")


def test_parse_one_wants_exactly_that_one() -> None:
    assert parse_one(b"\x5c\x01\x7e", 0x5C) == b"\x7e"
    for raw in (b"", b"\x5d\x01\x7e", b"\x5c\x01\x7e\x5c\x00"):
        with pytest.raises(TlvError):
            parse_one(raw, 0x5C)


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("", []),
        ("8001AA 5F2F01BB", [0x80, 0x5F2F]),
        ("8001AA 0000", [0x80]),
        ("8001AA 5C80", [0x80]),
        ("8001AA 5C02AA", [0x80]),
        ("00 8001AA", []),
    ],
)
def test_what_comes_behind_the_last_data_object_may_be_anything(text: str, tags: list[int]) -> None:
    assert [each.tag for each in parse_leading(bytes.fromhex(text))] == tags


def test_parse_map_wants_each_once() -> None:
    assert parse_map(bytes.fromhex("820081 01AA")) == {0x82: b"", 0x81: b"\xaa"}
    assert parse_map(b"") == {}
    with pytest.raises(TlvError):
        parse_map(bytes.fromhex("81008100"))


@given(st.lists(OBJECTS, max_size=6))
def test_round_trip(objects: list[Tlv]) -> None:
    assert parse(b"".join(each.encode() for each in objects)) == tuple(objects)


@given(st.binary(max_size=64))
def test_any_bytes_are_data_objects_or_the_one_error(raw: bytes) -> None:
    try:
        objects = parse(raw)
    except TlvError:
        return
    assert sum(len(each.value) for each in objects) <= len(raw)
    assert parse(b"".join(each.encode() for each in objects)) == objects


@given(OBJECTS, st.data())
def test_cut_anywhere_it_is_no_data_object(item: Tlv, data: st.DataObject) -> None:
    raw = item.encode()
    end = data.draw(st.integers(1, len(raw) - 1))
    with pytest.raises(TlvError):
        parse(raw[:end])
