"""What programs ask a pinpad for, as OpenSC, scdaemon and others do, and the command that the card gets."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardferry.policy.pin.entry import (
    PROPERTIES_CODE,
    VERIFY_CODE,
    PinEntry,
    with_pinpad,
)


def asked(form: int, block: int, length: int, template: str, least: int = 4, most: int = 8) -> bytes:
    """The structure, field by field (PC/SC part 10, 2.5.2)."""
    raw = bytes.fromhex(template)
    head = bytes((30, 30, form, block, length, most, least, 2, 1)) + b"\x09\x04" + b"\x00" + b"\x00\x00\x00"
    return head + struct.pack("<I", len(raw)) + raw


@pytest.mark.parametrize(
    ("entry", "pin", "command"),
    [
        # OpenSC, a PIV card: ASCII, padded to eight bytes
        (asked(0x82, 0x08, 0x00, "0020008008FFFFFFFFFFFFFFFF"), "123456", "0020008008313233343536FFFF"),
        # OpenSC and scdaemon, an OpenPGP card: ASCII, as long as it is
        (asked(0x82, 0x00, 0x00, "0020008100", most=0), "123456", "0020008106313233343536"),
        (asked(0x82, 0x00, 0x00, "00200081"), "123456", "0020008106313233343536"),
        # BCD from the second byte on, its length in the second half of the first (a "format 2 PIN block")
        (asked(0x89, 0x47, 0x04, "002000010820FFFFFFFFFFFFFF"), "1234", "0020000108241234FFFFFFFFFF"),
        (asked(0x89, 0x47, 0x04, "002000010820FFFFFFFFFFFFFF"), "12345", "002000010825 12345FFFFFFFFF"),
        # to the right, with zeros before it
        (asked(0x86, 0x08, 0x00, "00200001080000000000000000"), "1234", "00200001080000000031323334"),
        # digits as numbers
        (asked(0x80, 0x00, 0x00, "0020000100"), "1234", "002000010401020304"),
        # its length in the first byte
        (asked(0x8A, 0x88, 0x10, "0020000109" + "00" + "FF" * 8), "1234", "00200001090431323334FFFFFFFF"),
    ],
)
def test_where_the_pin_goes(entry: bytes, pin: str, command: str) -> None:
    assert PinEntry.parse(entry).command(bytearray(pin.encode())) == bytes.fromhex(command)


def to_change(
    confirm: int, old: int, new: int, template: str, form: int = 0x82, block: int = 0, length: int = 0
) -> bytes:
    """The structure PIN_MODIFY, field by field (PC/SC part 10, 2.5.3)."""
    raw = bytes.fromhex(template)
    head = bytes((30, 30, form, block, length, old, new, 8, 4, confirm, 2, 3)) + b"\x09\x04" + bytes(3) + bytes(3)
    return head + struct.pack("<I", len(raw)) + raw


@pytest.mark.parametrize(
    ("entry", "command"),
    [
        # OpenSC, a PIV card: both in eight bytes
        (to_change(3, 0, 8, "0024008010" + "FF" * 16, block=8), "0024008010 313233343536FFFF 3837363534FFFFFF"),
        # scdaemon, and OpenSC with an OpenPGP card: one behind the other
        (to_change(3, 0, 0, "00240081"), "002400810B 313233343536 3837363534"),
        (to_change(3, 0, 0, "0024008100"), "002400810B 313233343536 3837363534"),
        # the new one alone
        (to_change(1, 0, 0, "0024018100"), "0024018105 3837363534"),
        # two "format 2 PIN blocks"
        (
            to_change(3, 0, 8, "0024000110" + ("20" + "FF" * 7) * 2, 0x89, 0x47, 0x04),
            "0024000110 26123456FFFFFFFF 2587654FFFFFFFFF",
        ),
    ],
)
def test_where_two_pins_go(entry: bytes, command: str) -> None:
    parsed = PinEntry.parse(entry, changes=True)
    assert parsed.command(bytearray(b"123456"), bytearray(b"87654")) == bytes.fromhex(command)
    assert (parsed.patience, parsed.twice) == (30, True)


@pytest.mark.parametrize(
    "data", [b"", bytes(22), asked(0x83, 0, 0, "0020008000"), asked(0x82, 0, 0, "0020008000") + b"x"]
)
def test_what_is_none(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"short|cannot be"):
        PinEntry.parse(data)


@given(st.binary(max_size=40), st.text("0123456789", max_size=20))
def test_any_bytes_are_an_entry_or_an_error(data: bytes, pin: str) -> None:
    with suppress(ValueError):
        PinEntry.parse(data, changes=True).command(bytearray(pin.encode()), bytearray(pin.encode()))
    try:
        command = PinEntry.parse(data).command(bytearray(pin.encode()))
    except ValueError:
        return
    assert command[:4] == data[19:23]
    assert command[4] == len(command) - 5


@given(st.text("0123456789", min_size=4, max_size=8))
def test_no_two_pins_become_one_command(pin: str) -> None:
    entry = PinEntry.parse(asked(0x82, 0x08, 0x00, "0020008008" + "FF" * 8))
    assert entry.command(bytearray(pin.encode()))[5:].rstrip(b"\xff").decode() == pin


@pytest.mark.parametrize(
    ("form", "pin", "fits"),
    [
        (0x82, "1234", True),
        (0x82, "123", False),
        (0x82, "123456789", False),
        (0x82, "abcd", True),
        (0x81, "abcd", False),
    ],
)
def test_size(form: int, pin: str, fits: bool) -> None:
    assert PinEntry.parse(asked(form, 8, 0, "0020008000")).fits(bytearray(pin.encode())) is fits


def test_the_readers_other_features_stay() -> None:
    own = bytes.fromhex("06 04 42330006 0A 04 4233000A 13 04 42330013 12 04 42330012")
    found = with_pinpad(own, changes=False)
    features = {found[at]: int.from_bytes(found[at + 2 : at + 6], "big") for at in range(0, len(found), 6)}
    assert features == {0x13: 0x42330013, 0x06: VERIFY_CODE, 0x12: PROPERTIES_CODE}
