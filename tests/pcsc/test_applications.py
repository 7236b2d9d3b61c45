"""Which application of a card is selected: by name, by file, by what it says of itself."""

from __future__ import annotations

import pytest

from cardferry.pcsc.apdu import CommandApdu, ResponseApdu
from cardferry.pcsc.applications import (
    ANY,
    Application,
    Applications,
    applications_named,
    name_of_application,
    selected_after,
)

PIV, OPENPGP, PKCS15 = (frozenset({each}) for each in (Application.PIV, Application.OPENPGP, Application.PKCS15))
GLOBAL_PLATFORM = frozenset({Application.GLOBAL_PLATFORM})


def after(before: Applications, command: str, response: str) -> Applications:
    parsed = CommandApdu.parse(bytes.fromhex(command)), ResponseApdu.parse(bytes.fromhex(response))
    return selected_after(before, *parsed)


@pytest.mark.parametrize(
    ("identifier", "expected"),
    [
        ("A000000308", PIV),
        ("A00000030800001000", PIV),
        ("A000000308000010000100", PIV),
        ("D27600012401", OPENPGP),
        ("D2760001240103040006123456780000", OPENPGP),
        ("A000000063504B43532D3135", PKCS15),
        ("A000000151000000", GLOBAL_PLATFORM),
        ("A00000007901FF", {Application.CAC}),
        ("A000000116DB00", {Application.CAC}),
        ("A000000527471117", {Application.YUBIKEY_MANAGEMENT}),
        ("A000000527200101", {Application.YUBIKEY_OTP}),
        # too short to be sure, or of the same provider
        ("D276000124", {Application.OPENPGP, Application.UNKNOWN}),
        ("A0000003080000200001", {Application.PIV, Application.UNKNOWN}),
        ("A0000005272101", {Application.YUBIKEY_OTP, Application.YUBIKEY_MANAGEMENT, Application.UNKNOWN}),
        ("", set(Application)),
        ("E82B0601040181C31F0201", ANY),
    ],
)
def test_names(identifier: str, expected: Applications) -> None:
    assert applications_named(bytes.fromhex(identifier)) == expected


def test_names_for_people() -> None:
    assert name_of_application(bytes.fromhex("A0000006472F0001")) == "FIDO"
    assert name_of_application(bytes.fromhex("A000000063504B43532D3135")) == "PKCS#15"
    assert name_of_application(bytes.fromhex("0102030405")) is None


@pytest.mark.parametrize(
    ("before", "command", "response", "expected"),
    [
        (ANY, "00A4040005A000000308", "9000", PIV),
        (ANY, "00A4040005A000000308", "611F", PIV),
        (ANY, "00A4040006D27600012401", "6285", OPENPGP),  # terminated, and selected
        # not found: what was selected still is, but a Java card may have selected before its applet refused
        (PIV, "00A4040006A00000000101", "6A82", PIV),
        (PIV, "00A4040006D27600012401", "6A82", PIV | OPENPGP),
        (PIV, "00A4040006A00000000101", "6999", ANY),
        (ANY, "00A4040005A000000308", "6A82", ANY),
        # the next of those that begin so, or one that is not known
        (PIV, "00A4040206D27600012401", "9000", ANY),
        (PIV, "00A4040005D276000124", "9000", ANY),
        (PIV, "00A404000BE82B0601040181C31F0201", "9000", ANY),
        # the answer says which
        (PIV, "00A40400", "6F0A8408A0000001510000009000", GLOBAL_PLATFORM),
        (ANY, "00A4040005D276000124", "6F088406D276000124019000", OPENPGP),
        # files
        (PIV, "00A4000C023F00", "6A86", PIV),
        (PIV, "00A4000C023F00", "9000", PIV | PKCS15),
        (ANY, "00A4000C023F00", "9000", ANY),
        (ANY, "00A4000C025015", "9000", PKCS15),
        (ANY, "00A4080C043F005015", "9000", PKCS15),
        (PKCS15, "00A4020C024401", "9000", PKCS15),
        # its own name, as programs ask for it after another one may have had the card
        (ANY, "00CB3FFF035C017E00", "7E124F0BA0000003080000100001005F2F0240009000", PIV),
        (ANY, "00CB3FFF035C017E08", "7E124F0BA0000003610C", ANY),
        (ANY, "00CA004F00", "D27600012401030400000000000100009000", OPENPGP),
        (ANY, "00CA006E00", "6E81D74F10D2760001240103040000000000010000" + "00" * 60 + "9000", OPENPGP),
        (PIV, "00CA006E00", "6A88", PIV),
        (PIV, "00CB3FFF035C017E00", "7E009000", PIV),
        (PIV, "00CA004F00", "9000", PIV),
        (PIV, "00CA004F00", "E82B06019000", PIV),
        (PIV, "0020008000", "9000", PIV),
    ],
)
def test_what_is_selected_after(before: Applications, command: str, response: str, expected: Applications) -> None:
    assert after(before, command, response) == expected
