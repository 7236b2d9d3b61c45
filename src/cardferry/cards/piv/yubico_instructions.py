"""Instructions beyond the standard that `yubico-piv-tool` and its PKCS#11 module use.

Implements Yubico's published PIV extensions (https://developers.yubico.com/PIV/Introduction/Yubico_extensions.html)
as far as they make sense without touch sensor, attestation certificate and other Yubico applications.
"""

from __future__ import annotations

import hmac
from typing import Final

from cardferry.cards.piv import key_instructions
from cardferry.cards.piv.application import (
    DEFAULT_PIN,
    DEFAULT_PUK,
    VERSION,
    Application,
    Instruction,
    require_parameters,
)
from cardferry.cards.piv.key_instructions import MANAGEMENT_KEY, pin_policy, slot_of
from cardferry.cards.piv.keys import (
    Algorithm,
    Origin,
    PrivateKey,
    SlotKey,
    ec_from_scalar,
    public_template,
    rsa_from_primes,
)
from cardferry.cards.piv.management_key import DEFAULT_KEY, ManagementKey
from cardferry.cards.piv.objects import ObjectStore, initial_objects
from cardferry.cards.piv.pin_instructions import PIN, PUK
from cardferry.cards.piv.reference_data import ReferenceData
from cardferry.cards.status_error import StatusError
from cardferry.pcsc import tlv
from cardferry.pcsc.apdu import CommandApdu, StatusWord

_METADATA_ALGORITHM: Final = 0x01
_METADATA_POLICY: Final = 0x02
_METADATA_ORIGIN: Final = 0x03
_METADATA_PUBLIC_KEY: Final = 0x04
_METADATA_IS_DEFAULT: Final = 0x05
_METADATA_TRIES: Final = 0x06
#: What GET METADATA says in place of an algorithm for PIN and PUK.
_NOT_A_KEY: Final = b"\xff"
_TOUCH_NEVER: Final = 1

_TAG_PRIME_P: Final = 0x01
_TAG_PRIME_Q: Final = 0x02
_TAGS_RSA: Final = frozenset({0x01, 0x02, 0x03, 0x04, 0x05})
_TAG_SCALAR: Final = 0x06
_TAGS_POLICY: Final = frozenset({0xAA, 0xAB})


def get_version(application: Application, command: CommandApdu) -> bytes:
    """Three bytes: major, minor, patch."""
    del application
    require_parameters(command, 0, 0)
    return bytes(VERSION)


def get_serial(application: Application, command: CommandApdu) -> bytes:
    """Four bytes."""
    require_parameters(command, 0, 0)
    return application.contents.serial.to_bytes(4, "big")


def get_metadata(application: Application, command: CommandApdu) -> bytes:
    """What is known about a key, the PIN or the PUK. Other references, such as 96 (fingerprints), are not there."""
    contents = application.contents
    if command.p1 != 0:
        raise StatusError(StatusWord.INCORRECT_P1_P2)
    if command.p2 == PIN:
        return _secret_metadata(contents.pin, DEFAULT_PIN)
    if command.p2 == PUK:
        return _secret_metadata(contents.puk, DEFAULT_PUK)
    if command.p2 == MANAGEMENT_KEY:
        key = contents.management_key
        return (
            tlv.encode(_METADATA_ALGORITHM, bytes((key.algorithm,)))
            + tlv.encode(_METADATA_POLICY, bytes((0, _TOUCH_NEVER)))
            + tlv.encode(_METADATA_IS_DEFAULT, _flag(hmac.compare_digest(key.key, DEFAULT_KEY)))
        )
    slot_key = next((key for slot, key in contents.keys.items() if slot == command.p2), None)
    if slot_key is None:
        raise StatusError(StatusWord.REFERENCE_NOT_FOUND, "no key in this slot, or no slot")
    return (
        tlv.encode(_METADATA_ALGORITHM, bytes((slot_key.algorithm,)))
        + tlv.encode(_METADATA_POLICY, bytes((slot_key.pin_policy, _TOUCH_NEVER)))
        + tlv.encode(_METADATA_ORIGIN, bytes((slot_key.origin,)))
        + tlv.encode(_METADATA_PUBLIC_KEY, public_template(slot_key.private.public_key()))
    )


