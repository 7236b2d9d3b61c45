"""T=0 towards a reader, for a card that speaks T=1: its commands become whole ones, responses are given in parts.

Source: ISO/IEC 7816-3:2006, 10.3 and 12.2. A reader that works at the level of TPDUs and knows T=0 only, as QEMU's,
leaves that to its driver and to programs: after a header of four bytes comes P3, which is the length of the data, or
else of the response that is wanted, never both. A response to a command with data is fetched by GET RESPONSE. Extended
commands do not exist there: they are answered ``6700``, wrong length, and are not cut.

Whether a command with data has a response cannot be seen. One of ISO/IEC 7816-4 that has none gets no Le, all others
get one; a card that says ``6700`` to that, for which nothing has happened, is asked again without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cardferry.pcsc.atr import DIRECT_CONVENTION, Atr, AtrError
from cardferry.pcsc.constants import Protocol

_HEADER: Final = 5
_GET_RESPONSE: Final = 0xC0
#: Class byte: more commands of the same chain follow, which have no response before the last one (7816-4, 5.3.3).
_CHAINED: Final = 0x10
_WRONG_LENGTH: Final = b"\x67\x00"
_MORE: Final = 0x61
_LONGEST_RESPONSE: Final = 256
#: Instructions that have no response (7816-4, 11): DEACTIVATE, ERASE, VERIFY, MANAGE SECURITY ENVIRONMENT, CHANGE
#: REFERENCE DATA, ENABLE and DISABLE VERIFICATION, RESET RETRY COUNTER, ACTIVATE, EXTERNAL AUTHENTICATE, WRITE, UPDATE,
#: PUT DATA, APPEND, DELETE, TERMINATE.
_WITHOUT_RESPONSE: Final = frozenset(
    bytes.fromhex("04 0c 0e 0f 20 21 22 24 26 28 2c 44 82 d0 d1 d2 d6 d7 da db dc dd e2 e4 e6 e8 fe")
)
#: TD1 with T=0, and a TC2 that follows: the waiting integer WI (7816-3, 10.2), 960 * 372 clocks times 143, or 12 s.
#: The card may be somebody else's for a while. QEMU takes the byte after TD1 for TD1 itself when it checks the size of
#: an answer to reset (``check_atr``); with one bit in the upper half of that byte it comes to the same.
_T0_AND_PATIENCE: Final = b"\x40\x8f"


@dataclass(frozen=True, slots=True)
class Command:
    """A command for the card.

    Attributes:
        apdu: a whole one.
        tpdu: as it came from the reader, for a card that speaks T=0 itself: its answers can go through `answer`, too.
    """

    apdu: bytes
    tpdu: bytes


def t0_atr(raw: bytes) -> bytes:
    """The answer to reset for a reader that knows T=0 only: with the card's historical bytes, if it prefers T=1."""
    try:
        atr = Atr.parse(raw)
    except AtrError:
        return raw
    if atr.default is not Protocol.T1:
        return raw
    return bytes((DIRECT_CONVENTION, 0x80 | len(atr.historical))) + _T0_AND_PATIENCE + atr.historical


class T0Adapter:
    """What is between such a reader and the card. Any bytes get an answer."""

    __slots__ = ("_again", "_rest", "_with_data")

    def __init__(self) -> None:
        #: The rest of a response that has not been fetched yet, and its status word.
        self._rest = b""
        #: The command without Le, in case that the card does not want any.
        self._again: Command | None = None
        self._with_data = False

    def take(self, tpdu: bytes) -> bytes | Command:
        """Take what the reader sends.

        Returns:
            the answer; or a command, whose response `answer` takes.
        """
        size = len(tpdu)
        if size > _HEADER and size == _HEADER + tpdu[4] + 1:
            # Le after data, for which T=0 has no place. Programs that know T=1 alone send it all the same.
            tpdu, size = tpdu[:-1], size - 1
        if size != _HEADER - 1 and (size < _HEADER or size not in (_HEADER, _HEADER + tpdu[4])):
            return _WRONG_LENGTH
        self._again = None
        instruction = tpdu[1]
        if instruction == _GET_RESPONSE and self._rest:
            return self._part(tpdu[4] if size > _HEADER - 1 and tpdu[4] else _LONGEST_RESPONSE)
        self._rest = b""
        self._with_data = size > _HEADER
        if instruction in _WITHOUT_RESPONSE or tpdu[0] & _CHAINED:
            return Command(tpdu if self._with_data or size < _HEADER or tpdu[4] else tpdu[:-1], tpdu)
        if not self._with_data:
            return Command(tpdu, tpdu)
        self._again = Command(tpdu, tpdu)
        return Command(tpdu + b"\x00", tpdu)

    def answer(self, response: bytes) -> bytes | Command:
        """Take the card's response.

        Returns:
            the answer for the reader; or the same command in another form, for the card.
        """
        if response == _WRONG_LENGTH and self._again is not None:
            again, self._again = self._again, None
            return again
        size = len(response) - 2
        if size <= 0 or (not self._with_data and size <= _LONGEST_RESPONSE):
            return response
        self._rest = response
        if self._with_data:
            return bytes((_MORE, min(size, _LONGEST_RESPONSE) & 0xFF))
        return self._part(_LONGEST_RESPONSE)

    def _part(self, wanted: int) -> bytes:
        """As much of the rest as is wanted, and a status word: that of the card comes with the last part."""
        part, rest = self._rest[:-2][:wanted], self._rest[wanted:]
        if len(rest) <= 2:
            status, self._rest = self._rest[-2:], b""
            return part + status
        self._rest = rest
        return part + bytes((_MORE, min(len(rest) - 2, _LONGEST_RESPONSE) & 0xFF))
