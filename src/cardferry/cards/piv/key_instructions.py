"""GENERAL AUTHENTICATE and GENERATE ASYMMETRIC KEY PAIR (NIST SP 800-73-5 part 2, 3.2.4 and 3.3.2).

GENERAL AUTHENTICATE is four commands in one; which, the data objects of its dynamic authentication template tell:

====================  =========================  ====================================================
key                   in the template            meaning
====================  =========================  ====================================================
9B management key     ``81`` empty               challenge, please (external authentication, first)
9B                    ``82`` response            here it is encrypted (external authentication, second)
9B                    ``80`` empty               witness, please (mutual authentication, first)
9B                    ``80`` and ``81``          its decryption, and my challenge (mutual, second)
9A, 9C, 9D, 9E, 8x    ``82`` empty, ``81``       sign or decrypt this
the same              ``82`` empty, ``85``       agree on a secret with this point
====================  =========================  ====================================================
"""

from __future__ import annotations

from typing import Final

from cardferry.cards.piv.application import Application, Instruction
from cardferry.cards.piv.keys import (
    Algorithm,
    Origin,
    PinPolicy,
    Slot,
    SlotKey,
    default_pin_policy,
    generate,
    public_template,
)
from cardferry.cards.piv.management_key import Question
from cardferry.cards.status_error import StatusError
from cardferry.pcsc import tlv
from cardferry.pcsc.apdu import CommandApdu, StatusWord

#: Reference of the card management key (SP 800-73-5 part 1, table 5).
MANAGEMENT_KEY: Final = 0x9B
#: SP 800-78-5, table 6-1: 00 is another name for three-key triple DES.
_ALGORITHM_DEFAULT: Final = 0x00

TAG_TEMPLATE: Final = 0x7C
_TAG_WITNESS: Final = 0x80
_TAG_CHALLENGE: Final = 0x81
_TAG_RESPONSE: Final = 0x82

_TAG_CONTROL_TEMPLATE: Final = 0xAC
_TAG_ALGORITHM: Final = 0x80
_TAG_PARAMETER: Final = 0x81
#: Yubico's extension: PIN and touch policy of a new key.
_TAG_PIN_POLICY: Final = 0xAA
_TAG_TOUCH_POLICY: Final = 0xAB
_TAG_PUBLIC_KEY: Final = 0x7F49


def general_authenticate(application: Application, command: CommandApdu) -> bytes:
    """Prove, sign, decrypt or agree."""
    template = tlv.parse_map(tlv.parse_one(command.data, TAG_TEMPLATE))
    if command.p2 == MANAGEMENT_KEY:
        return _administer(application, command.p1, template)
    key = slot_key(application, command.p2)
    if command.p1 != key.algorithm:
        raise StatusError(StatusWord.INCORRECT_P1_P2, "the key has another algorithm")
    application.require_pin(key.pin_policy)
    match template:
        case {0x82: b"", 0x81: bytes(challenge), **others} if not others:
            return _answer(_TAG_RESPONSE, key.respond(challenge))
        case {0x82: b"", 0x85: bytes(point), **others} if not others:
            return _answer(_TAG_RESPONSE, key.agree(point))
    raise StatusError(StatusWord.WRONG_DATA, "nothing to do in the template")


def _administer(application: Application, algorithm: int, template: dict[int, bytes]) -> bytes:
    """External and mutual authentication with the management key."""
    key = application.contents.management_key
    if key.algorithm != (algorithm or Algorithm.TDES):
        raise StatusError(StatusWord.INCORRECT_P1_P2, "the management key has another algorithm")
    administration = application.session.administration
    match template:
        case {0x81: b"", **others} if not others:
            return _answer(_TAG_CHALLENGE, administration.challenge(key))
        case {0x80: b"", **others} if not others:
            return _answer(_TAG_WITNESS, administration.witness(key))
        case {0x82: bytes(response), **others} if not others:
            if administration.verify(Question.ENCRYPT, response):
                return b""
            raise StatusError(StatusWord.SECURITY_STATUS_NOT_SATISFIED, "wrong response")
        case {0x80: bytes(witness), 0x81: bytes(challenge), **others} if set(others) <= {_TAG_RESPONSE}:
            if len(challenge) != key.block_size:
                raise StatusError(StatusWord.WRONG_DATA, "not a block")
            if administration.verify(Question.DECRYPT, witness):
                return _answer(_TAG_RESPONSE, key.encrypt(challenge))
            raise StatusError(StatusWord.SECURITY_STATUS_NOT_SATISFIED, "wrong witness")
    raise StatusError(StatusWord.WRONG_DATA, "nothing to do in the template")


