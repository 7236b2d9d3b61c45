"""jcecard's OpenPGP card as a witness: a card that nobody here wrote, with a PIV application beside the OpenPGP one.

It is a lenient card: it takes bytes behind the end of a command, chains in any class and with any header, and secure
messaging without any security. Its PIV application is selected even by a SELECT that it refuses, and takes templates
apart in its own way: what it does with a key cannot be told from the command's bytes, only with which key.
"""

from __future__ import annotations

import copy
import functools
import tempfile
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from jcecard.card_data import AlgorithmAttributes, CardDataStore
from jcecard.crypto_backend import CryptoBackend, KeyType
from jcecard.main import OpenPGPCard
from jcecard.pin_manager import PINManager
from jcecard.piv.applet import PIVApplet, PIVSecurityState
from jcecard.piv.data_objects import PIVAlgorithm, PIVSlot

from cardferry.cards.piv import Algorithm
from tests.policy.operations.piv_witness import ready_key
from tests.policy.operations.witness import Deed, Notes, deed

_KEYS = {
    "key_sig": ("SIG", "C7", "CE", "CA"),
    "key_dec": ("DEC", "C8", "CF", "CB"),
    "key_aut": ("AUT", "C9", "D0", "CC"),
}
_KEY_TYPES = {
    KeyType.SIGNATURE: ("sign", "SIG"),
    KeyType.DECRYPTION: ("decrypt", "DEC"),
    KeyType.AUTHENTICATION: ("authenticate", "AUT"),
}
_OBJECTS = {
    "name": "5B",
    "login": "5E",
    "language": "5F2D",
    "sex": "5F35",
    "url": "5F50",
    "private_do_1": "0101",
    "private_do_2": "0102",
    "private_do_3": "0103",
    "private_do_4": "0104",
    "certificate": "7F21",
}


class OpenPgpWitness:
    """A card with three keys, all PINs verified, and a resetting code.

    Args:
        blocked: no PIN has tries left, so that TERMINATE works without.
    """

    def __init__(self, *, blocked: bool = False) -> None:
        self._card = copy.deepcopy(_prepared())
        if blocked:
            pins = self._card.card_state.pin_data
            pins.pw1_retry_counter = pins.pw3_retry_counter = 0

    def process(self, apdu: bytes) -> bytes:
        return bytes(self._card.process_apdu(apdu))

    def kept(self) -> dict[str, Any]:
        state, crypto, piv = self._card.card_state, self._card._crypto, self._card._piv_applet
        parts = {name: vars(getattr(state, name)) for name in ("pin_data", "cardholder", *_KEYS)}
        return {
            **{f"{part} {name}": value for part, values in parts.items() for name, value in values.items()},
            **{name: value for name, value in vars(state).items() if name not in parts},
            **{f"verified {pin:02X}": True for pin in self._card._security._verified_pins},
            **{f"crypto {kind:02X}": (crypto._raw_private_keys[kind], crypto._der_keys[kind]) for kind in KeyType},
            **{f"piv {name}": value for name, value in vars(piv.security).items() if name != "current_challenge"},
            **{f"piv-key {slot:02X}": key for slot, key in piv.data_objects.keys.items()},
            **{f"piv-object {bytes(tag).hex().upper()}": value for tag, value in piv.data_objects.certificates.items()},
            **{f"piv-object {tag}": getattr(piv.data_objects, name) for tag, name in _PIV_OBJECTS.items()},
        }

    def changed(self, name: str, value: Any) -> Deed | None:
        part, _, field = name.partition(" ")
        match part:
            case "pin_data":
                return _pin_changed(field)
            case "verified":
                return deed(f"verify:{field}", "administer", *(["sign:SIG"] if field == "81" else []))
            case "crypto":
                return deed(f"generate:{_KEY_TYPES[KeyType(int(field, 16))][1]}")
            case "piv":
                return _piv_changed(field, value)
            case "piv-key":
                return deed(f"generate:{field}")
            case "piv-object":
                return deed(f"write:{field}")
            case "signature_counter":
                return deed("sign:SIG", "administer")
        if part in _KEYS:
            return _key_changed(*_KEYS[part], field)
        if (tag := _OBJECTS.get(field or part)) is not None:
            return deed(f"write:{tag}")
        return deed("administer")

    def hooks(self, did: Notes) -> list[tuple[Any, str, Any]]:
        backend = CryptoBackend
        sign, decrypt, agree, load = backend.sign, backend.decrypt, backend.decrypt_ecdh, backend.load_raw_key
        check_pw1, check_pw3 = PINManager.verify_pw1, PINManager.verify_pw3
        piv_sign, piv_decrypt = PIVApplet._sign_data, PIVApplet._decrypt_data

        def used(kind: KeyType) -> None:
            did(deed(":".join(_KEY_TYPES[kind])))

        def signs(self: Any, data: bytes, kind: KeyType = KeyType.SIGNATURE) -> Any:
            used(kind)
            return sign(self, data, kind)

        def decrypts(self: Any, data: bytes, kind: KeyType = KeyType.DECRYPTION) -> Any:
            used(kind)
            return decrypt(self, data, kind)

        def agrees(self: Any, data: bytes, kind: KeyType = KeyType.DECRYPTION) -> Any:
            used(kind)
            return agree(self, data, kind)

        def loads(self: Any, kind: KeyType, data: bytes, algorithm: Any) -> Any:
            did(deed(f"generate:{_KEY_TYPES[kind][1]}"))
            return load(self, kind, data, algorithm)

        def checks_pw1(self: Any, pin: str, mode: int = 0x81) -> Any:
            did(deed("verify:81", "verify:82", "manage-pin:81"))
            return check_pw1(self, pin, mode)

        def checks_pw3(self: Any, pin: str) -> Any:
            did(deed("verify:83", "manage-pin:83"))
            return check_pw3(self, pin)

        def piv_signs(self: Any, key: Any, data: bytes) -> Any:
            did(_piv_used(self, key))
            return piv_sign(self, key, data)

        def piv_decrypts(self: Any, key: Any, data: bytes) -> Any:
            did(_piv_used(self, key))
            return piv_decrypt(self, key, data)

        return [
            (CryptoBackend, "sign", signs),
            (CryptoBackend, "decrypt", decrypts),
            (CryptoBackend, "decrypt_ecdh", agrees),
            (CryptoBackend, "load_raw_key", loads),
            (PINManager, "verify_pw1", checks_pw1),
            (PINManager, "verify_pw3", checks_pw3),
            (PIVApplet, "_sign_data", piv_signs),
            (PIVApplet, "_decrypt_data", piv_decrypts),
            # a SELECT shall not take away what was proven: this is about what a command can do
            (PIVSecurityState, "reset_pin_verification", lambda self: None),
            (CardDataStore, "save", lambda self: True),
            (rsa, "generate_private_key", lambda **_: ready_key(Algorithm.RSA2048)),
        ]


