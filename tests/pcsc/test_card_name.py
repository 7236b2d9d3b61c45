"""What cards are called, by their ATR and by what their applications have said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardferry.pcsc.card_name import MAKERS, card_name, note_application

YUBIKEY_5 = bytes.fromhex("3BFD1300008131FE158073C021C057597562694B657940")
OPENPGP = bytes.fromhex("D2760001240103040006123456780000")
PIV = bytes.fromhex("A00000030800001000")


@pytest.mark.parametrize(
    ("atr", "name"),
    [
        ("3BFD1300008131FE158073C021C057597562694B657940", "YubiKey 5"),
        ("3B8D80018073C021C057597562694B6579F9", "YubiKey 5"),
        ("3BF81300008131FE15597562696B657934D4", "YubiKey 4"),
        ("3BFC1300008131FE15597562696B65794E454F7233E1", "YubiKey NEO"),
        ("3B8C01805A4E6974726F6B657920337D", "Nitrokey 3"),
        ("3BDA11FF81B1FE551F0300318473800180009000E4", "Gnuk"),
        ("3BDA11FF81B1FE551F0300318473800180059000E1", "Nitrokey Start"),
        ("3BDA18FF81B1FE751F030031C573C001400090000C", "OpenPGP card 2"),
        ("3BFA1300FF8131804500 31C173C00100009000B1", "OpenPGP card 1"),
        ("3BDF960081B1FE451F838073CC91CBF9A0000003080000100079", "PIV"),
        ("3B9D138131FE1580FBA00000030800001000010014", "PIV"),
        ("3BFD1300FF8131FE4541373030364347203234325231D6", "A7006CG 242R1"),
        ("3BFC180000813180459067464A00641606F2727E00E0", ""),
        ("3B80800101", ""),
        ("", ""),
    ],
)
def test_what_an_atr_says(atr: str, name: str) -> None:
    """ATRs of pcsc-tools' list, and of the built-in card."""
    assert card_name(bytes.fromhex(atr)) == name


def test_applications_come_first() -> None:
    assert card_name(YUBIKEY_5, [PIV]) == "PIV (YubiKey 5)"
    assert card_name(YUBIKEY_5, [OPENPGP, PIV]) == f"OpenPGP 3.4 {OPENPGP.hex().upper()}, PIV (YubiKey 5)"
    assert card_name(bytes.fromhex("3B80800101"), [OPENPGP[:6]]) == "OpenPGP"


SELECT_PIV = "00A4040005A000000308"
SELECT_OPENPGP = "00A4040006D27600012401"


@pytest.mark.parametrize(
    ("exchanges", "known"),
    [
        ([(SELECT_PIV, "61114F06000010000100 9000")], {"PIV": bytes.fromhex("A000000308")}),
        ([(SELECT_PIV, "6A82")], {}),
        ([(SELECT_OPENPGP, "9000"), ("00CA004F00", f"{OPENPGP.hex()}9000")], {"OpenPGP": OPENPGP}),
        ([("00CA004F00", f"{OPENPGP.hex()}9000"), (SELECT_OPENPGP, "9000")], {"OpenPGP": OPENPGP}),
        ([("00CA006E00", f"6E124F10{OPENPGP.hex()}9000")], {"OpenPGP": OPENPGP}),
        ([("00CA004F00", f"{OPENPGP.hex()}00009000")], {}),
        ([("00A4040008A000000527471117", "9000")], {}),
        ([("00A40400", "9000"), ("00A404", "9000"), ("00A4040005A000000308", "90"), ("00B0000000", "9000")], {}),
    ],
    ids=["selected", "not there", "asked", "longest stays", "in 6E", "too long", "not a purpose", "broken"],
)
def test_what_exchanges_tell(exchanges: list[tuple[str, str]], known: dict[str, bytes]) -> None:
    found: dict[str, bytes] = {}
    for command, answer in exchanges:
        note_application(found, bytes.fromhex(command), bytes.fromhex(answer))
    assert found == known


@given(st.binary(max_size=40), st.binary(max_size=40), st.binary(max_size=40))
def test_any_bytes_have_a_name_that_can_be_shown(atr: bytes, command: bytes, answer: bytes) -> None:
    found: dict[str, bytes] = {}
    note_application(found, b"\x00\xa4\x04\x00" + command, answer)
    name = card_name(b"\x3b" + atr, found.values())
    assert name.isprintable()


def test_no_maker_hides_another() -> None:
    for begin in MAKERS:
        assert [one for one in MAKERS if begin.startswith(one)] == [begin]
