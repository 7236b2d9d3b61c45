"""Which card it is: its serial number, and whom its certificates are about, as far as that is read without a PIN.

PIV (NIST SP 800-73-4 part 1, 3.1 and appendix A; GET DATA in part 2, 3.1.2): the certificates of the four keys that
every card may have. Yubico's GET SERIAL. OpenPGP card 3.4.1: the serial number in the application's identifier
(4.2.1), the cardholder's certificate (4.4.3.3).
"""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cardferry.pcsc.tlv import parse_leading

Send = Callable[[bytes], Awaitable[bytes]]

_SELECT_PIV: Final = bytes.fromhex("00A4040005A00000030800")
_SELECT_OPENPGP: Final = bytes.fromhex("00A4040006D2760001240100")
_GET_SERIAL: Final = bytes.fromhex("00F8000000")
_GET_IDENTIFIER: Final = bytes.fromhex("00CA004F00")
_GET_CARDHOLDER: Final = bytes.fromhex("00CA7F2100")
_CERTIFICATES: Final = {
    key: bytes.fromhex(f"00CB3FFF055C03{name}00")
    for key, name in {"9A": "5FC105", "9C": "5FC10A", "9D": "5FC10B", "9E": "5FC101"}.items()
}
_SUCCESS: Final = b"\x90\x00"
_MORE_DATA, _OTHER_LENGTH = 0x61, 0x6C
#: Pieces of an answer, of 256 bytes each.
_MOST_PIECES: Final = 64
_DATA, _CERTIFICATE, _CERTIFICATE_INFO, _ZIPPED = 0x53, 0x70, 0x71, 0x01
_MOST_BYTES: Final = 1 << 16
#: Where the identifier of an OpenPGP card has its number, and bytes of the whole.
_NUMBER, _IDENTIFIER_SIZE = slice(10, 14), 16


@dataclass(frozen=True, slots=True)
class Identity:
    """What is known of a card.

    Attributes:
        serials: its numbers, as ``ykman`` and ``gpg --card-status`` show them.
        subjects: by key, as rules name it: whom its certificate is about (RFC 4514).
    """

    serials: tuple[str, ...] = ()
    subjects: Mapping[str, str] = field(default_factory=dict)

    def names(self, reader: str) -> tuple[str, ...]:
        """All that a rule can call the card: its reader, that with its number, and its certificates' subjects."""
        numbered = [f"{reader} serial {serial}" for serial in self.serials]
        return (reader, *numbered, *self.subjects.values())

    def __str__(self) -> str:
        """In words, for people."""
        said = [f"serial {serial}" for serial in self.serials]
        return "; ".join(said + [f"{key} {subject}" for key, subject in self.subjects.items()])


async def identify(send: Send) -> Identity:
    """Ask a card. Another application may be selected afterwards.

    Args:
        send: sends a command, and returns the answer.
    """
    serials, subjects = [], {}
    if (await send(_SELECT_PIV))[-2:] == _SUCCESS:
        if number := await _read(send, _GET_SERIAL):
            serials.append(str(int.from_bytes(number, "big")))
        for key, command in _CERTIFICATES.items():
            if subject := _subject(_certificate(await _read(send, command))):
                subjects[key] = subject
    if (await send(_SELECT_OPENPGP))[-2:] == _SUCCESS:
        identifier = await _read(send, _GET_IDENTIFIER)
        if len(identifier) == _IDENTIFIER_SIZE:
            serials.append(identifier[_NUMBER].hex().upper())
        if subject := _subject(await _read(send, _GET_CARDHOLDER)):
            subjects["AUT"] = subject
    return Identity(tuple(dict.fromkeys(serials)), subjects)


async def _read(send: Send, command: bytes) -> bytes:
    """The whole answer; empty when the card does not give it."""
    answer = await send(command)
    if len(answer) == 2 and answer[0] == _OTHER_LENGTH:
        answer = await send(command[:-1] + answer[1:])
    data = answer[:-2]
    for _ in range(_MOST_PIECES):
        if answer[-2:-1] != bytes((_MORE_DATA,)):
            break
        answer = await send(bytes((0x00, 0xC0, 0x00, 0x00, answer[-1])))
        data += answer[:-2]
    return data if answer[-2:] == _SUCCESS else b""


def _certificate(answer: bytes) -> bytes:
    """The certificate in a data object of PIV."""
    for outer in parse_leading(answer):
        if outer.tag == _DATA:
            parts = {each.tag: each.value for each in parse_leading(outer.value)}
            found = parts.get(_CERTIFICATE, b"")
            if parts.get(_CERTIFICATE_INFO, b"\0")[:1] != bytes((_ZIPPED,)):
                return found
            try:
                return zlib.decompressobj(wbits=31).decompress(found, _MOST_BYTES)
            except zlib.error:
                return b""
    return b""


def _subject(certificate: bytes) -> str:
    """Whom a certificate is about; empty when it is none."""
    if not certificate:
        return ""
    from cryptography import x509  # noqa: PLC0415 - only where there is one

    try:
        return x509.load_der_x509_certificate(certificate).subject.rfc4514_string()
    except ValueError:
        return ""
