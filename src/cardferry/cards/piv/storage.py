"""A PIV card in a file, so that it survives a restart.

The file is JSON and holds every secret of the card in the clear; it is written for its owner only (0600), and
replaced in one step, so that a crash leaves the old card or the new one, never half of one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from cardferry.cards.piv.application import Contents
from cardferry.cards.piv.keys import Algorithm, Origin, PinPolicy, PrivateKey, Slot, SlotKey, algorithm_of
from cardferry.cards.piv.management_key import ManagementKey
from cardferry.cards.piv.objects import ObjectStore
from cardferry.cards.piv.reference_data import SIZE, ReferenceData
from cardferry.cards.status_error import StatusError
from cardferry.pcsc.errors import UserError
from cardferry.private_file import write_private

#: Bytes of the largest file that is read: a full card is well below.
MAX_FILE_SIZE: Final = 1024 * 1024

_Tries = Annotated[int, msgspec.Meta(ge=1, le=255)]
_TriesLeft = Annotated[int, msgspec.Meta(ge=0, le=255)]
_Secret = Annotated[bytes, msgspec.Meta(min_length=SIZE, max_length=SIZE)]


class _StoredSecret(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    value: _Secret
    tries: _Tries
    left: _TriesLeft


class _StoredKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    slot: Slot
    pkcs8: bytes
    pin_policy: PinPolicy
    origin: Origin


class _StoredObject(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tag: int
    content: bytes


class _StoredCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal["cardferry PIV card 1"]
    serial: Annotated[int, msgspec.Meta(ge=0, le=0xFFFF_FFFF)]
    guid: UUID
    pin: _StoredSecret
    puk: _StoredSecret
    management_algorithm: Algorithm
    management_key: bytes
    keys: list[_StoredKey]
    objects: list[_StoredObject]


class CardFileError(UserError):
    """The file is not a card of ours."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path} is not a virtual card: {reason}",
            "Name another file, or remove this one to begin with a new card.",
        )


def encode(contents: Contents) -> bytes:
    """The file's bytes."""
    return msgspec.json.encode(
        _StoredCard(
            format="cardferry PIV card 1",
            serial=contents.serial,
            guid=contents.guid,
            pin=_store_secret(contents.pin),
            puk=_store_secret(contents.puk),
            management_algorithm=contents.management_key.algorithm,
            management_key=contents.management_key.key,
            keys=[
                _StoredKey(slot, _pkcs8(key.private), key.pin_policy, key.origin) for slot, key in contents.keys.items()
            ],
            objects=[_StoredObject(tag, content) for tag, content in contents.objects.all().items()],
        )
    )


def decode(data: bytes) -> Contents:
    """The card in the file's bytes; raises `ValueError` for anything else."""
    try:
        stored = msgspec.json.decode(data, type=_StoredCard)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error
    contents = Contents(
        stored.serial,
        stored.guid,
        pin=_restore_secret(stored.pin),
        puk=_restore_secret(stored.puk),
        management_key=ManagementKey(stored.management_algorithm, stored.management_key),
        keys={each.slot: SlotKey(_private_key(each.pkcs8), each.pin_policy, each.origin) for each in stored.keys},
        objects=ObjectStore(),
    )
    try:
        for each in stored.objects:
            contents.objects.put(each.tag, each.content)
    except StatusError as error:
        raise ValueError(f"object {each.tag:X} does not fit") from error
    return contents


def save(contents: Contents, path: Path) -> None:
    """Write the file in one step, 0600. Raises `OSError`."""
    write_private(path, encode(contents))


def load(path: Path) -> Contents:
    """Read the file. Raises `CardFileError`, and `OSError` when it cannot be read."""
    with path.open("rb") as file:
        data = file.read(MAX_FILE_SIZE + 1)
    if len(data) > MAX_FILE_SIZE:
        raise CardFileError(path, "too large")
    try:
        return decode(data)
    except ValueError as error:
        raise CardFileError(path, str(error)) from error


def _store_secret(secret: ReferenceData) -> _StoredSecret:
    return _StoredSecret(secret.value, secret.tries, secret.left)


def _restore_secret(stored: _StoredSecret) -> ReferenceData:
    if stored.left > stored.tries:
        raise ValueError("more tries left than there are")
    return ReferenceData(stored.value, stored.tries, stored.left)


def _pkcs8(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def _private_key(pkcs8: bytes) -> PrivateKey:
    try:
        key = load_der_private_key(pkcs8, password=None)
    except (TypeError, UnsupportedAlgorithm) as error:
        raise ValueError("not a kind of key that a PIV card has") from error
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise ValueError("not a kind of key that a PIV card has")
    algorithm_of(key)
    return key
