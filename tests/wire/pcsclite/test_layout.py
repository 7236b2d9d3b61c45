"""Names, reader records and state arrays."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardferry.pcsc.constants import CardState, Protocol
from cardferry.pcsc.reader_state import ReaderState
from cardferry.wire.errors import WireError
from cardferry.wire.pcsclite.layout import (
    ByteOrder,
    Dialect,
    compiled,
    decode_name,
    encode_name,
    layout_of,
)
from tests.wire.pcsclite.vectors import OLD_ARRAY, READERS, RECORDS, wire

little = compiled("little", 128)


@pytest.mark.parametrize(
    ("byte_order", "minor", "name_size", "slots", "words"),
    [
        ("middle", 6, 128, 16, "little or big"),
        ("little", 1, 128, 16, "4:1"),
        ("little", 7, 128, 16, "4:7"),
        ("little", 6, 64, 16, "100 or 128"),
        ("little", 6, 128, 0, "one slot"),
    ],
)
def test_dialect_that_nobody_speaks(byte_order: ByteOrder, minor: int, name_size: int, slots: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Dialect(byte_order, minor, name_size, slots)


def test_layouts_are_compiled_once() -> None:
    assert layout_of(Dialect("big", 4)) is layout_of(Dialect("big", 6, slots=48))
    assert layout_of(Dialect("big")) is not layout_of(Dialect("little"))
    assert layout_of(Dialect("big")) is not layout_of(Dialect("big", 2, 100))


# Names


@pytest.mark.parametrize(
    ("name", "size", "raw"),
    [
        ("", 128, b""),
        ("ACS ACR122U 00 00", 128, b"ACS ACR122U 00 00"),
        ("x" * 127, 128, b"x" * 127),
        # A name that is too long: its beginning, digits of its SHA-256, pcscd's numbers.
        ("x" * 128, 128, b"x" * 118 + b"~24da1b81"),
        ("x" * 200, 100, b"x" * 90 + b"~aa20c23e"),
        ("x" * 122 + " 00 01", 128, b"x" * 112 + b"~8c77ec5d 00 01"),
        # The 118th byte would be the first of two: the character goes as a whole.
        ("x" * 117 + "é" * 9, 128, b"x" * 117 + b"~4b35bf4c"),
        ("x" * 125 + "é", 128, b"x" * 125 + b"\xc3\xa9"),
        ("x" * 115 + "\N{SNOWMAN}" * 9, 128, b"x" * 115 + b"\xe2\x98\x83~0004ae44"),
        ("Kartenleser f\udcfcr B\udcfcros 00 00", 128, b"Kartenleser f\xfcr B\xfcros 00 00"),
        ("\udcfc" * 130 + " 00 01", 128, b"\xfc" * 112 + b"~9f51c407 00 01"),
        ("no byte \ud800", 128, b"no byte ?"),
    ],
)
def test_encoded_name(name: str, size: int, raw: bytes) -> None:
    assert encode_name(name, size) == raw


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b"\0" * 128, ""),
        (b"Reader\0rubbish\xff", "Reader"),
        (b"x" * 128, "x" * 128),
        ("Lesegerät 00 00".encode().ljust(128, b"\0"), "Lesegerät 00 00"),
        ("Lesegerät 00 00".encode("latin-1"), "Leseger\udce4t 00 00"),
        (b"cut \xe2\x98", "cut \udce2\udc98"),
    ],
)
def test_decoded_name(raw: bytes, name: str) -> None:
    assert decode_name(raw) == name


@given(st.text(st.characters(exclude_characters="\0", codec="utf-8")), st.sampled_from([100, 128]))
def test_any_name_fits_and_is_whole_text(name: str, size: int) -> None:
    raw = encode_name(name, size)
    assert len(raw) < size
    raw.decode()
    whole = name.encode("utf-8", "replace")
    assert raw == whole or whole.startswith(raw.rpartition(b"~")[0])


@given(st.sets(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8), min_size=2, max_size=9))
def test_long_names_do_not_become_equal(ends: set[str]) -> None:
    for size in (100, 128):
        assert len({encode_name("Reader " * 20 + end + " 00 00", size) for end in ends}) == len(ends)


@given(st.binary(max_size=127))
def test_any_bytes_pass_through_unchanged(raw: bytes) -> None:
    assert encode_name(decode_name(raw), 128) == raw.partition(b"\0")[0]


@given(st.binary(max_size=300).map(lambda raw: raw.replace(b"\0", b"x")))
def test_any_bytes_are_shortened_to_what_fits(raw: bytes) -> None:
    short = encode_name(decode_name(raw), 100)
    assert short == raw or (len(short) < 100 and raw.startswith(short.rpartition(b"~")[0]))


# Records


def test_atr_never_exceeds_its_field() -> None:
    """A client copies the announced number of bytes into 33 without a look."""
    record = little.encode_reader(ReaderState("R", atr=bytes(range(1, 60))))
    assert record[140:173] == bytes(range(1, 34))
    assert record[176:180] == wire("21000000")


def test_numbers_that_have_grown_too_large_wrap() -> None:
    record = little.encode_reader(ReaderState("R", event_counter=0x1_0000_0001, state=CardState(0x1_0000_0004)))
    assert record[128:136] == wire("01000000 04000000")


def test_empty_slots_are_zero() -> None:
    array = little.encode_array(READERS, 16)
    assert array[2 * 184 :] == bytes(14 * 184)


def test_readers_beyond_the_last_slot_are_left_out() -> None:
    assert little.encode_array(READERS, 1) == little.encode_reader(READERS[0])


def test_empty_slots_of_pcscd_are_left_out() -> None:
    """pcscd up to 2.4 leaves an ATR length of 34 in a slot that was never used."""
    unused = "00*176 22000000 00000000"
    assert little.decode_array(wire(unused, RECORDS[0], unused)) == READERS


def test_atr_of_a_reader_that_is_still_starting_is_empty() -> None:
    raw = wire("'R'/128 00000000 04000000 00000000 ff*33 000000 22000000 00000000")
    assert little.decode_array(raw) == (ReaderState("R", state=CardState.PRESENT),)


def test_atr_of_full_length() -> None:
    raw = wire("'R'/128 00000000 34000000 03000000 3b*33 000000 21000000 01000000")
    [reader] = little.decode_array(raw)
    assert reader.atr == b"\x3b" * 33
    assert reader.sharing == 3
    assert reader.protocol is Protocol.T0


def test_atr_longer_than_any_atr_is_refused() -> None:
    raw = wire("'R'/128 00000000 34000000 00000000 3b*33 000000 23000000 01000000")
    with pytest.raises(WireError, match="35 bytes"):
        little.decode_array(raw)


def test_unknown_bits_are_kept() -> None:
    raw = wire("'R'/128 00000000 00010080 00000000 00*33 000000 00000000 00000100")
    [reader] = little.decode_array(raw)
    assert reader.state == 0x80000100
    assert reader.protocol == 0x10000


readers = st.builds(
    ReaderState,
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=24),
    st.integers(0, 65535),
    st.integers(0, 127).map(CardState),
    st.integers(-1, 200),
    st.binary(max_size=33),
    st.integers(0, 15).map(Protocol),
)


@given(st.lists(readers, max_size=20), st.sampled_from(["little", "big"]), st.sampled_from([100, 128]))
def test_arrays_come_back(states: list[ReaderState], byte_order: ByteOrder, name_size: int) -> None:
    layout = compiled(byte_order, name_size)
    array = layout.encode_array(states, 20)
    assert len(array) == 20 * (name_size + 56)
    assert layout.decode_array(array) == tuple(states)


# What is remembered


def test_the_same_snapshot_is_encoded_once() -> None:
    snapshot = (ReaderState("once"),)
    first = little.encode_array(snapshot, 16)
    assert little.encode_array(snapshot, 16) is first
    assert little.encode_array(snapshot, 18) != first
    # Equal, but another one.
    other = little.encode_array((ReaderState("once"),), 16)
    assert other == first
    assert other is not first


def test_a_list_may_change_between_two_replies() -> None:
    states = [ReaderState("before")]
    first = little.encode_array(states, 16)
    states[0] = ReaderState("after")
    assert little.encode_array(states, 16) != first


def test_a_snapshot_that_is_gone_is_not_mistaken_for_its_successor() -> None:
    """Many short-lived tuples: an id that comes back must not bring the old bytes with it."""
    for number in range(200):
        snapshot = (ReaderState(f"Reader {number}"),)
        assert little.encode_array(snapshot, 16).startswith(f"Reader {number}\0".encode())
        del snapshot
        gc.collect(0)


def test_the_same_bytes_are_decoded_once() -> None:
    old = compiled("little", 100)
    first = old.decode_array(wire(OLD_ARRAY[0]))
    assert old.decode_array(wire(OLD_ARRAY[0])) is first
    assert old.decode_array(bytes(156)) == ()
    assert old.decode_array(wire(OLD_ARRAY[0])) == READERS
