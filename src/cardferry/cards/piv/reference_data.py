"""PIN and PUK: what is compared, in constant time, and how many tries are left.

Implements NIST SP 800-73-5 part 2, 2.4.3 (formats) and 3.2.1 to 3.2.3 (retry counters).
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from typing import Final

from cardferry.cards.status_error import StatusError
from cardferry.pcsc.apdu import StatusWord

#: Bytes of reference data on the wire; a shorter PIN is padded with FF.
SIZE: Final = 8
_PADDING: Final = b"\xff"
_MIN_PIN_DIGITS: Final = 6


def pad(text: str) -> bytes:
    """A PIN or PUK as it is sent; raises `ValueError` when it has more than 8 characters or others than ASCII."""
    raw = text.encode("ascii")
    if len(raw) > SIZE:
        raise ValueError(f"a PIN has at most {SIZE} characters")
    return raw.ljust(SIZE, _PADDING)


def is_pin(value: bytes) -> bool:
    """Whether this is a PIN in its format: six to eight decimal digits, padded with FF."""
    digits = value.rstrip(_PADDING)
    return len(value) == SIZE and len(digits) >= _MIN_PIN_DIGITS and digits.isdigit()


def is_puk(value: bytes) -> bool:
    """Whether this is a PUK in its format: any eight bytes."""
    return len(value) == SIZE


@dataclass(slots=True)
class ReferenceData:
    """A secret with a retry counter.

    Attributes:
        value: eight bytes.
        tries: tries of a fresh counter, 1 to 255.
        left: tries left, 0 when blocked.
    """

    value: bytes = field(repr=False)
    tries: int = 3
    left: int = 3

    @property
    def blocked(self) -> bool:
        """Whether no try is left."""
        return self.left == 0

    def status(self) -> StatusWord:
        """What an unverified card says when it is asked: ``63Cx``, or ``6983`` when blocked."""
        return StatusWord.AUTHENTICATION_BLOCKED if self.blocked else StatusWord.retries(self.left)

    def check(self, candidate: bytes) -> None:
        """Compare, which costs a try unless it is right; raises `StatusError` with `status`.

        The try is taken before the comparison, so that an interruption cannot win one.
        """
        if self.blocked:
            raise StatusError(StatusWord.AUTHENTICATION_BLOCKED)
        self.left -= 1
        if not hmac.compare_digest(self.value, candidate):
            raise StatusError(self.status())
        self.left = self.tries

    def renew(self, value: bytes) -> None:
        """A new secret with a fresh counter."""
        self.value = value
        self.left = self.tries
