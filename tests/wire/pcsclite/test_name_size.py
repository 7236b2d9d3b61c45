"""How long reader names are at a pcscd of 4:2: bytes as its C structs lay them out."""

from __future__ import annotations

import struct

import pytest

from cardferry.wire.errors import WireError
from cardferry.wire.pcsclite.name_size import NameSizeQuestion

VERSION = struct.pack("<iiI", 4, 2, 0)


def states(size: int, *names: bytes, stale: bytes = b"") -> bytes:
    """16 ``READER_STATE`` records; ``stale``: what an older, longer name has left in the second half of the field."""
    record = struct.Struct(f"<{size}sIIi33s3xII")
    records = [record.pack(name + b"\0" + stale[len(name) + 1 :], 1, 0x34, 1, b"\x3b\x00", 2, 1) for name in names]
    return b"".join(records) + bytes((16 - len(records)) * record.size)


def test_what_is_asked() -> None:
    assert NameSizeQuestion("little").request.hex() == "00000000120000000c00000011000000040000000200000000000000"


@pytest.mark.parametrize("size", [100, 128])
@pytest.mark.parametrize("names", [(), (b"Reader 00 00",), tuple(b"%095d" % number for number in range(16))])
@pytest.mark.parametrize("piece", [1, 7, 156, 4096])
def test_the_size_shows_in_the_answer_however_it_comes(size: int, names: tuple[bytes, ...], piece: int) -> None:
    question = NameSizeQuestion("little")
    answer = states(size, *names, stale=b"y" * (size - 1)) + VERSION
    for start in range(0, len(answer), piece):
        found = question.receive(answer[start : start + piece])
        assert found == (size if start + piece >= len(answer) else None)


def test_long_names_where_the_end_of_the_shorter_records_would_be() -> None:
    question = NameSizeQuestion("little")
    answer = states(128, *[b"\xc3\xbc" * 58 + b" %02X 00" % number for number in range(16)]) + VERSION
    assert question.receive(answer[:2508]) is None
    assert question.receive(answer[2508:]) == 128


@pytest.mark.parametrize("answer", [bytes(16 * 184 + 12), bytes(10_000), states(128) + struct.pack("<iiI", 4, 3, 0)])
def test_anything_else_is_the_documented_error(answer: bytes) -> None:
    with pytest.raises(WireError):
        NameSizeQuestion("little").receive(answer)