def _answer(tag: int, value: bytes) -> bytes:
    return tlv.encode(TAG_TEMPLATE, tlv.encode(tag, value))


def generate_key_pair(application: Application, command: CommandApdu) -> bytes:
    """A new key in a slot; the answer is its public key. Needs the management key."""
    slot = slot_of(command.p2)
    if command.p1 != 0:
        raise StatusError(StatusWord.INCORRECT_P1_P2)
    application.require_administrator()
    template = tlv.parse_map(tlv.parse_one(command.data, _TAG_CONTROL_TEMPLATE))
    if not set(template) <= {_TAG_ALGORITHM, _TAG_PARAMETER, _TAG_PIN_POLICY, _TAG_TOUCH_POLICY}:
        raise StatusError(StatusWord.WRONG_DATA, "unknown parameter")
    policy = pin_policy(template, slot)
    algorithm = asymmetric_algorithm(template.get(_TAG_ALGORITHM, b""))
    key = SlotKey(generate(algorithm), policy, Origin.GENERATED)
    application.contents.keys[slot] = key
    application.changed()
    return tlv.encode(_TAG_PUBLIC_KEY, public_template(key.private.public_key()))


def requested_algorithm(command: CommandApdu) -> Algorithm | None:
    """The algorithm that a GENERATE command asks for, None when it will be refused anyway."""
    try:
        template = tlv.parse_map(tlv.parse_one(command.data, _TAG_CONTROL_TEMPLATE))
        return asymmetric_algorithm(template.get(_TAG_ALGORITHM, b""))
    except (tlv.TlvError, StatusError):
        return None


def slot_of(reference: int) -> Slot:
    """The slot of this key reference; raises ``6A86``."""
    try:
        return Slot(reference)
    except ValueError as error:
        raise StatusError(StatusWord.INCORRECT_P1_P2, "no such key") from error


def slot_key(application: Application, reference: int) -> SlotKey:
    """The key in this slot; raises ``6A86`` when there is none."""
    key = application.contents.keys.get(slot_of(reference))
    if key is None:
        raise StatusError(StatusWord.INCORRECT_P1_P2, "no key in this slot")
    return key


def asymmetric_algorithm(identifier: bytes) -> Algorithm:
    """The algorithm with this one-byte identifier; raises ``6A80``."""
    try:
        algorithm = Algorithm(int.from_bytes(identifier, "big"))
    except ValueError as error:
        raise StatusError(StatusWord.WRONG_DATA, "unknown algorithm") from error
    if len(identifier) != 1 or not algorithm.is_asymmetric:
        raise StatusError(StatusWord.WRONG_DATA, "not an algorithm for this")
    return algorithm


def pin_policy(template: dict[int, bytes], slot: Slot) -> PinPolicy:
    """The PIN policy that a new key shall have; raises ``6A80``.

    A touch policy other than "never" is refused: this card has nothing that could be touched.
    """
    default, never = b"\0", b"\x01"
    if template.get(_TAG_TOUCH_POLICY, default) not in (default, never):
        raise StatusError(StatusWord.WRONG_DATA, "this card cannot be touched")
    wanted = template.get(_TAG_PIN_POLICY, default)
    if wanted == default:
        return default_pin_policy(slot)
    try:
        policy = PinPolicy(int.from_bytes(wanted, "big"))
    except ValueError as error:
        raise StatusError(StatusWord.WRONG_DATA, "unknown PIN policy") from error
    return policy


INSTRUCTIONS: Final[dict[int, Instruction]] = {0x47: generate_key_pair, 0x87: general_authenticate}
