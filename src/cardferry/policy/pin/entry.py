"""A PIN that is typed at the reader: what programs ask a pinpad for, and the command that comes of it. Pure.

PC/SC part 10 (2.02.09), 2.5.2 and 2.5.3: the structures PIN_VERIFY and PIN_MODIFY; the codes that a pinpad answers are
in 2.5.4. How a PIN gets into the command: CCID 1.1, 6.1.11 and 6.1.12 (``bmFormatString``, ``bmPINBlockString``,
``bmPINLengthFormat``, ``bInsertionOffsetOld``, ``bInsertionOffsetNew``).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from typing import Final

from cardferry.pcsc.constants import CONTROL_CODE_BASE

#: bTimerOut, bTimerOut2, bmFormatString, bmPINBlockString, bmPINLengthFormat, wPINMaxExtraDigit (least in its high
#: byte, most in its low), bEntryValidationCondition, bNumberMessage, wLangId, bMsgIndex, bTeoPrologue, ulDataLength.
_VERIFY: Final = struct.Struct("<BBBBBBBBBHB3xI")
#: bTimerOut, bTimerOut2, bmFormatString, bmPINBlockString, bmPINLengthFormat, bInsertionOffsetOld, bInsertionOffsetNew,
#: wPINMaxExtraDigit, bConfirmPIN, bEntryValidationCondition, bNumberMessage, wLangId, bMsgIndex1 to 3, bTeoPrologue,
#: ulDataLength.
_MODIFY: Final = struct.Struct("<BBBBBBBBBBBBHBBB3xI")
#: bConfirmPIN: the new PIN is typed twice; the old one is typed as well.
_TWICE, _OLD = 0x01, 0x02
_FEATURE: Final = struct.Struct(">BBI")
VERIFY_PIN_DIRECT, MODIFY_PIN_DIRECT, IFD_PIN_PROPERTIES, TLV_PROPERTIES = 0x06, 0x07, 0x0A, 0x12
#: Features about PINs: of a reader whose PINs the host gives, they are ours.
_OURS: Final = frozenset({0x01, 0x02, 0x03, 0x04, 0x05, VERIFY_PIN_DIRECT, MODIFY_PIN_DIRECT, IFD_PIN_PROPERTIES,
                          TLV_PROPERTIES})  # fmt: skip
#: The control codes by which programs reach them.
VERIFY_CODE: Final = CONTROL_CODE_BASE + 0xCF06
MODIFY_CODE: Final = CONTROL_CODE_BASE + 0xCF07
PROPERTIES_CODE: Final = CONTROL_CODE_BASE + 0xCF12
#: wLcdLayout none; bMinPINSize, bMaxPINSize.
PROPERTIES: Final = bytes.fromhex("01020000 060104 070110")
TIMED_OUT, CANCELLED, NOT_THE_SAME, WRONG_SIZE, INVALID = (
    bytes.fromhex(each) for each in ("6400", "6401", "6402", "6403", "6B80")
)
#: s: the longest that a program may let the person take.
_LONGEST: Final = 60

_HEADER: Final = 4
_BYTES, _RIGHT, _KIND = 0x80, 0x04, 0x03
_BINARY, _BCD, _ASCII = 0, 1, 2
_FILL: Final = 0xFF


def with_pinpad(features: bytes, *, changes: bool) -> bytes:
    """The answer to ``GET_FEATURE_REQUEST`` of a reader that gets a pinpad of ours.

    Args:
        changes: PINs can be changed there as well.
    """
    kept = [features[at : at + _FEATURE.size] for at in range(0, len(features) - _FEATURE.size + 1, _FEATURE.size)]
    ours = {VERIFY_PIN_DIRECT: VERIFY_CODE, MODIFY_PIN_DIRECT: MODIFY_CODE, TLV_PROPERTIES: PROPERTIES_CODE}
    if not changes:
        del ours[MODIFY_PIN_DIRECT]
    mine = [_FEATURE.pack(feature, 4, code) for feature, code in ours.items()]
    return b"".join([each for each in kept if each[0] not in _OURS] + mine)


@dataclass(frozen=True, slots=True)
class PinEntry:
    """What a program asks the pinpad for.

    Attributes:
        patience: s that the person has; 0 for as long as usual.
        least, most: digits.
        form, block, length: ``bmFormatString``, ``bmPINBlockString``, ``bmPINLengthFormat``.
        template: the command, in which the PINs are missing.
        old: where the PIN that is in force goes, in bytes from the begin of the command's data; None: it is not asked.
        new: where a new one goes; None: there is none.
        twice: the new one is typed twice.
    """

    patience: int
    least: int
    most: int
    form: int
    block: int
    length: int
    template: bytes = field(repr=False)
    old: int | None = 0
    new: int | None = None
    twice: bool = False

    @classmethod
    def parse(cls, data: bytes, *, changes: bool = False) -> PinEntry:
        """Read the structure.

        Args:
            changes: it is PIN_MODIFY, not PIN_VERIFY.

        Raises:
            ValueError: it is none.
        """
        layout = _MODIFY if changes else _VERIFY
        if len(data) < layout.size + _HEADER:
            raise ValueError("too short")
        fields = layout.unpack_from(data)
        timeout, _, form, block, length = fields[:5]
        most, least = fields[7:9] if changes else fields[5:7]
        template = data[layout.size :]
        if fields[-1] != len(template) or form & _KIND > _ASCII:
            raise ValueError("a length or format that cannot be")
        body = len(template) - _HEADER - 1
        if body > 0 and template[_HEADER] not in (body, 0):
            raise ValueError("the command's length does not fit its Lc field")
        entry = cls(min(timeout, _LONGEST), least, most or 16, form, block, length, template)
        if not changes:
            return entry
        old, new, confirm = fields[5], fields[6], fields[9]
        return replace(entry, old=old if confirm & _OLD else None, new=new, twice=bool(confirm & _TWICE))

    @property
    def prompts(self) -> list[str]:
        """The PINs that are typed, one after the other."""
        prompts = [] if self.old is None else ["PIN"]
        if self.new is not None:
            prompts += ["New PIN", "New PIN again"] if self.twice else ["New PIN"]
        return prompts

    def fits(self, pin: bytearray) -> bool:
        """Whether a PIN has as many characters as it may have; digits only, where they are packed."""
        packed = self.form & _KIND != _ASCII
        return self.least <= len(pin) <= self.most and pin.isascii() and (pin.isdigit() or not packed)

    def command(self, pin: bytearray, new: bytearray | None = None) -> bytes:
        """The command with the PIN in it.

        Args:
            pin: the one that is in force; not used where none is asked for.
            new: the one that takes its place.

        Raises:
            ValueError: there is no room for it.
        """
        body = bytearray(self.template[_HEADER + 1 :])
        end = 0 if self.old is None else self._put_pin(body, self.old, pin)
        if new is not None and self.new is not None:
            # where PINs take as much room as they have, a new one goes behind the old one
            behind = self.old is not None and self.new <= self.old
            self._put_pin(body, end if behind else self.new, new)
        if len(body) > 0xFF:
            raise ValueError("the command is too long")
        return self.template[:_HEADER] + bytes((len(body),)) + bytes(body)

    def _put_pin(self, body: bytearray, begin: int, pin: bytearray) -> int:
        """Put a PIN at that byte; returns where what follows it begins."""
        kind = self.form & _KIND
        digit_bits = 4 if kind == _BCD else 8
        digits = [each if kind == _ASCII else each - ord("0") for each in pin]
        pin_bits = digit_bits * len(digits)
        block_bits = 8 * (self.block & 0x0F) or pin_bits + pin_bits % 8
        if pin_bits > block_bits:
            raise ValueError("the PIN is longer than its place")
        unit = 8 if self.form & _BYTES else 1
        at = 8 * begin + unit * (self.form >> 3 & 0x0F)
        end = (at + block_bits + 7) // 8
        body.extend([_FILL] * (end - len(body)))
        if self.form & _RIGHT:
            at += block_bits - pin_bits
        for digit in digits:
            _put(body, at, digit_bits, digit)
            at += digit_bits
        size_bits = self.block >> 4
        if size_bits:
            unit = 8 if self.length & 0x10 else 1
            _put(body, 8 * begin + unit * (self.length & 0x0F), size_bits, len(digits))
        return end


def _put(body: bytearray, at: int, bits: int, value: int) -> None:
    """Put a number of so many bits at that bit, counted from the first one."""
    for bit in range(bits):
        byte, mask = divmod(at + bit, 8)
        if byte >= len(body) or not 0 <= value < 1 << bits:
            raise ValueError("there is no room for it")
        if value >> (bits - 1 - bit) & 1:
            body[byte] |= 0x80 >> mask
        else:
            body[byte] &= ~(0x80 >> mask) & 0xFF
