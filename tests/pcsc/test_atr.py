"""ATRs of real cards, and of sloppy ones (ISO 7816-3:2006, 8.2)."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cardferry.pcsc.atr import Atr, AtrError, InterfaceGroup, checksum
from cardferry.pcsc.constants import Protocol

YUBIKEY_5 = bytes.fromhex("3BFD1300008131FE158073C021C057597562694B657940")
BELGIAN_EID = bytes.fromhex("3B9813400AA503010101AD1311")
OPENPGP_CARD = bytes.fromhex("3BDA18FF81B1FE751F030031F573C001600090001C")
CONTACTLESS = bytes.fromhex("3B80800101")


def with_checksum(text: str) -> bytes:
    raw = bytes.fromhex(text)
    return raw + bytes((checksum(raw[1:]),))


def test_a_card_that_speaks_t1_only() -> None:
    atr = Atr.parse(YUBIKEY_5)
    assert atr.groups == (
        InterfaceGroup(0x13, 0x00, 0x00, 0x81),
        InterfaceGroup(td=0x31),
        InterfaceGroup(ta=0xFE, tb=0x15),
    )
    assert atr.offered == (1,)
    assert atr.protocols == Protocol.T1
    assert atr.default == Protocol.T1
    assert atr.specific is None
    assert atr.historical == bytes.fromhex("8073C021C057") + b"YubiKey"
    assert atr.checksum == 0x40
    assert atr.checksum_due
    assert atr.checksum_valid


def test_a_card_that_speaks_t0_only_has_no_checksum() -> None:
    atr = Atr.parse(BELGIAN_EID)
    assert atr.groups == (InterfaceGroup(ta=0x13, td=0x40), InterfaceGroup(tc=0x0A))
    assert atr.protocols == Protocol.T0
    assert atr.historical == bytes.fromhex("A503010101AD1311")
    assert atr.checksum is None
    assert not atr.checksum_due
    assert atr.checksum_valid


def test_global_interface_bytes_are_not_a_protocol() -> None:
    atr = Atr.parse(OPENPGP_CARD)
    assert atr.groups[-1] == InterfaceGroup(ta=0x03)
    assert atr.offered == (1,)
    assert atr.protocols == Protocol.T1
    assert atr.historical == bytes.fromhex("0031F573C00160009000")
    assert atr.checksum_valid


def test_a_card_that_speaks_both() -> None:
    atr = Atr.parse(CONTACTLESS)
    assert atr.offered == (0, 1)
    assert atr.protocols == Protocol.ANY
    assert atr.default == Protocol.T0
    assert atr.historical == b""
    assert atr.checksum_valid


def test_without_td1_it_is_t0() -> None:
    atr = Atr.parse(bytes.fromhex("3B00"))
    assert atr.offered == (0,)
    assert atr.protocols == Protocol.T0
    assert atr.groups == ()


def test_global_bytes_beside_t0_make_the_checksum_due() -> None:
    # T0, then T=15 with TA: what SIM cards send
    raw = with_checksum("3B80801FC7")
    assert Atr.parse(raw).offered == (0,)
    assert Atr.parse(raw).checksum_due
    assert Atr.parse(raw).checksum_valid
    assert not Atr.parse(raw[:-1]).checksum_valid


@pytest.mark.parametrize(
    ("text", "specific"),
    [
        ("3B801000", Protocol.T0),  # TD1 = 10: T=0, and TA2 = 00
        ("3B801080", Protocol.T0),  # TA2 = 80: and unable to change
        ("3B80110110", Protocol.T1),  # TD1 = 11: T=1, and TA2 = 01
    ],
)
def test_specific_mode_names_its_protocol(text: str, specific: Protocol) -> None:
    atr = Atr.parse(bytes.fromhex(text))
    assert atr.specific == specific
    assert atr.default == specific


def test_only_ta2_means_specific_mode() -> None:
    # TD1 = 80: T=0; TD2 = 11: T=1, and TA3
    atr = Atr.parse(with_checksum("3B808011FE"))
    assert atr.specific is None
    assert atr.default == Protocol.T0


def test_specific_mode_with_a_protocol_pcsc_does_not_know() -> None:
    # TD1: T=14 with TA2 = 0E
    atr = Atr.parse(with_checksum("3B801E0E"))
    assert atr.offered == (14,)
    assert atr.protocols == Protocol.UNDEFINED
    assert atr.specific == Protocol.UNDEFINED
    assert atr.default == Protocol.UNDEFINED


def test_inverse_convention() -> None:
    assert Atr.parse(bytes.fromhex("3F00")).protocols == Protocol.T0


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "2 to 33"),
        (b"\x3b", "2 to 33"),
        (b"\x3b\x00" + bytes(32), "2 to 33"),
        (b"\x3c\x00", "3B or 3F"),
        (b"\x3b\x10", "interface bytes"),
        (b"\x3b\x80\x80", "interface bytes"),
        (b"\x3b\x80\x80\x80\x80", "interface bytes"),
    ],
)
def test_what_is_no_atr(raw: bytes, reason: str) -> None:
    with pytest.raises(AtrError, match=reason):
        Atr.parse(raw)


def test_tolerated_missing_checksum() -> None:
    atr = Atr.parse(YUBIKEY_5[:-1])
    assert atr.checksum is None
    assert not atr.checksum_valid
    assert atr.protocols == Protocol.T1


def test_tolerated_wrong_checksum() -> None:
    atr = Atr.parse(YUBIKEY_5[:-1] + b"\x41")
    assert atr.checksum == 0x41
    assert not atr.checksum_valid


def test_tolerated_checksum_that_is_not_due() -> None:
    atr = Atr.parse(BELGIAN_EID + b"\x00")
    assert atr.checksum == 0
    assert atr.checksum_valid


def test_tolerated_missing_historical_bytes() -> None:
    atr = Atr.parse(BELGIAN_EID[:-3])
    assert atr.historical == bytes.fromhex("A503010101")


def test_tolerated_bytes_after_the_end() -> None:
    atr = Atr.parse(YUBIKEY_5 + b"\x90\x00")
    assert atr.checksum_valid
    assert atr.historical.endswith(b"YubiKey")


def test_tolerated_global_bytes_in_td1() -> None:
    atr = Atr.parse(with_checksum("3B801F00"))
    assert atr.offered == (0,)
    assert atr.checksum_valid


@given(st.binary(max_size=40) | st.binary(max_size=31).map(lambda rest: b"\x3b" + rest))
@example(bytes.fromhex("3BFFFF"))
def test_any_bytes_give_an_atr_or_the_one_error(raw: bytes) -> None:
    try:
        atr = Atr.parse(raw)
    except AtrError:
        return
    assert atr.raw == raw
    assert atr.offered
    assert len(atr.historical) <= 15
    assert isinstance(atr.checksum_valid, bool)
    assert atr.specific is None or isinstance(atr.specific, Protocol)
