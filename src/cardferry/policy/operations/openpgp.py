"""What the commands of an OpenPGP application do.

OpenPGP card 3.4.1, 7.2 (commands), 4.4.2 (data objects that can be written), 4.4.3.9 (names of the keys); Yubico's
GET VERSION and SET PIN RETRIES (`yubikit.openpgp.INS`). Yubico's ATTEST is in a proprietary class, and uncertain: it
signs, and writes a certificate as well.

The keys are SIG, DEC and AUT. MANAGE SECURITY ENVIRONMENT can set DEC for INTERNAL AUTHENTICATE, and AUT for DECIPHER
(7.2.18).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cardferry.pcsc.apdu import CommandApdu
from cardferry.policy.operations import iso
from cardferry.policy.operations.iso import AUTHENTICATION, CONFIDENTIALITY, SIGNATURE, Environment
from cardferry.policy.operations.objects import objects
from cardferry.policy.operations.operation import UNCERTAIN, Meaning, Operation

_KEY_OF_TEMPLATE: Final = {SIGNATURE: "SIG", CONFIDENTIALITY: "DEC", AUTHENTICATION: "AUT"}
#: Key references of MANAGE SECURITY ENVIRONMENT.
_KEY_OF_REFERENCE: Final = {"02": "DEC", "03": "AUT"}
_DEFAULT_REFERENCE: Final = {CONFIDENTIALITY: "02", AUTHENTICATION: "03"}
_EXTENDED_HEADER_LIST: Final = 0x4D

#: Data objects that nothing else hangs on: private use 1 to 4, name, login, language, sex, URL, certificates,
#: fingerprints and times of the keys and of the attestation key (DB to DD, FC).
_DATA: Final = frozenset(
    {0x0101, 0x0102, 0x0103, 0x0104, 0x5B, 0x5E, 0x5F2D, 0x5F35, 0x5F50, 0x7F21, 0xFC}
    | {*range(0xC7, 0xCD), *range(0xCE, 0xD1), *range(0xDB, 0xDE)}
)
#: Data objects that do more. Other algorithm attributes (C1 to C3) erase the key on most cards.
_SPECIAL: Final = {
    0xC1: Meaning(Operation.GENERATE, "SIG"),
    0xC2: Meaning(Operation.GENERATE, "DEC"),
    0xC3: Meaning(Operation.GENERATE, "AUT"),
    0xDA: Meaning(Operation.GENERATE),  # algorithm of the attestation key
    0xD5: Meaning(Operation.GENERATE),  # AES key
    0xC4: Meaning(Operation.MANAGE_PIN),  # for how long a PIN is good
    0xD3: Meaning(Operation.MANAGE_PIN),  # resetting code
    0xF9: Meaning(Operation.MANAGE_PIN),  # how PINs are derived
    **dict.fromkeys(range(0xD6, 0xDA), Meaning(Operation.ADMINISTER)),  # which keys want to be touched
}


def meaning(command: CommandApdu, partial: bool, environment: Environment) -> Meaning:
    """As `iso.meaning`."""
    rule = RULES.get(command.ins)
    return rule(command, partial, environment) if rule else iso.meaning(command, partial, environment)


def _set_environment(command: CommandApdu, partial: bool, environment: Environment) -> Meaning:
    operations = {CONFIDENTIALITY: Operation.DECRYPT, AUTHENTICATION: Operation.AUTHENTICATE}
    operation = operations.get(command.p2)
    if command.p1 != 0x41 or operation is None:
        return UNCERTAIN
    reference = None if partial else iso.key_reference(command.data)
    return Meaning(operation, _KEY_OF_REFERENCE.get(reference or ""))


def _key(environment: Environment, template: int) -> str | None:
    return _KEY_OF_REFERENCE.get(environment.get(template, _DEFAULT_REFERENCE[template]) or "")


def _perform(command: CommandApdu, partial: bool, environment: Environment) -> Meaning:
    match command.p1, command.p2:
        case 0x9E, 0x9A:
            return Meaning(Operation.SIGN, "SIG")
        case 0x80, 0x86:
            return Meaning(Operation.DECRYPT, _key(environment, CONFIDENTIALITY))
    return UNCERTAIN


def _internal_authenticate(command: CommandApdu, partial: bool, environment: Environment) -> Meaning:
    return Meaning(Operation.AUTHENTICATE, _key(environment, AUTHENTICATION))


def _generate(command: CommandApdu, partial: bool, environment: Environment) -> Meaning:
    """P1 = 80 makes a key, 81 gives out the public key that is there."""
    parts = objects(command.data)
    # a template that is not empty names the key a second time; not every card looks there
    key = _KEY_OF_TEMPLATE.get(parts[0].tag) if parts and len(parts) == 1 and not parts[0].length else None
    if (command.p1, command.p2) == (0x81, 0x00) and key and not partial:
        return Meaning(Operation.READ, key)
    return Meaning(Operation.GENERATE, key)


def _put_data(command: CommandApdu, partial: bool, environment: Environment) -> Meaning:
    tag = command.p1 << 8 | command.p2
    if tag in _DATA:
        return Meaning(Operation.WRITE, iso.tag_in_header(command))
    return _SPECIAL.get(tag, UNCERTAIN)


def _import(command: CommandApdu, partial: bool, environment: Environment) -> Meaning:
    """PUT DATA with odd instruction: a private key in an extended header list."""
    if (command.p1, command.p2) != (0x3F, 0xFF) or command.data[:1] != bytes((_EXTENDED_HEADER_LIST,)):
        return UNCERTAIN
    outer = objects(command.data, partial=partial)
    inner = objects(outer[0].value, partial=partial) if outer and len(outer) == 1 else None
    keys = [each for each in inner or () if each.tag in _KEY_OF_TEMPLATE]
    return Meaning(Operation.GENERATE, _KEY_OF_TEMPLATE[keys[0].tag] if len(keys) == 1 and not keys[0].length else None)


RULES: Final[dict[int, Callable[[CommandApdu, bool, Environment], Meaning]]] = {
    0x22: _set_environment,
    0x2A: _perform,
    0x47: _generate,
    0x88: _internal_authenticate,
    0xDA: _put_data,
    0xDB: _import,
    # Yubico's GET VERSION and SET PIN RETRIES
    0xF1: iso.always(Meaning(Operation.READ)),
    0xF2: iso.always(Meaning(Operation.MANAGE_PIN)),
}