_PIV_OBJECTS = {
    "5FC102": "chuid",
    "5FC107": "ccc",
    "7E": "discovery",
    "5FC10C": "key_history",
    "5FC109": "printed_info",
    "5FC106": "security_object",
}


def _pin_changed(field: str) -> Deed:
    which, _, what = field.partition("_")
    if what == "retry_counter":
        used = {"pw1": ("verify:81", "verify:82", "manage-pin:81"), "pw3": ("verify:83", "manage-pin:83")}
        return deed(*used.get(which, ("manage-pin:81", "manage-pin:D3")))
    return deed({"pw1": "manage-pin:81", "pw3": "manage-pin:83"}.get(which, "manage-pin:D3"))


def _key_changed(key: str, fingerprint: str, time: str, authority: str, field: str) -> Deed:
    match field:
        case "fingerprint":
            return deed(f"write:{fingerprint}", f"generate:{key}")
        case "generation_time":
            return deed(f"write:{time}", f"generate:{key}")
        case "ca_fingerprint":
            return deed(f"write:{authority}")
        case "uif":
            return deed("administer")
    # the algorithm as well: cards erase the key when it becomes another
    return deed(f"generate:{key}")


def _piv_changed(field: str, value: Any) -> Deed | None:
    match field:
        case "pin" | "pin_retries":
            return deed("manage-pin:80")
        case "puk" | "puk_retries":
            return deed("manage-pin:81")
        case "pin_verified" | "pin_retries_remaining":
            return deed("verify:80", "manage-pin:80")
        case "puk_retries_remaining":
            return deed("verify:81", "manage-pin:81", "manage-pin:80")
    return deed("administer:9B")


def _piv_used(applet: Any, key: Any) -> Deed:
    slot = next(slot for slot, each in applet.data_objects.keys.items() if each is key)
    return deed(*(f"{operation}:{slot:02X}" for operation in ("sign", "decrypt", "authenticate")))


@functools.cache
def _prepared() -> OpenPGPCard:
    with tempfile.TemporaryDirectory() as folder:
        card = OpenPGPCard(storage_path=Path(folder))
    state = card.card_state
    state.key_sig.algorithm = state.key_aut.algorithm = AlgorithmAttributes.ed25519()
    state.key_dec.algorithm = AlgorithmAttributes.x25519()
    for kind in KeyType:
        made = card._crypto.generate_curve25519_key(kind)
        slot = {KeyType.SIGNATURE: state.key_sig, KeyType.DECRYPTION: state.key_dec}.get(kind, state.key_aut)
        slot.public_key_data, slot.private_key_data = made.public_key_data, made.private_key_data
    card._pin_manager.set_reset_code("12345678", admin_verified=True)
    card._security._verified_pins.update((0x81, 0x82, 0x83))
    card._piv_applet.security.pin_verified = card._piv_applet.security.mgmt_authenticated = True
    for slot in (PIVSlot(0x9A), PIVSlot(0x9C), PIVSlot(0x9D)):
        card._piv_applet._generate_ecc_key(slot, PIVAlgorithm.ECC_P256)
    card.power_on()
    return card
