"""The built-in PIV card as a witness."""

from __future__ import annotations

import functools
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric import rsa

from cardferry.cards.piv import Algorithm, PivCard, Slot
from cardferry.cards.piv.application import Contents
from cardferry.cards.piv.card import empty_contents
from cardferry.cards.piv.keys import Origin, PinPolicy, PrivateKey, SlotKey, generate
from cardferry.cards.piv.management_key import ManagementKey
from cardferry.cards.piv.objects import ObjectStore, initial_objects
from cardferry.cards.piv.reference_data import ReferenceData
from tests.policy.operations.witness import Deed, Notes, deed

_GUID = UUID("00112233-4455-4677-8899-aabbccddeeff")
#: The keys of the card: both kinds of arithmetic where it makes a difference.
KEYS = {
    Slot.AUTHENTICATION: Algorithm.P256,
    Slot.SIGNATURE: Algorithm.P256,
    Slot.KEY_MANAGEMENT: Algorithm.RSA2048,
    Slot.CARD_AUTHENTICATION: Algorithm.P256,
    Slot.RETIRED_1: Algorithm.P256,
    Slot.RETIRED_2: Algorithm.RSA2048,
}
_PIN_USED = ("verify:80", "manage-pin:80")
_PUK_USED = ("verify:81", "manage-pin:81", "manage-pin:80")


@functools.cache
def ready_key(algorithm: Algorithm) -> PrivateKey:
    """A key that is made once, because RSA keys take long."""
    return generate(algorithm)


class PivWitness:
    """A card with keys that nobody needs a PIN for, and where PIN and management key are proven already.

    So whatever a command could do, it does.

    Args:
        blocked: PIN and PUK have no tries left, so that RESET works.
    """

    def __init__(self, *, blocked: bool = False) -> None:
        contents = _contents()
        contents.pin.left = contents.puk.left = 0 if blocked else 3
        self._card = PivCard(contents)
        self._card.power_on()
        session = self._card._application.session
        session.pin_verified = session.administration.authenticated = True

    def process(self, apdu: bytes) -> bytes:
        return self._card.process(apdu)

    def kept(self) -> dict[str, Any]:
        application = self._card._application
        contents, session = application.contents, application.session
        return {
            "PIN": contents.pin.value,
            "PIN tries": contents.pin.tries,
            "PIN left": contents.pin.left,
            "PIN verified": session.pin_verified,
            "PUK": contents.puk.value,
            "PUK tries": contents.puk.tries,
            "PUK left": contents.puk.left,
            "management key": contents.management_key,
            "management key proven": session.administration.authenticated,
            **{f"key {slot:02X}": key for slot, key in contents.keys.items()},
            **{f"object {tag:02X}": content for tag, content in contents.objects.all().items()},
        }

    def changed(self, name: str, value: Any) -> Deed:
        kind, _, which = name.partition(" ")
        match kind, which:
            case "PIN" | "PUK", "" | "tries":
                return deed("manage-pin:80" if kind == "PIN" else "manage-pin:81")
            case "PIN" | "PUK", _:
                return deed(*(_PIN_USED if kind == "PIN" else _PUK_USED))
            case "key", _:
                return deed(f"generate:{which}")
            case "object", _:
                return deed(f"write:{which}")
        return deed("administer:9B")

    def hooks(self, did: Notes) -> list[tuple[Any, str, Any]]:
        respond, agree, get = SlotKey.respond, SlotKey.agree, ObjectStore.get
        check, encrypt = ReferenceData.check, ManagementKey.encrypt

        def responds(key: SlotKey, challenge: bytes) -> bytes:
            did(deed(self._response_of(key)))
            return respond(key, challenge)

        def agrees(key: SlotKey, point: bytes) -> bytes:
            did(deed(f"decrypt:{self._slot_of(key):02X}"))
            return agree(key, point)

        def gets(store: ObjectStore, tag: int) -> bytes | None:
            did(deed(f"read:{tag:02X}"))
            return get(store, tag)

        def checks(secret: ReferenceData, candidate: bytes) -> None:
            did(deed(*(_PIN_USED if secret is self._card.contents.pin else _PUK_USED)))
            check(secret, candidate)

        def encrypts(key: ManagementKey, block: bytes) -> bytes:
            did(deed("administer:9B"))
            return encrypt(key, block)

        def generates(exponent: int, bits: int) -> PrivateKey:
            return keys[bits]

        keys = {2048: ready_key(Algorithm.RSA2048), 3072: ready_key(Algorithm.RSA2048)}
        return [
            (SlotKey, "respond", responds),
            (SlotKey, "agree", agrees),
            (ObjectStore, "get", gets),
            (ReferenceData, "check", checks),
            (ManagementKey, "encrypt", encrypts),
            (rsa, "generate_private_key", generates),
        ]

    def _slot_of(self, key: SlotKey) -> Slot:
        return next(slot for slot, each in self._card.contents.keys.items() if each is key)

    def _response_of(self, key: SlotKey) -> str:
        slot = self._slot_of(key)
        purpose = {
            Slot.AUTHENTICATION: "authenticate",
            Slot.CARD_AUTHENTICATION: "authenticate",
            Slot.SIGNATURE: "sign",
        }
        return f"{purpose.get(slot, 'decrypt' if key.algorithm.is_rsa else 'sign')}:{slot:02X}"


def _contents() -> Contents:
    contents = empty_contents(12345678, _GUID)
    contents.objects = ObjectStore(initial_objects(_GUID, 12345678, "cardferry") | {0x5FC105: b"certificate"})
    contents.keys.update(
        {slot: SlotKey(ready_key(algorithm), PinPolicy.NEVER, Origin.GENERATED) for slot, algorithm in KEYS.items()}
    )
    return contents
