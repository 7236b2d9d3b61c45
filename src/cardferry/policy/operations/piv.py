"""What the commands of a PIV application do, Yubico's included.

NIST SP 800-73-4 part 1, table 4b (key references), part 2, 3 (commands); SP 800-78-4, table 6-2 (algorithms);
https://docs.yubico.com/yesdk/users-manual/application-piv/commands.html.

A PIV card has one command for everything that private keys do, GENERAL AUTHENTICATE. With RSA signing and decrypting
are even the same arithmetic, so the operation is what the key is there for:

===================  =====================  ============================  ===================
key                  RSA, tag 81            elliptic curves, tag 81       tag 85
===================  =====================  ============================  ===================
9A, 9E               authenticate           authenticate                  decrypt
9C, F9 attestation   sign                   sign                          decrypt
9D, 82 to 95         decrypt                sign                          decrypt
===================  =====================  ============================  ===================

9E may also be symmetric, tag 81: authenticate. 9B is the management key: administer. All else is uncertain.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cardferry.pcsc.apdu import CommandApdu
from cardferry.policy.operations import iso
from cardferry.policy.operations.iso import Environment
from cardferry.policy.operations.objects import Object, objects
from cardferry.policy.operations.operation import UNCERTAIN, Meaning, Operation

_MANAGEMENT_KEY, _CARD_AUTHENTICATION = 0x9B, 0x9E
_RETIRED: Final = range(0x82, 0x96)
#: What each private key is there for.
PURPOSE: Final = {
    0x9A: Operation.AUTHENTICATE,
    0x9C: Operation.SIGN,
    0x9D: Operation.DECRYPT,
    _CARD_AUTHENTICATION: Operation.AUTHENTICATE,
    **dict.fromkeys(_RETIRED, Operation.DECRYPT),
    0xF9: Operation.SIGN,
}
_NAMES: Final = {key: f"{key:02X}" for key in PURPOSE}
#: P1: RSA-3072, -1024, -2048, -4096.
_RSA: Final = frozenset({0x05, 0x06, 0x07, 0x16})
#: P-256, P-384, Ed25519, X25519.
_CURVES: Final = frozenset({0x11, 0x14, 0xE0, 0xE1})
#: Triple DES (two names), AES-128, -192, -256.
_SYMMETRIC: Final = frozenset({0x00, 0x03, 0x08, 0x0A, 0x0C})

_TEMPLATE: Final = 0x7C
_CHALLENGE, _RESPONSE, _EXPONENTIATION = 0x81, 0x82, 0x85
_TAG_LIST, _DATA = 0x5C, 0x53
#: Data objects that are written without a tag list in front (SP 800-73-4 part 2, 3.3.1).
_SELF_CONTAINED: Final = frozenset({0x7E, 0x7F61})
_CURRENT: Final = (0x3F, 0xFF)
_DELETED: Final = 0xFF


def meaning(command: CommandApdu, partial: bool, environment: Environment) -> Meaning:
    """As `iso.meaning`."""
    rule = RULES.get(command.ins)
    return rule(command, partial, environment) if rule else iso.meaning(command, partial, environment)


def _general_authenticate(command: CommandApdu, partial: bool, environment: Environment) -> Meaning:
    key = command.p2
    if key == _MANAGEMENT_KEY:
        return Meaning(Operation.ADMINISTER, f"{key:02X}")
    purpose = PURPOSE.get(key)
    parts = _template(command.data, partial)
    if purpose is None or parts is None:
        return UNCERTAIN
    tags = []
    for tag, length, _ in parts:
        # an empty response asks for one; one that is there proves something to the card, and is not for these keys
        if (tag == _RESPONSE) == (length > 0):
            return UNCERTAIN
        if length:
            tags.append(tag)
    if len(parts) > len(tags) + 1:
        return UNCERTAIN
    if tags == [_CHALLENGE] or (partial and not tags):
        operation = _of_challenge(command.p1, key, purpose)
    elif tags == [_EXPONENTIATION]:
        operation = Operation.DECRYPT if command.p1 in _CURVES or command.p1 in _RSA else None
    else:
        operation = None
    return UNCERTAIN if operation is None else Meaning(operation, _NAMES[key])


def _of_challenge(algorithm: int, key: int, purpose: Operation) -> Operation | None:
    if algorithm in _RSA:
        return purpose
    if algorithm in _CURVES:
        return Operation.SIGN if purpose is Operation.DECRYPT else purpose
    return purpose if algorithm in _SYMMETRIC and key == _CARD_AUTHENTICATION else None


def _template(data: bytes, partial: bool) -> list[Object] | None:
    """The objects in the dynamic authentication template; None when they are not what every card sees."""
    outer = objects(data, partial=partial)
    if outer is None or len(outer) > 1 or (outer and outer[0].tag != _TEMPLATE):
        return None
    if not outer:
        return [] if partial else None
    _, length, value = outer[0]
    return objects(value, partial=len(value) < length)


def _put_data(command: CommandApdu, partial: bool, environment: Environment) -> Meaning:
    if (command.p1, command.p2) != _CURRENT:
        return UNCERTAIN
    parts = objects(command.data, partial=partial) or []
    tags = [each.tag for each in parts]
    if tags == [_TAG_LIST, _DATA] or (partial and tags == [_TAG_LIST]):
        name = parts[0]
        return Meaning(Operation.WRITE, name.value.hex().upper() if len(name.value) == name.length > 0 else None)
    if len(tags) == 1 and tags[0] in _SELF_CONTAINED:
        return Meaning(Operation.WRITE, f"{tags[0]:X}")
    return Meaning(Operation.WRITE)


def _move_key(command: CommandApdu, partial: bool, environment: Environment) -> Meaning:
    """From P2 to P1: two keys change, unless P1 says that the key is to be deleted."""
    if command.p1 == _DELETED:
        return Meaning(Operation.GENERATE, f"{command.p2:02X}")
    return Meaning(Operation.ADMINISTER)


RULES: Final[dict[int, Callable[[CommandApdu, bool, Environment], Meaning]]] = {
    0x47: iso.by_reference(Operation.GENERATE),
    0x87: _general_authenticate,
    0xDB: _put_data,
    # Yubico's: MOVE KEY, GET METADATA, GET SERIAL, ATTEST (F9 signs), SET PIN RETRIES (PIN and PUK become the
    # default ones), RESET, GET VERSION, IMPORT, SET MANAGEMENT KEY
    0xF6: _move_key,
    0xF7: iso.by_reference(Operation.READ),
    0xF8: iso.always(Meaning(Operation.READ)),
    0xF9: iso.always(Meaning(Operation.SIGN, "F9")),
    0xFA: iso.always(Meaning(Operation.MANAGE_PIN)),
    0xFB: iso.always(Meaning(Operation.ADMINISTER)),
    0xFD: iso.always(Meaning(Operation.READ)),
    0xFE: iso.by_reference(Operation.GENERATE),
    0xFF: iso.always(Meaning(Operation.ADMINISTER, "9B")),
}
