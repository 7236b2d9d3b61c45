"""What a command does, when it is known which application it may go to."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Final

from cardferry.pcsc.apdu import ApduError, CommandApdu
from cardferry.pcsc.applications import Application, Applications
from cardferry.policy.operations import global_platform, iso, openpgp, piv, yubikey
from cardferry.policy.operations.iso import UNCLEAR, Environment
from cardferry.policy.operations.operation import UNCERTAIN, Meaning, Operation, strongest

_MEANINGS: Final[dict[Application, Callable[[CommandApdu, bool, Environment], Meaning]]] = {
    Application.PIV: piv.meaning,
    Application.OPENPGP: openpgp.meaning,
    Application.PKCS15: iso.meaning,
    Application.GLOBAL_PLATFORM: iso.meaning,
    Application.CAC: iso.meaning,
    Application.YUBIKEY_OTP: yubikey.otp_meaning,
    Application.YUBIKEY_MANAGEMENT: yubikey.management_meaning,
}
#: All of them, each with the instructions for which it is not ISO's.
_ALL: Final[tuple[tuple[Callable[[CommandApdu, bool, Environment], Meaning], Container[int]], ...]] = (
    (piv.meaning, piv.RULES),
    (openpgp.meaning, openpgp.RULES),
    (iso.meaning, range(0x100)),
    (yubikey.otp_meaning, yubikey.OTP),
    (yubikey.management_meaning, yubikey.MANAGEMENT),
)
_ONLY_GLOBAL_PLATFORM: Final = frozenset({Application.GLOBAL_PLATFORM})
_GET_DATA: Final = 0xCA


def meaning(applications: Applications, command: CommandApdu, partial: bool, environment: Environment) -> Meaning:
    """What a command in a class of ISO 7816-4 does, without secure messaging; see `iso.meaning`.

    Where several applications are possible it is the strongest of what it does to each. Any application is possible
    where it is unknown: then ISO's meaning counts, if no known application gives the command another one.
    """
    if len(applications) == 1:
        (only,) = applications
        if only is not Application.UNKNOWN:
            return _MEANINGS[only](command, partial, environment)
    if Application.UNKNOWN in applications:
        return strongest(each(command, partial, environment) for each, own in _ALL if command.ins in own)
    return strongest(_MEANINGS[each](command, partial, environment) for each in applications)


def proprietary_meaning(applications: Applications, command: CommandApdu) -> Meaning:
    """What a command in another class does, or one with secure messaging.

    Only GlobalPlatform's are known, and of these only GET DATA (``80 CA``) when it is not certain to whom it goes: it
    is asked of every card.
    """
    if command.cla in global_platform.CLASSES and command.ins == _GET_DATA and not command.data:
        return Meaning(Operation.READ)
    if command.cla in global_platform.CLASSES or command.cla in global_platform.CLASSES_PROTECTED:
        return global_platform.meaning(command) if applications == _ONLY_GLOBAL_PLATFORM else UNCERTAIN
    return UNCERTAIN


def reading(applications: Applications, apdu: bytes) -> Meaning | None:
    """What a command reads while one of these applications is selected; None when it may do more than read.

    GET RESPONSE reads what nobody can tell without the command before it, so anything.
    """
    try:
        command = CommandApdu.parse(apdu)
    except ApduError:
        return None
    if command.is_get_response:
        return Meaning(Operation.READ)
    plain = command.interindustry and not command.secure_messaging
    if plain and command.is_chained:
        return None
    what = meaning(applications, command, False, UNCLEAR) if plain else proprietary_meaning(applications, command)
    return what if what.operation is Operation.READ else None
