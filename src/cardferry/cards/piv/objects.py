"""The data objects of a PIV card: their tags, who may read them, and what a new card says about itself.

Implements NIST SP 800-73-5 part 1, tables 2 and 3 and appendix A (data model), and the FASC-N of the PACS
Implementation Guidance 2.3, 6.2. A data object is kept as the client sees it, without its outer ``53``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final
from uuid import UUID

from cardferry.cards.piv.keys import Slot
from cardferry.cards.status_error import StatusError
from cardferry.pcsc import tlv
from cardferry.pcsc.apdu import StatusWord

#: The PIV application's identifier, with its version 1.0 (SP 800-73-5 part 1, 2.2).
AID: Final = bytes.fromhex("A000000308 0000 1000 0100")
#: The registered application provider identifier, NIST's: the shortest name by which PIV can be selected.
RID_SIZE: Final = 5

CARD_AUTHENTICATION_CERTIFICATE: Final = 0x5FC101
CHUID: Final = 0x5FC102
FINGERPRINTS: Final = 0x5FC103
AUTHENTICATION_CERTIFICATE: Final = 0x5FC105
SECURITY_OBJECT: Final = 0x5FC106
CARD_CAPABILITY_CONTAINER: Final = 0x5FC107
FACIAL_IMAGE: Final = 0x5FC108
PRINTED_INFORMATION: Final = 0x5FC109
SIGNATURE_CERTIFICATE: Final = 0x5FC10A
KEY_MANAGEMENT_CERTIFICATE: Final = 0x5FC10B
KEY_HISTORY: Final = 0x5FC10C
FIRST_RETIRED_CERTIFICATE: Final = 0x5FC10D
IRIS_IMAGES: Final = 0x5FC121
PAIRING_CODE: Final = 0x5FC123
DISCOVERY: Final = 0x7E
BIOMETRIC_GROUP_TEMPLATE: Final = 0x7F61

#: Bytes of the largest object, and of all objects together. The largest in the standard is the facial image
#: with 12,710 bytes (SP 800-73-5 part 1, table 7).
MAX_OBJECT_SIZE: Final = 16 * 1024
MAX_TOTAL_SIZE: Final = 192 * 1024

#: Objects that need the PIN before they can be read (SP 800-73-5 part 1, table 2).
PIN_PROTECTED: Final = frozenset({FINGERPRINTS, FACIAL_IMAGE, PRINTED_INFORMATION, IRIS_IMAGES, PAIRING_CODE})

#: Objects that are interindustry templates of their own: no ``53`` around them, in either direction.
SELF_CONTAINED: Final = frozenset({DISCOVERY, BIOMETRIC_GROUP_TEMPLATE})

TAG_DATA: Final = 0x53
_TAG_CERTIFICATE: Final = 0x70
_TAG_CERTIFICATE_INFO: Final = 0x71
_TAG_ERROR_DETECTION: Final = 0xFE

#: PIN usage policy: only the PIV application's own PIN, no VCI (SP 800-73-5 part 1, 3.3.2).
_PIN_USAGE_POLICY: Final = bytes.fromhex("4000")
#: Cards speak of dates as text; this is far enough away.
_EXPIRATION: Final = b"20991231"
#: Registered application provider and manufacturer of a CCC card identifier (SP 800-73-5 part 1, 3.1.1: GSC-RID
#: ``A000000116``, manufacturer FF for unregistered ones, card type 02 for a Java-like file system card).
_CARD_IDENTIFIER_PREFIX: Final = bytes.fromhex("A000000116 FF 02")
_CARD_IDENTIFIER_SIZE: Final = 21


def certificate_object(slot: Slot) -> int:
    """The tag of the slot's certificate."""
    if slot in _CERTIFICATES:
        return _CERTIFICATES[slot]
    return FIRST_RETIRED_CERTIFICATE + slot - Slot.RETIRED_1


_CERTIFICATES: Final = {
    Slot.AUTHENTICATION: AUTHENTICATION_CERTIFICATE,
    Slot.SIGNATURE: SIGNATURE_CERTIFICATE,
    Slot.KEY_MANAGEMENT: KEY_MANAGEMENT_CERTIFICATE,
    Slot.CARD_AUTHENTICATION: CARD_AUTHENTICATION_CERTIFICATE,
}


def is_known(tag: int) -> bool:
    """Whether the card has a place for this object: the standard's, or a vendor's (``5FFFxx``, as Yubico's)."""
    return CARD_AUTHENTICATION_CERTIFICATE <= tag <= PAIRING_CODE or tag in SELF_CONTAINED or tag & 0xFFFF00 == 0x5FFF00


