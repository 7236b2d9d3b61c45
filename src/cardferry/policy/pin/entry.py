"""A PIN that is typed at the reader: what programs ask a pinpad for, and the command that comes of it. Pure.

PC/SC part 10 (2.02.09), 2.5.2: the PIN_VERIFY structure; the codes that a pinpad answers are in 2.5.4. How a PIN gets
into the command: CCID 1.1, 6.1.11 (``bmFormatString``, ``bmPINBlockString``, ``bmPINLengthFormat``).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from cardferry.pcsc.constants import CONTROL_CODE_BASE

#: bTimerOut, bTimerOut2, bmFormatString, bmPINBlockString, bmPINLengthFormat, wPINMaxExtraDigit (least in its high
#: byte, most in its low), bEntryValidationCondition, bNumberMessage, wLangId, bMsgIndex, bTeoPrologue, ulDataLength.
_VERIFY: Final = struct.Struct("<BBBBBBBBBHB3xI")
_FEATURE: Final = struct.Struct(">BBI")
VERIFY_PIN_DIRECT, MODIFY_PIN_DIRECT, IFD_PIN_PROPERTIES, TLV_PROPERTIES = 0x06, 0x07, 0x0A, 0x12
#: Features about PINs: of a reader whose PINs the host gives, they are ours.
_OURS: Final = frozenset({0x01, 0x02, 0x03, 0x04, 0x05, VERIFY_PIN_DIRECT, MODIFY_PIN_DIRECT, IFD_PIN_PROPERTIES,
                          TLV_PROPERTIES})  # fmt: skip
#: The control codes by which programs reach them.
VERIFY_CODE: Final = CONTROL_CODE_BASE + 0xCF06
PROPERTIES_CODE: Final = CONTROL_CODE_BASE + 0xCF12
#: wLcdLayout none; bMinPINSize, bMaxPINSize.
PROPERTIES: Final = bytes.fromhex("01020000 060104 070110")
TIMED_OUT, CANCELLED, WRONG_SIZE, INVALID = (bytes.fromhex(each) for each in ("6400", "6401", "6403", "6B80"))

_HEADER: Final = 4
_BYTES, _RIGHT, _KIND = 0x80, 0x04, 0x03
_BINARY, _BCD, _ASCII = 0, 1, 2
_FILL: Final = 0xFF


def with_pinpad(features: bytes) -> bytes:
    """The answer to ``GET_FEATURE_REQUEST`` of a reader that gets a pinpad of ours."""
    kept = [features[at : at + _FEATURE.size] for at in range(0, len(features) - _FEATURE.size + 1, _FEATURE.size)]
    ours = _FEATURE.pack(VERIFY_PIN_DIRECT, 4, VERIFY_CODE), _FEATURE.pack(TLV_PROPERTIES, 4, PROPERTIES_CODE)
    return b"".join([each for each in kept if each[0] not in _OURS] + list(ours))


@dataclass(frozen=True, slots=True)
class PinEntry:
    """What a program asks the pinpad for.

    Attributes:
        least, most: digits.
        form, block, length: ``bmFormatString``, ``bmPINBlockString``, ``bmPINLengthFormat``.
        template: the command, in which the PIN is missing.
    """

    least: int
    most: int
    form: int
    block: int
    length: int
    template: bytes

    @classmethod
    def parse(cls, data: bytes) -> PinEntry:
        """Read the structure; raises `ValueError` when it is none."""
        if len(data) < _VERIFY.size + _HEADER:
            raise ValueError("too short")
        _, _, form, block, length, most, least, _, _, _, _, size = _VERIFY.unpack_from(data)
        template = data[_VERIFY.size :]
        if size != len(template) or form & _KIND > _ASCII:
            raise ValueError("a length or format that cannot be")
        body = len(template) - _HEADER - 1
        if body > 0 and template[_HEADER] not in (body, 0):
            raise ValueError("the command's length does not fit its Lc field")
        return cls(least, most or 16, form, block, length, template)

    def fits(self, pin: str) -> bool:
        """Whether a PIN has as many characters as it may have; digits only, where they are packed."""
        packed = self.form & _KIND != _ASCII
        return self.least <= len(pin) <= self.most and pin.isascii() and (pin.isdigit() or not packed)

    def command(self, pin: str) -> bytes:
        """The command with the PIN in it; raises `ValueError` where there is no room for it."""
        kind = self.form & _KIND
        digit_bits = 4 if kind == _BCD else 8
        digits = [ord(each) if kind == _ASCII else int(each) for each in pin]
        pin_bits = digit_bits * len(digits)
        block_bits = 8 * (self.block & 0x0F) or pin_bits + pin_bits % 8
        if pin_bits > block_bits:
            raise ValueError("the PIN is longer than its place")
        unit = 8 if self.form & _BYTES else 1
        at = unit * (self.form >> 3 & 0x0F)
        body = bytearray(self.template[_HEADER + 1 :])
        body.extend([_FILL] * ((at + block_bits + 7) // 8 - len(body)))
        if self.form & _RIGHT:
            at += block_bits - pin_bits
        for digit in digits:
            _put(body, at, digit_bits, digit)
            at += digit_bits
        size_bits = self.block >> 4
        if size_bits:
            unit = 8 if self.length & 0x10 else 1
            _put(body, unit * (self.length & 0x0F), size_bits, len(digits))
        if len(body) > 0xFF:
            raise ValueError("the command is too long")
        return self.template[:_HEADER] + bytes((len(body),)) + bytes(body)


def _put(body: bytearray, at: int, bits: int, value: int) -> None:
    """Put a number of so many bits at that bit, counted from the first one."""
    for bit in range(bits):
        byte, mask = divmod(at + bit, 8)
        if byte >= len(body) or value >> bits:
            raise ValueError("there is no room for it")
        if value >> (bits - 1 - bit) & 1:
            body[byte] |= 0x80 >> mask
        else:
            body[byte] &= ~(0x80 >> mask) & 0xFF
