"""VERIFY, CHANGE REFERENCE DATA, RESET RETRY COUNTER (NIST SP 800-73-5 part 2, 3.2.1 to 3.2.3).

The old value is compared before the new one's format is looked at, and eight bytes that cannot be a PIN are a wrong
PIN (``63Cx``, which the standard allows), as a YubiKey does it: ykman blocks PIN and PUK with eight FF before a reset.
"""

from __future__ import annotations

from typing import Final

from cardferry.cards.piv import reference_data
from cardferry.cards.piv.application import Application, Instruction
from cardferry.cards.piv.reference_data import ReferenceData, is_pin, is_puk
from cardferry.cards.status_error import StatusError
from cardferry.pcsc.apdu import CommandApdu, StatusWord

#: Key references (SP 800-73-5 part 1, table 5).
PIN: Final = 0x80
PUK: Final = 0x81

_P1_CHECK: Final = 0x00
_P1_LOG_OUT: Final = 0xFF


def verify(application: Application, command: CommandApdu) -> bytes:
    """Verify the PIN; without data, ask whether it is verified; with P1 = FF, log out."""
    _require_reference(command.p2, PIN)
    session, pin = application.session, application.contents.pin
    if command.p1 == _P1_LOG_OUT:
        if command.data:
            raise StatusError(StatusWord.WRONG_DATA)
        session.forget_pin()
        return b""
    if command.p1 != _P1_CHECK:
        raise StatusError(StatusWord.INCORRECT_P1_P2)
    if not command.data:
        if not session.pin_verified:
            raise StatusError(pin.status())
        return b""
    if len(command.data) != reference_data.SIZE:
        raise StatusError(StatusWord.WRONG_DATA, "not eight bytes")
    _check_pin(application, command.data)
    return b""


def change_reference_data(application: Application, command: CommandApdu) -> bytes:
    """A new PIN for the old one, or a new PUK."""
    _require_p1(command)
    old, new = _halves(command.data)
    if command.p2 == PUK:
        _check(application, application.contents.puk, old)
        application.contents.puk.renew(new)
    else:
        _require_reference(command.p2, PIN)
        _check_pin(application, old)
        _require_pin(new)
        application.contents.pin.renew(new)
    application.changed()
    return b""


def reset_retry_counter(application: Application, command: CommandApdu) -> bytes:
    """A new PIN, with all its tries, for the PUK."""
    _require_p1(command)
    _require_reference(command.p2, PIN)
    puk, pin = _halves(command.data)
    _check(application, application.contents.puk, puk)
    _require_pin(pin)
    application.contents.pin.renew(pin)
    application.changed()
    return b""


def _halves(data: bytes) -> tuple[bytes, bytes]:
    old, new = data[: reference_data.SIZE], data[reference_data.SIZE :]
    if not is_puk(old) or not is_puk(new):
        raise StatusError(StatusWord.WRONG_DATA, "not two values of eight bytes")
    return old, new


def _check(application: Application, secret: ReferenceData, candidate: bytes) -> None:
    try:
        secret.check(candidate)
    finally:
        application.changed()


def _check_pin(application: Application, candidate: bytes) -> None:
    application.session.forget_pin()
    _check(application, application.contents.pin, candidate)
    application.session.pin_was_verified()


def _require_pin(value: bytes) -> None:
    if not is_pin(value):
        raise StatusError(StatusWord.WRONG_DATA, "not a PIN")


def _require_p1(command: CommandApdu) -> None:
    if command.p1 != 0:
        raise StatusError(StatusWord.INCORRECT_P1_P2)


def _require_reference(reference: int, wanted: int) -> None:
    if reference != wanted:
        raise StatusError(StatusWord.REFERENCE_NOT_FOUND)


INSTRUCTIONS: Final[dict[int, Instruction]] = {
    0x20: verify,
    0x24: change_reference_data,
    0x2C: reset_retry_counter,
}
