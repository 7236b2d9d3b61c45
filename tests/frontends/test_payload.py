"""Integers inside payloads, turned: golden vectors laid out by hand from PC/SC part 10 and pcsc-lite's ``reader.h``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardferry.frontends.pcsclite.payload import (
    ControlCodes,
    Feature,
    control_codes,
    turned_answer,
    turned_attribute,
    turned_command,
)
from cardferry.pcsc.constants import GET_FEATURE_REQUEST
from cardferry.wire.pcsclite.layout import ByteOrder

# bTimerOut, bTimerOut2, format, block, length format | wPINMaxExtraDigit 0x0408 | validation, messages | wLangId 0x0409
# | index, prologue | ulDataLength 13 | VERIFY with a padded PIN block
VERIFY_BIG = bytes.fromhex("1E 1E 82 04 00  0408  02 01  0409  00 000000  0000000D  00200082 08 FFFFFFFFFFFFFFFF")
VERIFY_LITTLE = bytes.fromhex("1E 1E 82 04 00  0804  02 01  0904  00 000000  0D000000  00200082 08 FFFFFFFFFFFFFFFF")
# as above with two insertion offsets, confirmation, three indices | ulDataLength 21
MODIFY_BIG = bytes.fromhex(
    "1E 1E 82 04 00 00 08  0408  03 02 03  0407  00 01 02 000000  00000015  00240082 10" + "FF" * 16
)
MODIFY_LITTLE = bytes.fromhex(
    "1E 1E 82 04 00 00 08  0804  03 02 03  0704  00 01 02 000000  15000000  00240082 10" + "FF" * 16
)
ORDERS: tuple[ByteOrder, ...] = ("little", "big")

#: VERIFY_PIN_DIRECT, MODIFY_PIN_DIRECT, IFD_PIN_PROPERTIES, TLV_PROPERTIES, with the codes of the CCID driver
FEATURES = bytes.fromhex("06 04 42330006  07 04 42330007  0A 04 4233000A  12 04 42330012")


@pytest.mark.parametrize(
    ("attribute", "little", "big"),
    [
        (0x0001_0102, "78560201", "01025678"),  # IFD version 1.2.0x5678
        (0x0002_0110, "03002000", "00200003"),  # USB, channel 3
        (0x0007_A007, "0C000100", "0001000C"),  # largest input
        (0x0003_0124, "20A10700", "0007A120"),  # a protocol attribute: data rate 500000
        (0x0008_0201, "02000000", "00000002"),  # the protocol in force
        (0x0001_0102, "7856020100000000", "0000000001025678"),  # a driver that means a 64-bit C long
    ],
)
def test_integers_among_the_attributes_are_turned(attribute: int, little: str, big: str) -> None:
    assert turned_attribute(attribute, bytes.fromhex(little)) == bytes.fromhex(big)
    assert turned_attribute(attribute, bytes.fromhex(big)) == bytes.fromhex(little)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        (0x0001_0100, b"Acme"),  # a name, with as many bytes as an integer
        (0x0001_0103, b"0815"),  # a serial number
        (0x0009_0303, bytes.fromhex("3B800101")),  # an ATR
        (0x0009_0300, b"\x02"),  # card presence, one byte
        (0x7FFF_0003, b"PCD\0"),  # a friendly name
        (0x0007_A000, bytes(range(4))),  # a vendor's own, form unknown
        (0x0001_0102, b"\x01\x02\x03"),  # no integer after all
        (0x0001_0102, b""),
    ],
)
def test_other_attributes_stay_as_they_are(attribute: int, value: bytes) -> None:
    assert turned_attribute(attribute, value) == value


@pytest.mark.parametrize("feature", [Feature.VERIFY_PIN_START, Feature.VERIFY_PIN_DIRECT])
def test_pin_verify_structure(feature: Feature) -> None:
    assert turned_command(feature, VERIFY_BIG, "big") == VERIFY_LITTLE
    assert turned_command(feature, VERIFY_LITTLE, "little") == VERIFY_BIG


@pytest.mark.parametrize("feature", [Feature.MODIFY_PIN_START, Feature.MODIFY_PIN_DIRECT])
def test_pin_modify_structure(feature: Feature) -> None:
    assert turned_command(feature, MODIFY_BIG, "big") == MODIFY_LITTLE
    assert turned_command(feature, MODIFY_LITTLE, "little") == MODIFY_BIG


def test_application_that_writes_the_readers_order_already_is_left_alone() -> None:
    assert turned_command(Feature.VERIFY_PIN_DIRECT, VERIFY_LITTLE, "big") == VERIFY_LITTLE
    assert turned_command(Feature.MODIFY_PIN_DIRECT, MODIFY_LITTLE, "big") == MODIFY_LITTLE


def test_other_features_send_and_answer_what_they_like() -> None:
    for feature in (0x02, 0x04, 0x05, 0x08, 0x0F, 0x12, 0x13, 0x20):
        assert turned_command(feature, VERIFY_BIG, "big") == VERIFY_BIG
        assert turned_answer(feature, VERIFY_BIG) == VERIFY_BIG


def test_properties() -> None:
    # wLcdLayout 0x0210: 2 lines of 16; validation 7; time-out 0
    assert turned_answer(Feature.IFD_PIN_PROPERTIES, bytes.fromhex("1002 07 00")) == bytes.fromhex("0210 07 00")
    # 16 characters, 2 lines
    assert turned_answer(Feature.IFD_DISPLAY_PROPERTIES, bytes.fromhex("1000 0200")) == bytes.fromhex("0010 0002")


def test_feature_list() -> None:
    assert control_codes(FEATURES) == {0x42330006: 0x06, 0x42330007: 0x07, 0x4233000A: 0x0A, 0x42330012: 0x12}
    assert control_codes(FEATURES[:-1]) == {0x42330006: 0x06, 0x42330007: 0x07, 0x4233000A: 0x0A}
    assert control_codes(bytes.fromhex("06 04 42330006  07 02 4233  0A 04 4233000A")) == {0x42330006: 0x06}
    assert control_codes(b"") == {}


def test_codes_mean_what_the_readers_own_driver_says() -> None:
    codes = ControlCodes()
    assert codes.command("one", 0x42330006, VERIFY_BIG, "big") == VERIFY_BIG, "nothing is known yet"
    assert codes.answer("one", GET_FEATURE_REQUEST, FEATURES) == FEATURES, "the list is big-endian everywhere"
    assert codes.command("one", 0x42330006, VERIFY_BIG, "big") == VERIFY_LITTLE
    assert codes.command("one", 0x42330007, MODIFY_BIG, "big") == MODIFY_LITTLE
    assert codes.answer("one", 0x4233000A, bytes.fromhex("10020700")) == bytes.fromhex("02100700")
    assert codes.command("two", 0x42330006, VERIFY_BIG, "big") == VERIFY_BIG, "another reader, another driver"
    codes.answer("one", GET_FEATURE_REQUEST, bytes.fromhex("07 04 42330006"))
    assert codes.command("one", 0x42330006, MODIFY_BIG, "big") == MODIFY_LITTLE, "the reader was exchanged"


@given(st.integers(0, 255), st.binary(max_size=60), st.sampled_from(ORDERS))
def test_anything_keeps_its_length_and_turning_back_undoes_it(feature: int, data: bytes, order: ByteOrder) -> None:
    turned = turned_command(feature, data, order)
    assert len(turned) == len(data)
    other: ByteOrder = "big" if order == "little" else "little"
    assert turned_command(feature, turned, other) == data or turned == data
    assert turned_answer(feature, turned_answer(feature, data)) == data


@given(st.integers(0, 0xFFFFFFFF), st.binary(max_size=264))
def test_attributes_keep_their_length_and_turning_back_undoes_it(attribute: int, value: bytes) -> None:
    assert turned_attribute(attribute, turned_attribute(attribute, value)) == value
