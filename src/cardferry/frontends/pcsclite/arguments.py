"""What programs pass as numbers, as the values that it means; and what a command says of its response."""

from __future__ import annotations

from typing import Final

from cardferry.pcsc.apdu import ApduError, CommandApdu
from cardferry.pcsc.constants import Disposition, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode

#: Bytes of a status word: what a response must have room for.
SHORTEST_RESPONSE: Final = 2
_DISPOSITIONS: Final = {int(disposition): disposition for disposition in Disposition}


def most_needed(apdu: bytes) -> int:
    """Bytes that a response to this command has at most, as far as the command says."""
    try:
        return CommandApdu.parse(apdu).ne + SHORTEST_RESPONSE
    except ApduError:
        return SHORTEST_RESPONSE


def share_mode(number: int) -> ShareMode:
    """The share mode of that number. Raises ``E_INVALID_VALUE`` when there is none."""
    try:
        return ShareMode(number)
    except ValueError:
        raise PcscError(ReturnCode.E_INVALID_VALUE, f"share mode {number}") from None


def disposition_of(number: int) -> Disposition:
    """The disposition of that number. Raises ``E_INVALID_VALUE`` when there is none."""
    disposition = _DISPOSITIONS.get(number)
    if disposition is None:
        raise PcscError(ReturnCode.E_INVALID_VALUE, f"disposition {number}")
    return disposition
