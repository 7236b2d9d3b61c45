"""What the commands of ISO 7816-4, -8 and -9 do, on any card.

Keys: a command of ISO 7816-8 works with the key that MANAGE SECURITY ENVIRONMENT has set for its kind of template
(ISO 7816-4:2020, 10.3.1 and 11.5.11): tag 83 or 84 is the key's reference, 81 the file it is in. The name here is the
reference in hexadecimal digits, after the file's: ``01``, ``4B01/00``. Where it has not been set, the card decides:
some key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from cardferry.pcsc.apdu import CommandApdu
from cardferry.policy.operations.objects import objects
from cardferry.policy.operations.operation import UNCERTAIN, Meaning, Operation

#: Templates of a security environment (ISO 7816-4:2020, table 50).
AUTHENTICATION, KEY_AGREEMENT, HASH, SIGNATURE, CONFIDENTIALITY = 0xA4, 0xA6, 0xAA, 0xB6, 0xB8

#: The key that is set, by template. None: a key has been set, but which is not certain. Missing: the card's default.
Environment = Mapping[int, str | None]

_Rule = Callable[[CommandApdu, bool, Environment], Meaning]

_READ: Final = Meaning(Operation.READ)
_WRITE: Final = Meaning(Operation.WRITE)
_GENERATE: Final = Meaning(Operation.GENERATE)
_ADMINISTER: Final = Meaning(Operation.ADMINISTER)

_OPERATION_OF: Final = {
    AUTHENTICATION: Operation.AUTHENTICATE,
    KEY_AGREEMENT: Operation.DECRYPT,
    SIGNATURE: Operation.SIGN,
    CONFIDENTIALITY: Operation.DECRYPT,
}
#: Any key may be set.
UNCLEAR: Final[Environment] = dict.fromkeys(_OPERATION_OF)

_TAG_FILE, _TAGS_KEY = 0x81, (0x83, 0x84)
_TAG_LIST: Final = 0x5C
_SHORT: Final = 0x7F
#: P1 of SELECT (ISO 7816-4:2020, table 62).
_SELECTED_BY: Final = frozenset({0x00, 0x01, 0x02, 0x03, 0x04, 0x08, 0x09})


def meaning(command: CommandApdu, partial: bool, environment: Environment) -> Meaning:
    """What a command does.

    Args:
        command: in a class of ISO 7816-4 without secure messaging; the pieces of its chain that have come, together.
        partial: more pieces follow.
        environment: the keys that are set.
    """
    rule = _RULES.get(command.ins)
    return UNCERTAIN if rule is None else rule(command, partial, environment)


def by_reference(operation: Operation) -> _Rule:
    """A rule: the operation with the key, PIN or PUK whose number is P2."""
    return lambda command, partial, environment: Meaning(operation, f"{command.p2:02X}")


def always(what: Meaning) -> _Rule:
    """A rule: always the same."""
    return lambda command, partial, environment: what


def _verify(command: CommandApdu, partial: bool, environment: Environment) -> Meaning:
    """Without a PIN the command asks for the tries that are left (ISO 7816-4, 11.5.6)."""
    asks = command.p1 == 0 and not command.data and not partial
    return Meaning(Operation.READ if asks else Operation.VERIFY, f"{command.p2:02X}")


def _set_environment(command: CommandApdu, partial: bool, environment: Environment) -> Meaning:
    """SET chooses a key for a command to come, and is worth as much as that command."""
    function = command.p1 & 0x0F
    if function == 1:
        if command.p2 == HASH:
            return _READ
        operation = _OPERATION_OF.get(command.p2)
        return UNCERTAIN if operation is None else Meaning(operation, None if partial else key_reference(command.data))
    return _READ if command.p1 == 0xF3 else _ADMINISTER


def environment_after(environment: Environment, command: CommandApdu) -> Environment:
    """The keys that are set after a MANAGE SECURITY ENVIRONMENT that the card has accepted."""
    if command.p1 & 0x0F == 1:
        return {**environment, command.p2: key_reference(command.data)}
    return UNCLEAR


def tag_in_header(command: CommandApdu) -> str:
    """The tag of a data object of one or two bytes that P1 and P2 are."""
    return f"{command.p1:02X}{command.p2:02X}".removeprefix("00")


def key_reference(data: bytes) -> str | None:
    """The key that the data of a SET names, None when that is not certain."""
    parts = objects(data) or []
    keys = [each.value for each in parts if each.tag in _TAGS_KEY]
    files = [each.value for each in parts if each.tag == _TAG_FILE]
    if len(keys) != 1 or len(files) > 1:
        return None
    return "/".join(each.hex().upper() for each in files + keys)


def _perform(command: CommandApdu, partial: bool, environment: Environment) -> Meaning:
    """PERFORM SECURITY OPERATION: P1 is the tag of what comes out, P2 of what goes in (ISO 7816-8:2021, 5)."""
    sign = Meaning(Operation.SIGN, environment.get(SIGNATURE))
    if command.p1 == 0x9E:
        return sign
    if command.p1 == 0x80 and command.p2 in (0x82, 0x84, 0x86):
        return Meaning(Operation.DECRYPT, None if KEY_AGREEMENT in environment else environment.get(CONFIDENTIALITY))
    # HASH: the card keeps the digest, and its next signature is one of it
    return sign if (command.p1, command.p2) in ((0x90, 0x80), (0x90, 0xA0)) else UNCERTAIN


def _internal_authenticate(command: CommandApdu, partial: bool, environment: Environment) -> Meaning:
    key = f"{command.p2:02X}" if command.p2 else environment.get(AUTHENTICATION)
    return Meaning(Operation.AUTHENTICATE, key)


def _generate(command: CommandApdu, partial: bool, environment: Environment) -> Meaning:
    """P1 = 81 gives out the public key that is there (ISO 7816-8:2021, table 2)."""
    return _READ if command.p1 == 0x81 and not partial else _GENERATE


def _select(command: CommandApdu, partial: bool, environment: Environment) -> Meaning:
    known = command.p1 in _SELECTED_BY
    return Meaning(Operation.READ, command.data.hex().upper() or None) if known else UNCERTAIN


def _get_data(command: CommandApdu, partial: bool, environment: Environment) -> Meaning:
    return Meaning(Operation.READ, tag_in_header(command))


def _get_data_by_list(command: CommandApdu, partial: bool, environment: Environment) -> Meaning:
    one = not partial and command.data[:2] == bytes((_TAG_LIST, len(command.data) - 2 & _SHORT))
    return Meaning(Operation.READ, command.data[2:].hex().upper() if one else None)


def _manage_channel(command: CommandApdu, partial: bool, environment: Environment) -> Meaning:
    """Open or close; anything else may reset security statuses (ISO 7816-4:2020, 11.2.3)."""
    return _READ if command.p1 in (0x00, 0x80) else UNCERTAIN


#: ISO 7816-4:2020, 11; ISO 7816-8:2021, 5; ISO 7816-9:2017. PUT DATA and PUT NEXT DATA are ADMINISTER: on cards with
#: files they put keys and PINs into place as well as data. GENERAL AUTHENTICATE (86, 87), ENVELOPE (C2, C3) and
#: everything that is not here say too little.
_RULES: Final[dict[int, _Rule]] = {
    0x20: _verify,
    0x21: by_reference(Operation.VERIFY),
    0x22: _set_environment,
    **dict.fromkeys((0x24, 0x25, 0x26, 0x28, 0x2C, 0x2D), by_reference(Operation.MANAGE_PIN)),
    0x2A: _perform,
    **dict.fromkeys((0x46, 0x47), _generate),
    0x70: _manage_channel,
    0x88: _internal_authenticate,
    0xA4: _select,
    0xCA: _get_data,
    0xCB: _get_data_by_list,
    **dict.fromkeys((0x84, 0xA0, 0xA1, 0xA2, 0xA5, 0xB0, 0xB1, 0xB2, 0xB3, 0xCC, 0xCD), always(_READ)),
    **dict.fromkeys((0x0C, 0x0E, 0x0F, 0xD0, 0xD1, 0xD2, 0xD6, 0xD7, 0xDC, 0xDD, 0xE2), always(_WRITE)),
    **dict.fromkeys((0x04, 0x44, 0x82, 0xD8, 0xD9, 0xDA, 0xDB, 0xE0, 0xE4, 0xE6, 0xE8, 0xFE), always(_ADMINISTER)),
}
