from __future__ import annotations

import struct

import pytest
from bench.nothing import whole

_BEGIN = struct.pack("=IIiI", 8, 0x07, 5, 0)
_WAIT = struct.pack("=II", 0, 0x13)
_TRANSMIT = struct.pack("=II8I", 32, 0x09, 5, 2, 16, 5, 3, 16, 65548, 0) + bytes.fromhex("00A4040000")
_CONTROL = struct.pack("=II6I", 24, 0x0A, 5, 0x42000D48, 3, 264, 0, 0) + b"abc"


@pytest.mark.parametrize("request_", [_BEGIN, _WAIT, _TRANSMIT, _CONTROL])
def test_a_request_is_passed_on_when_it_is_whole(request_: bytes) -> None:
    for end in range(len(request_)):
        assert whole(request_[:end]) == 0
        assert whole(_BEGIN + request_[:end]) == len(_BEGIN)
    assert whole(request_) == len(request_)
    assert whole(request_ + _BEGIN) == len(request_ + _BEGIN)