def encode_certificate(der: bytes) -> bytes:
    """A certificate object's content, uncompressed (SP 800-73-5 part 1, table 10)."""
    return (
        tlv.encode(_TAG_CERTIFICATE, der) + tlv.encode(_TAG_CERTIFICATE_INFO, b"\0") + tlv.encode(_TAG_ERROR_DETECTION)
    )


def initial_objects(guid: UUID, serial: int, holder: str) -> dict[int, bytes]:
    """What a new card holds, certificates apart.

    Args:
        guid: identifies the card in its CHUID; OpenSC shows it as the serial number.
        serial: a number for people, at most ten digits.
        holder: the name in the printed information, at most 125 bytes in UTF-8.
    """
    identifier = _CARD_IDENTIFIER_PREFIX + guid.bytes[: _CARD_IDENTIFIER_SIZE - len(_CARD_IDENTIFIER_PREFIX)]
    return {
        CHUID: b"".join(
            (
                tlv.encode(0x30, fasc_n(serial)),
                tlv.encode(0x34, guid.bytes),
                tlv.encode(0x35, _EXPIRATION),
                tlv.encode(0x3E),
                tlv.encode(_TAG_ERROR_DETECTION),
            )
        ),
        CARD_CAPABILITY_CONTAINER: b"".join(
            (
                tlv.encode(0xF0, identifier),
                tlv.encode(0xF1, b"\x21"),
                tlv.encode(0xF2, b"\x21"),
                tlv.encode(0xF3),
                tlv.encode(0xF4, b"\x00"),
                tlv.encode(0xF5, b"\x10"),
                *(tlv.encode(tag) for tag in (0xF6, 0xF7, 0xFA, 0xFB, 0xFC, 0xFD, _TAG_ERROR_DETECTION)),
            )
        ),
        DISCOVERY: tlv.encode(0x4F, AID) + tlv.encode(0x5F2F, _PIN_USAGE_POLICY),
        KEY_HISTORY: tlv.encode(0xC1, b"\0") + tlv.encode(0xC2, b"\0") + tlv.encode(_TAG_ERROR_DETECTION),
        PRINTED_INFORMATION: b"".join(
            (
                tlv.encode(0x01, holder.encode()[:125]),
                tlv.encode(0x02, b"cardferry"),
                tlv.encode(0x04, b"2099DEC31"),
                tlv.encode(0x05, f"{serial:010d}".encode()[:10]),
                tlv.encode(0x06, b"cardferry"),
                tlv.encode(_TAG_ERROR_DETECTION),
            )
        ),
    }


def fasc_n(serial: int) -> bytes:
    """The 25-byte FASC-N of a card that no federal agency issued: agency, system 9999, credential 999999.

    Forty characters of five bits: a decimal digit, least significant bit first, and an odd parity bit; the
    last character is a check over all others (PACS Implementation Guidance 2.3, 6.2 and 6.3).
    """
    start, separator, end = 0b1011, 0b1101, 0b1111
    person = f"{serial % 10**10:010d}"
    fields = ([start], "9999", [separator], "9999", [separator], "999999", [separator], "0", [separator], "1")
    tail = ([separator], f"{person}1", "0000", "1", [end])
    characters = [int(each) for part in fields + tail for each in part]
    check = 0
    for character in characters:
        check ^= character
    bits = "".join(_five_bits(character) for character in [*characters, check])
    return int(bits, 2).to_bytes(25, "big")


def _five_bits(character: int) -> str:
    digits = f"{character:04b}"[::-1]
    return digits + ("0" if digits.count("1") % 2 else "1")


class ObjectStore:
    """The data objects of one card, bounded in size.

    Args:
        objects: contents by tag.
    """

    def __init__(self, objects: Mapping[int, bytes] | Iterable[tuple[int, bytes]] = ()) -> None:
        self._objects = dict(objects)

    def get(self, tag: int) -> bytes | None:
        """The content, None when there is no such object."""
        return self._objects.get(tag)

    def put(self, tag: int, content: bytes) -> None:
        """Store an object; empty content removes it. Raises `StatusError` when there is no room or place."""
        if not is_known(tag):
            raise StatusError(StatusWord.FILE_NOT_FOUND, f"no object {tag:X}")
        if not content:
            self._objects.pop(tag, None)
            return
        others = sum(len(each) for known, each in self._objects.items() if known != tag)
        if len(content) > MAX_OBJECT_SIZE or others + len(content) > MAX_TOTAL_SIZE:
            raise StatusError(StatusWord.NOT_ENOUGH_MEMORY, "object too large")
        self._objects[tag] = content

    def all(self) -> dict[int, bytes]:
        """A copy of everything."""
        return dict(self._objects)
