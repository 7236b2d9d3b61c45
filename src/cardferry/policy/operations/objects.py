"""The data objects in a command, read so that every card reads them the same.

BER-TLV as in ISO 7816-4:2020, 6.3, with the shortest length fields only: cards have been seen that read only those,
and see other objects in the rest. No program of the field sends longer ones.
"""

from __future__ import annotations

from typing import Final, NamedTuple

_LONG_TAG, _TAG_CONTINUES, _MAX_TAG_SIZE = 0x1F, 0x80, 3
#: The first value that needs so many bytes behind the first of the length field.
_LONG_LENGTH: Final = 0x80
_SHORTEST: Final = {1: 0x80, 2: 0x100}


class Object(NamedTuple):
    """A data object: its tag as a number, the length that it has, and its value, cut short where the data ends."""

    tag: int
    length: int
    value: bytes


def objects(data: bytes, *, partial: bool = False) -> list[Object] | None:
    """The data objects that ``data`` consists of; None when it does not consist of data objects.

    Args:
        data: the objects, one behind the other.
        partial: ``data`` is only the beginning: the last value may be cut short, and a last object of which not even
            the length is there is left out.
    """
    found: list[Object] = []
    at, size = 0, len(data)
    while at < size:
        tag = data[at]
        if at + 1 < size and data[at + 1] < _LONG_LENGTH and tag & _LONG_TAG != _LONG_TAG and tag:
            start, length = at + 2, data[at + 1]  # as nearly always: one byte each
        else:
            header = _header(data, at)
            if header is None:
                return found if partial and _cut_short(data, at) else None
            tag, start, length = header
        at = start + length
        if at > size and not partial:
            return None
        found.append(Object(tag, length, data[start:at]))
    return found


def _header(data: bytes, at: int) -> tuple[int, int, int] | None:
    """Tag, offset of the value, and length of the object at ``at``."""
    end = at + _tag_size(data, at)
    if end == at or end >= len(data):
        return None
    first = data[end]
    if first < _LONG_LENGTH:
        return int.from_bytes(data[at:end], "big"), end + 1, first
    size = first - _LONG_LENGTH
    digits = data[end + 1 : end + 1 + size]
    length = int.from_bytes(digits, "big")
    if size not in _SHORTEST or len(digits) < size or length < _SHORTEST[size]:
        return None
    return int.from_bytes(data[at:end], "big"), end + 1 + size, length


def _tag_size(data: bytes, at: int) -> int:
    """Bytes of the tag at ``at``; 0 when there is none."""
    if data[at] in (0x00, 0xFF):
        return 0
    if data[at] & _LONG_TAG != _LONG_TAG:
        return 1
    for size in range(2, _MAX_TAG_SIZE + 1):
        if at + size <= len(data) and not data[at + size - 1] & _TAG_CONTINUES:
            return size
    return 0


def _cut_short(data: bytes, at: int) -> bool:
    """Whether what is left is too short for tag and length, rather than wrong."""
    return len(data) - at < _MAX_TAG_SIZE + max(_SHORTEST) + 1 and data[at] not in (0x00, 0xFF)