def _secret_metadata(secret: ReferenceData, default: bytes) -> bytes:
    return (
        tlv.encode(_METADATA_ALGORITHM, _NOT_A_KEY)
        + tlv.encode(_METADATA_IS_DEFAULT, _flag(hmac.compare_digest(secret.value, default)))
        + tlv.encode(_METADATA_TRIES, bytes((secret.tries, secret.left)))
    )


def _flag(value: bool) -> bytes:
    return bytes((value,))


def import_key(application: Application, command: CommandApdu) -> bytes:
    """A private key made elsewhere: RSA by its primes, ECC by its number. Needs the management key."""
    slot = slot_of(command.p2)
    application.require_administrator()
    try:
        algorithm = key_instructions.asymmetric_algorithm(bytes((command.p1,)))
    except StatusError as error:
        raise StatusError(StatusWord.INCORRECT_P1_P2, "unknown algorithm") from error
    template = tlv.parse_map(command.data)
    key = SlotKey(_private_key(algorithm, template), pin_policy(template, slot), Origin.IMPORTED)
    application.contents.keys[slot] = key
    application.changed()
    return b""


def _private_key(algorithm: Algorithm, template: dict[int, bytes]) -> PrivateKey:
    values = {tag: int.from_bytes(value, "big") for tag, value in template.items() if tag not in _TAGS_POLICY}
    if algorithm.is_rsa and {_TAG_PRIME_P, _TAG_PRIME_Q} <= set(values) <= _TAGS_RSA:
        return rsa_from_primes(algorithm, values[_TAG_PRIME_P], values[_TAG_PRIME_Q])
    if not algorithm.is_rsa and set(values) == {_TAG_SCALAR}:
        return ec_from_scalar(algorithm, values[_TAG_SCALAR])
    raise StatusError(StatusWord.WRONG_DATA, "not the parts of such a key")


def set_management_key(application: Application, command: CommandApdu) -> bytes:
    """A new management key: algorithm, 9B, length, key. Needs the old one."""
    require_parameters(command, 0xFF, 0xFF)
    application.require_administrator()
    if len(command.data) < 3 or command.data[1] != MANAGEMENT_KEY or command.data[2] != len(command.data) - 3:
        raise StatusError(StatusWord.WRONG_DATA)
    try:
        key = ManagementKey(Algorithm(command.data[0]), command.data[3:])
    except ValueError as error:
        raise StatusError(StatusWord.WRONG_DATA, "not such a key") from error
    application.contents.management_key = key
    application.changed()
    return b""


def set_retries(application: Application, command: CommandApdu) -> bytes:
    """New numbers of tries; PIN and PUK become what they are on a new card. Needs management key and PIN."""
    application.require_administrator()
    application.require_pin()
    if command.data:
        raise StatusError(StatusWord.WRONG_LENGTH)
    if not command.p1 or not command.p2:
        raise StatusError(StatusWord.INCORRECT_P1_P2)
    application.contents.pin = ReferenceData(DEFAULT_PIN, command.p1, command.p1)
    application.contents.puk = ReferenceData(DEFAULT_PUK, command.p2, command.p2)
    application.session.forget_pin()
    application.changed()
    return b""


def factory_reset(application: Application, command: CommandApdu) -> bytes:
    """Erase all; only when PIN and PUK are blocked, so that nobody does it by accident."""
    require_parameters(command, 0, 0)
    contents = application.contents
    if not (contents.pin.blocked and contents.puk.blocked):
        raise StatusError(StatusWord.CONDITIONS_NOT_SATISFIED, "PIN and PUK are not blocked")
    contents.pin = ReferenceData(DEFAULT_PIN)
    contents.puk = ReferenceData(DEFAULT_PUK)
    contents.management_key = ManagementKey()
    contents.keys.clear()
    contents.objects = ObjectStore(initial_objects(contents.guid, contents.serial, "cardferry"))
    application.reset()
    application.changed()
    return b""


INSTRUCTIONS: Final[dict[int, Instruction]] = {
    0xF7: get_metadata,
    0xF8: get_serial,
    0xFA: set_retries,
    0xFB: factory_reset,
    0xFD: get_version,
    0xFE: import_key,
    0xFF: set_management_key,
}
