"""What the commands to a YubiKey's OTP and management applications do: programs ask them for the serial number.

`yubikit.management` and `yubikit.yubiotp` (https://github.com/Yubico/yubikey-manager).
"""

from __future__ import annotations

from typing import Final

from cardferry.pcsc.apdu import CommandApdu
from cardferry.policy.operations import iso
from cardferry.policy.operations.iso import Environment
from cardferry.policy.operations.operation import UNCERTAIN, Meaning, Operation

_OTP_COMMAND, _OTP_STATUS = 0x01, 0x03
#: Instructions that are not ISO's, of either application.
OTP: Final = frozenset({_OTP_COMMAND, _OTP_STATUS})
_OTP_SERIAL: Final = 0x10
#: SET MODE, WRITE CONFIG, DEVICE RESET; and READ CONFIG.
MANAGEMENT: Final = {
    **dict.fromkeys((0x16, 0x1C, 0x1F), Meaning(Operation.ADMINISTER)),
    0x1D: Meaning(Operation.READ),
}


def otp_meaning(command: CommandApdu, partial: bool, environment: Environment) -> Meaning:
    """As `iso.meaning`, for the OTP application."""
    if command.ins == _OTP_STATUS or (command.ins == _OTP_COMMAND and command.p1 == _OTP_SERIAL):
        return Meaning(Operation.READ)
    return UNCERTAIN if command.ins == _OTP_COMMAND else iso.meaning(command, partial, environment)


def management_meaning(command: CommandApdu, partial: bool, environment: Environment) -> Meaning:
    """As `iso.meaning`, for the management application."""
    return MANAGEMENT.get(command.ins) or iso.meaning(command, partial, environment)
