"""What to call a card in front of people: who made it, as its ATR says, and what it is, as its applications have said.

An ATR is not made to be read. But many cards write their maker's word into its historical bytes (ISO 7816-4:2020,
12.1.1), or the identifier of their application; `MAKERS` has those that write neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from cardferry.pcsc.apdu import ApduError, CommandApdu, ResponseApdu
from cardferry.pcsc.applications import TELLING, identifier_told, name_of_application
from cardferry.pcsc.atr import Atr, AtrError

#: Historical bytes, or how they begin -> what has them. Source: pcsc-tools, ``smartcard_list.txt`` of 2023.
MAKERS: Final = {
    b"\x80\x73\xc0\x21\xc0\x57YubiKey": "YubiKey 5",
    b"Yubikey4": "YubiKey 4",
    b"YubikeyNEO": "YubiKey NEO",
    bytes.fromhex("0031C173C001"): "OpenPGP card 1",
    bytes.fromhex("0031C573C001"): "OpenPGP card 2",
    bytes.fromhex("0031F573C001"): "OpenPGP card 3",
    bytes.fromhex("00318473800180009000"): "Gnuk",
    bytes.fromhex("00318473800180059000"): "Nitrokey Start",
}
#: Category indicators before COMPACT-TLV objects (ISO 7816-4, 12.1.1.2): with a status at the end, and without.
_WITH_STATUS, _PLAIN = 0x00, 0x80
#: Tags in there: an application's identifier, the issuer's or maker's own words, and where SP 800-73 has it as well.
_IDENTIFIER, _WORDS, _IDENTIFIER_TOO = 0x4, 0x5, 0xF
#: Characters of a word that is one: fewer may be numbers that look like letters.
_SHORTEST: Final = 4
#: What people have a card for. Its maker's applications, and who manages it, say nothing about that.
_PURPOSES: Final = ("PIV", "OpenPGP", "CAC", "PKCS#15")
#: Where OpenPGP's identifier has its version, in two bytes; and bytes of the whole, which
#: is as long as any can be (OpenPGP card 3.4.1, 4.2.1; ISO 7816-4, 12.3.4).
_VERSION, _LONGEST = 6, 16
#: Bytes of a command without data, and of an answer without any: neither has room for a name.
_NO_NAME, _STATUS = 5, 2


def card_name(atr: bytes, identifiers: Iterable[bytes] = ()) -> str:
    """What to call a card, such as ``PIV (YubiKey 5)``; empty when nothing is known.

    Args:
        atr: empty without a card.
        identifiers: of the applications that have answered, in any order.
    """
    try:
        historical = Atr.parse(atr).historical
    except AtrError:
        return ""
    maker = next((name for begin, name in MAKERS.items() if historical.startswith(begin)), "")
    told = dict(_objects(historical))
    maker = maker or _words(told.get(_WORDS, b"" if told else historical))
    known: dict[str, bytes] = {}
    for identifier in (*(told[tag] for tag in (_IDENTIFIER, _IDENTIFIER_TOO) if tag in told), *identifiers):
        _remember(known, identifier)
    names = ", ".join(_shown(name, known[name]) for name in sorted(known))
    return f"{names} ({maker})" if names and maker else names or maker


def note_application(known: dict[str, bytes], command: bytes, answer: bytes) -> None:
    """Remember which application has answered, if that can be seen and people have cards for it.

    Args:
        known: name -> identifier, of those that have answered since the card came; one more, or a longer one, then.
        command: that was sent.
        answer: the card's.
    """
    if command[1:3] not in TELLING or (len(command) <= _NO_NAME and len(answer) <= _STATUS):
        return  # hardly any command gets further, and each that is made comes here
    try:
        _remember(known, identifier_told(CommandApdu.parse(command), ResponseApdu.parse(answer)))
    except ApduError:
        return


def _remember(known: dict[str, bytes], identifier: bytes) -> None:
    name = name_of_application(identifier)
    if name in _PURPOSES and len(known.get(name, b"")) < len(identifier) <= _LONGEST:
        known[name] = identifier


def _shown(name: str, identifier: bytes) -> str:
    """``OpenPGP 3.4 D276...`` with the whole identifier, as gpg shows it; others by their name."""
    if name != "OpenPGP" or len(identifier) != _LONGEST:
        return name
    major, minor = identifier[_VERSION : _VERSION + 2]
    return f"{name} {major:x}.{minor:x} {identifier.hex().upper()}"


def _objects(historical: bytes) -> Iterator[tuple[int, bytes]]:
    """The COMPACT-TLV objects: a byte of tag and length, and the value."""
    if historical[:1] not in (bytes((_WITH_STATUS,)), bytes((_PLAIN,))):
        return
    at, end = 1, len(historical) - (3 if historical[0] == _WITH_STATUS else 0)
    while at < end:
        tag, size = historical[at] >> 4, historical[at] & 0x0F
        yield tag, historical[at + 1 : at + 1 + size]
        at += 1 + size


def _words(data: bytes) -> str:
    """Bytes that are a word, without what fills them up; empty when they are none."""
    text = data.rstrip(b"\0 ").decode("ascii", errors="replace")
    return text if len(text) >= _SHORTEST and text.isprintable() and text.isascii() else ""
