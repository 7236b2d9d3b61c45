"""Data objects in commands, whole and cut short."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardferry.pcsc import tlv
from cardferry.policy.operations.objects import Object, objects


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("", []),
        ("5C035FC105", [Object(0x5C, 3, bytes.fromhex("5FC105"))]),
        ("8200810101", [Object(0x82, 0, b""), Object(0x81, 1, b"\1")]),
        ("7F490100", [Object(0x7F49, 1, b"\0")]),
        ("818180" + "00" * 128, [Object(0x81, 128, bytes(128))]),
        ("81820100" + "00" * 256, [Object(0x81, 256, bytes(256))]),
        # a tag alone, a value that is too short, a byte too many
        ("5C", None),
        ("5C035FC1", None),
        ("5C0000", None),
        # fillings, which not every card knows
        ("005C00", None),
        ("FF", None),
        # lengths that are longer than they must be, or indefinite
        ("5C810100", None),
        ("5C82000100", None),
        ("5C800000", None),
        ("5C83000001AA", None),
    ],
)
def test_whole_data(data: str, expected: list[Object] | None) -> None:
    assert objects(bytes.fromhex(data)) == expected


@given(st.lists(st.tuples(st.sampled_from((0x5C, 0x81, 0x7C, 0x7F49, 0x5FC105)), st.binary(max_size=300)), max_size=4))
def test_every_beginning_shows_the_same_objects(parts: list[tuple[int, bytes]]) -> None:
    data = b"".join(tlv.encode(tag, value) for tag, value in parts)
    whole = objects(data)
    assert whole is not None
    assert [(each.tag, each.value) for each in whole] == parts
    for end in range(len(data)):
        seen = objects(data[:end], partial=True)
        assert seen is not None
        assert [each[:2] for each in seen] == [each[:2] for each in whole[: len(seen)]]
        assert all(part.value == each.value[: len(part.value)] for part, each in zip(seen, whole, strict=False))


@given(st.binary(max_size=40), st.booleans())
def test_any_bytes_have_an_answer(data: bytes, partial: bool) -> None:
    found = objects(data, partial=partial)
    assert found is None or sum(len(each.value) for each in found) <= len(data)
