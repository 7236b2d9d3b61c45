"""BER-TLV data objects, as cards use them.

Implements ISO 7816-4:2020, 6.3: tags of one to three bytes, definite lengths of up to 65535 bytes. Nothing
nests here: the caller parses a value again where it knows that it holds data objects, so the caller bounds the
depth.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from cardferry.pcsc.errors import CardferryError

#: Bytes of the longest tag (ISO 7816-4, 6.3: cards need no longer ones).
MAX_TAG_SIZE: Final = 3
#: Bytes of the longest value.
MAX_VALUE_SIZE: Final = 0xFFFF

_LONG_TAG: Final = 0x1F
_TAG_CONTINUES: Final = 0x80
_LONG_LENGTH: Final = 0x80
#: A received length field may be wider than it needs to be, as BER allows: this many bytes behind the first.
_MAX_LENGTH_BYTES: Final = 4


class TlvError(CardferryError):
    """These bytes, or values, are no BER-TLV data object."""


@dataclass(frozen=True, slots=True)
class Tlv:
    """A data object. ``tag`` is its tag field as a number: ``0x5C``, ``0x7F49``, ``0x5FC102``."""

    tag: int
    value: bytes = b""

    def encode(self) -> bytes:
        """The bytes, with the shortest length field; raises `TlvError` for an impossible tag or value."""
        size = len(self.value)
        if size > MAX_VALUE_SIZE:
            raise TlvError(f"a value has at most {MAX_VALUE_SIZE} bytes, not {size}")
        if size < _LONG_LENGTH:
            length = bytes((size,))
        else:
            digits = size.to_bytes(2 if size > 0xFF else 1, "big")
            length = bytes((_LONG_LENGTH | len(digits),)) + digits
        return encode_tag(self.tag) + length + self.value


def encode(tag: int, *parts: bytes) -> bytes:
    """A data object whose value is all ``parts``, one behind the other."""
    return Tlv(tag, b"".join(parts)).encode()


def encode_tag(tag: int) -> bytes:
    """The tag field of ``tag``; raises `TlvError` when no tag field reads so."""
    raw = tag.to_bytes(max(1, (tag.bit_length() + 7) // 8), "big") if tag > 0 else b""
    if not raw or _tag_size(raw, 0) != len(raw):
        raise TlvError(f"{tag:#x} is not a tag")
    return raw


def parse(data: bytes) -> tuple[Tlv, ...]:
    """All data objects in ``data``, which must hold nothing else; raises `TlvError`."""
    return tuple(_objects(bytes(data)))


def parse_leading(data: bytes) -> Iterator[Tlv]:
    """The data objects that ``data`` begins with, up to the first bytes that are none: cut short, or padding."""
    with suppress(TlvError):
        yield from _objects(data)


def parse_one(data: bytes, tag: int) -> bytes:
    """The value of the single data object ``tag`` that ``data`` consists of; raises `TlvError`."""
    objects = parse(data)
    if len(objects) != 1 or objects[0].tag != tag:
        raise TlvError(f"expected one data object {tag:X}")
    return objects[0].value


def parse_map(data: bytes) -> dict[int, bytes]:
    """Values by tag; raises `TlvError`, also when a tag comes twice."""
    objects = parse(data)
    values = {each.tag: each.value for each in objects}
    if len(values) != len(objects):
        raise TlvError("a data object comes twice")
    return values


def _objects(data: bytes) -> Iterator[Tlv]:
    offset = 0
    while offset < len(data):
        tag_end = offset + _tag_size(data, offset)
        value_start, size = _length(data, tag_end)
        value_end = value_start + size
        if value_end > len(data):
            raise TlvError("a data object ends inside its value")
        yield Tlv(int.from_bytes(data[offset:tag_end], "big"), data[value_start:value_end])
        offset = value_end


def _tag_size(data: bytes, offset: int) -> int:
    """Bytes of the tag field at ``offset``."""
    if data[offset] == 0:
        raise TlvError("00 is not a tag")
    if data[offset] & _LONG_TAG != _LONG_TAG:
        return 1
    for size in range(2, MAX_TAG_SIZE + 1):
        if offset + size > len(data):
            raise TlvError("a data object ends inside its tag")
        if not data[offset + size - 1] & _TAG_CONTINUES:
            return size
    raise TlvError(f"a tag has at most {MAX_TAG_SIZE} bytes")


def _length(data: bytes, offset: int) -> tuple[int, int]:
    """Where the value begins, and its size, from the length field at ``offset``."""
    if offset >= len(data):
        raise TlvError("a data object ends before its length")
    first = data[offset]
    if first < _LONG_LENGTH:
        return offset + 1, first
    width = first - _LONG_LENGTH
    if not 1 <= width <= _MAX_LENGTH_BYTES:
        raise TlvError(f"{first:02X} does not begin a length")
    end = offset + 1 + width
    if end > len(data):
        raise TlvError("a data object ends inside its length")
    return end, int.from_bytes(data[offset + 1 : end], "big")
