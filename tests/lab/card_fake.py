"""A card without meaning, for measuring: as fast or slow as told.

SELECT gives 9000; `80 10 hh hh` gives hhhh bytes and 9000; `80 20 00 00` gives the number of APDUs so far (4 bytes,
big-endian) and 9000; `80 30 hh hh` takes hhhh ms; `80 40` gives what came: the APDU's length (4 bytes, big-endian)
and the sum of its body's bytes (2 bytes); `80 50 00 00` gives how often it was reset (4 bytes); everything else 6D00.
"""

from __future__ import annotations

import struct
import time

from tests.lab.dial_in import RESET, command_line, serve

_ATR = bytes.fromhex("3B80800101")


class FakeCard:
    """Answers after ``delay`` s."""

    def __init__(self, delay: float, atr: bytes = _ATR) -> None:
        self._delay = delay
        self._atr = atr
        self._count = self._resets = 0

    def atr(self) -> bytes:
        """The shortest ATR that offers T=1."""
        return self._atr

    def power(self, order: int) -> None:
        """Nothing is forgotten: the counters count for ever."""
        self._resets += order == RESET

    def process(self, apdu: bytes) -> bytes:
        """See the module."""
        self._count += 1
        if self._delay:
            time.sleep(self._delay)
        argument = struct.unpack(">H", apdu[2:4])[0] if len(apdu) >= 4 else 0
        match apdu[:2]:
            case b"\x00\xa4":
                return b"\x90\x00"
            case b"\x80\x10":
                return bytes(index & 0xFF for index in range(argument)) + b"\x90\x00"
            case b"\x80\x20":
                return struct.pack(">I", self._count) + b"\x90\x00"
            case b"\x80\x50":
                return struct.pack(">I", self._resets) + b"\x90\x00"
            case b"\x80\x30":
                time.sleep(argument / 1000)
                return b"\x90\x00"
            case b"\x80\x40":
                body = apdu[7:] if len(apdu) > 5 and not apdu[4] else apdu[5:]
                return struct.pack(">IH", len(apdu), sum(body) & 0xFFFF) + b"\x90\x00"
            case _:
                return b"\x6d\x00"


if __name__ == "__main__":
    _parser = command_line("card_fake")
    _parser.add_argument("--delay", type=float, default=0.0, help="s, for every APDU")
    _parser.add_argument("--atr", type=bytes.fromhex, default=_ATR)
    _options = _parser.parse_args()
    serve(FakeCard(_options.delay, _options.atr), _options.host, _options.port)
