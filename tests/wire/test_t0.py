"""T=0 towards a reader for a card of T=1. Cases and procedures: ISO/IEC 7816-3:2006, 12.2."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardferry.pcsc.atr import Atr
from cardferry.pcsc.constants import Protocol
from cardferry.wire.t0 import Command, T0Adapter, t0_atr

#: Historical bytes.
PIV = "80 fb a0 00 00 03 08 00 00 10 00 01 00"

Card = Callable[[bytes], bytes]


def exchange(adapter: T0Adapter, tpdu: str, card: Card) -> str:
    """What the reader gets for what it sends."""
    step = adapter.take(bytes.fromhex(tpdu))
    while isinstance(step, Command):
        step = adapter.answer(card(step.apdu))
    return step.hex(" ")


def says(answers: dict[str, str]) -> Card:
    """A card that knows these whole commands and no others."""
    return lambda apdu: bytes.fromhex(answers[apdu.hex(" ")])


@pytest.mark.parametrize(
    ("tpdu", "apdu"),
    [
        ("00 a4 04 00 02 3f 00", "00 a4 04 00 02 3f 00 00"),  # SELECT: may tell something
        ("00 ca 00 6e 00", "00 ca 00 6e 00"),  # GET DATA, any length
        ("00 ca 00 6e 10", "00 ca 00 6e 10"),
        ("00 20 00 80 04 31 32 33 34", "00 20 00 80 04 31 32 33 34"),  # VERIFY: a card may not like an Le there
        ("00 20 00 80 00", "00 20 00 80"),  # how many tries are left: T=0 cannot say that nothing is wanted
        ("00 20 00 80", "00 20 00 80"),
        ("10 87 11 9a 02 7c 00", "10 87 11 9a 02 7c 00"),  # more of the chain comes
        ("00 87 11 9a 02 7c 00", "00 87 11 9a 02 7c 00 00"),
        ("00 cb 3f ff 01 7e 00", "00 cb 3f ff 01 7e 00"),  # with Le, as for T=1
        ("00 db 3f ff 01 7e 10", "00 db 3f ff 01 7e"),
    ],
)
def test_commands_are_made_whole(tpdu: str, apdu: str) -> None:
    assert exchange(T0Adapter(), tpdu, says({apdu: "90 00"})) == "90 00"


def test_a_response_to_a_command_with_data_is_fetched() -> None:
    adapter = T0Adapter()
    card = says({"00 cb 3f ff 01 7e 00": "01 02 03 90 00"})
    assert exchange(adapter, "00 cb 3f ff 01 7e", card) == "61 03"
    assert exchange(adapter, "00 c0 00 00 02", card) == "01 02 61 01"
    assert exchange(adapter, "00 c0 00 00 00", card) == "03 90 00"


def test_a_long_one_in_parts_and_the_cards_own_rest_from_the_card() -> None:
    adapter, data = T0Adapter(), bytes(range(256)) + b"\x61\x05"
    card = says({"00 cb 3f ff 01 7e 00": data.hex(), "00 c0 00 00 05": "0102030405 9000"})
    assert exchange(adapter, "00 cb 3f ff 01 7e", card) == "61 00"
    assert exchange(adapter, "00 c0 00 00 00", card) == data.hex(" ")
    assert exchange(adapter, "00 c0 00 00 05", card) == "01 02 03 04 05 90 00"


def test_a_card_of_t0_answers_by_itself() -> None:
    adapter = T0Adapter()
    for tpdu, response in (("00a4040001 02", "61 05"), ("00c0000005", "0102030405 9000"), ("00ca006e00", "6c 03")):
        step = adapter.take(bytes.fromhex(tpdu))
        assert isinstance(step, Command)
        assert step.tpdu == bytes.fromhex(tpdu)
        assert adapter.answer(bytes.fromhex(response)) == bytes.fromhex(response)


def test_another_command_forgets_the_rest() -> None:
    adapter = T0Adapter()
    card = says({"00 cb 3f ff 01 7e 00": "0102 9000", "00 ca 00 00 00": "6a82", "00 c0 00 00 02": "6d00"})
    assert exchange(adapter, "00 cb 3f ff 01 7e", card) == "61 02"
    assert exchange(adapter, "00 ca 00 00 00", card) == "6a 82"
    assert exchange(adapter, "00 c0 00 00 02", card) == "6d 00"


def test_a_card_that_wants_no_le_is_asked_without_once() -> None:
    card = says({"80 50 00 00 01 07 00": "6700", "80 50 00 00 01 07": "9000"})
    assert exchange(T0Adapter(), "80 50 00 00 01 07", card) == "90 00"
    card = says({"80 50 00 00 01 07 00": "6700", "80 50 00 00 01 07": "6700"})
    assert exchange(T0Adapter(), "80 50 00 00 01 07", card) == "67 00"


@pytest.mark.parametrize("tpdu", ["", "00", "00 a4 04", "00 a4 04 00 02 3f", "00 a4 04 00 02 3f 00 00 00"])
def test_what_is_no_tpdu_comes_not_to_the_card(tpdu: str) -> None:
    assert exchange(T0Adapter(), tpdu, says({})) == "67 00"


@given(st.lists(st.tuples(st.binary(max_size=12), st.binary(min_size=0, max_size=600)), max_size=6))
def test_any_bytes_get_an_answer_that_fits_in_a_tpdu(steps: list[tuple[bytes, bytes]]) -> None:
    adapter = T0Adapter()
    for tpdu, response in steps:
        step = adapter.take(tpdu)
        for _ in range(2):
            if isinstance(step, Command):
                step = adapter.answer(response)
        assert isinstance(step, bytes)
        assert len(step) <= 258


def _accepts(atr: bytes) -> bool:
    """Whether QEMU takes it (``check_atr`` of its ``ccid-card-passthru.c``), which reads TD(i+1) at TD(i) + 1."""
    optional, seen, announced = 0, 0, atr[1] >> 4
    while announced and seen < 2 and optional + (atr[1] & 15) + 2 < len(atr):
        seen += 1
        for bit in (1, 2, 4, 8):
            optional += bool(announced & bit)
        if announced & 8:
            announced = atr[optional + 2] >> 4 if optional + 2 < len(atr) else 0
    return len(atr) >= 2 + (atr[1] & 15) + optional


@pytest.mark.parametrize(
    ("card", "reader"),
    [
        ("3b 9d 13 81 31 fe 15 80 fb a0 00 00 03 08 00 00 10 00 01 00 14", f"3b 8d 40 8f {PIV}"),
        ("3b 80 01 01", "3b 80 40 8f"),
        ("3b 80 80 01 01", "3b 80 80 01 01"),  # T=0 comes first
        ("3b 02 14 50", "3b 02 14 50"),  # of T=0 already
        ("3b", "3b"),
    ],
)
def test_answers_to_reset(card: str, reader: str) -> None:
    raw = t0_atr(bytes.fromhex(card))
    assert raw == bytes.fromhex(reader)
    if len(raw) > 1:
        assert Atr.parse(raw).default is Protocol.T0


@given(st.binary(max_size=15))
def test_whatever_a_card_of_t1_says_of_itself_qemu_takes_it(historical: bytes) -> None:
    card = bytes((0x3B, 0x80 | len(historical), 0x01)) + historical + b"\x00"
    raw = t0_atr(card)
    assert Atr.parse(raw).historical == historical
    assert _accepts(raw)
