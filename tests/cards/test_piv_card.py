"""The card as a whole: power, classes, what is slow, and that nothing makes it fall over."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cardferry.cards import PivCard as ExportedPivCard
from cardferry.cards.piv import Algorithm, PivCard, Slot
from cardferry.cards.piv.card import ATR, MAX_COMMAND_SIZE
from cardferry.cards.piv.keys import PrivateKey, generate
from cardferry.pcsc.apdu import CommandApdu
from cardferry.pcsc.atr import Atr
from cardferry.pcsc.constants import Protocol
from cardferry.pcsc.virtual_card import VirtualCard
from tests.cards.client import PIN, Client, only
from tests.cards.conftest import GUID, SERIAL


def test_it_is_a_virtual_card(card: PivCard) -> None:
    virtual: VirtualCard = card
    assert virtual.atr == virtual.power_on() == virtual.reset() == ATR
    assert ExportedPivCard is PivCard


def test_the_answer_to_reset() -> None:
    atr = Atr.parse(ATR)
    assert atr.protocols == Protocol.T1
    assert atr.specific is None
    assert atr.checksum_valid
    assert ATR[-1] == atr.checksum
    # compact-TLV: category indicator, application identifier with the 11 bytes of PIV's
    assert atr.historical == bytes.fromhex("80FBA000000308000010000100")
    # OpenSC takes 3B 8x 80 01 for a contactless card, with all its restrictions
    assert ATR[:3] == bytes.fromhex("3B9D13")


def test_without_power_there_is_no_answer(card: PivCard) -> None:
    assert card.process(bytes.fromhex("00A4040005A000000308")) == b"\x6f\x00"
    card.power_on()
    assert card.process(bytes.fromhex("00A4040005A000000308")).endswith(b"\x90\x00")
    card.power_off()
    assert card.process(bytes.fromhex("00A4040005A000000308")) == b"\x6f\x00"


def test_apdus_are_counted(client: Client) -> None:
    assert client.card.processed == 0
    client.hex("00FD000000")
    client.hex("00")
    assert client.card.processed == 2


@pytest.mark.parametrize(
    ("apdu", "status"),
    [
        ("", "6700"),
        ("00", "6700"),
        ("00A404", "6700"),
        ("00A4040000", "6A82"),
        ("00A4040005A0", "6700"),
        ("80FD000000", "6E00"),
        ("20FD000000", "6E00"),
        ("FFCA000000", "6E00"),
        ("04FD000000", "6882"),
        ("60FD000000", "6882"),
        ("01FD000000", "6881"),
        ("40FD000000", "6881"),
        ("0001000000", "6D00"),
        ("00C0000000", "6985"),
        ("00C00000", "6D00"),
    ],
)
def test_what_the_card_does_not_do(client: Client, apdu: str, status: str) -> None:
    assert client.hex(apdu) == status


def test_reset_forgets_half_a_command_and_half_a_response(client: Client) -> None:
    assert client.hex("10CB3FFF015C") == "9000"
    client.card.reset()
    assert client.hex("00CB3FFF02017E00") == "6A80"
    assert client.hex("00CB3FFF055C035FC10510")[-4:-2] == "61"
    client.card.reset()
    assert client.hex("00C0000000") == "6985"


def test_a_command_in_between_drops_the_rest_of_a_response(client: Client) -> None:
    assert client.hex("00CB3FFF055C035FC10510")[-4:-2] == "61"
    assert client.hex("00FD000000") == "0504039000"
    assert client.hex("00C0000000") == "6985"


def test_commands_in_tiny_pieces(client: Client) -> None:
    for piece in ("10CB3FFF015C", "10CB3FFF0103", "10CB3FFF025FC1"):
        assert client.hex(piece) == "9000"
    assert client.hex("00CB3FFF010C00") == "5308C10100C20100FE009000"


def test_a_command_has_a_limit(client: Client) -> None:
    piece = CommandApdu(0x10, 0xDB, 0x3F, 0xFF, bytes(MAX_COMMAND_SIZE - 1))
    assert client.transmit(piece).status == 0x9000
    assert client.hex("00DB3FFF020000") == "6A84"


def test_an_extended_command_gets_its_answer_whole(client: Client) -> None:
    whole = client.hex("00CB3FFF 00 0005 5C035FC105 0000")
    assert whole.endswith("9000")
    assert len(whole) > 2 * 258
    in_two = client.hex("00CB3FFF 00 0005 5C035FC105 0100")
    assert in_two[:512] == whole[:512]
    assert in_two[512:514] == "61"
    assert in_two[:512] + client.hex("00C0000000") == whole


def test_personalised_cards_differ() -> None:
    first, second = PivCard.personalised(), PivCard.personalised()
    assert first.contents.guid != second.contents.guid
    assert first.contents.keys[Slot.SIGNATURE].private is not second.contents.keys[Slot.SIGNATURE].private


def test_personalised_cards_can_be_made_alike(rsa_key: PrivateKey) -> None:
    keys = {slot: generate(Algorithm.P256) for slot in (0x9A, 0x9D, 0x9E)} | {0x9C: rsa_key}
    wanted = {Slot(slot): key for slot, key in keys.items()}
    first = PivCard.personalised(serial=SERIAL, guid=GUID, keys=wanted)
    certificates = {
        slot: only(only(Client(first).get(tag).data, 0x53)[:-5], 0x70)
        for slot, tag in ((Slot.AUTHENTICATION, "5FC105"), (Slot.SIGNATURE, "5FC10A"))
    }
    second = PivCard.personalised(serial=SERIAL, guid=GUID, keys=wanted, certificates=certificates)
    one, two = Client(first), Client(second)
    for tag in ("5FC102", "5FC105", "5FC107", "5FC10A", "7E"):
        assert one.get(tag) == two.get(tag)
    assert one.verify() == two.verify() == 0x9000


def test_rsa_for_signatures() -> None:
    start = datetime(2020, 1, 1, tzinfo=UTC)
    card = PivCard.personalised(rsa=True, not_before=start)
    algorithms = {slot: key.algorithm for slot, key in card.contents.keys.items()}
    assert algorithms == {
        Slot.AUTHENTICATION: Algorithm.P256,
        Slot.SIGNATURE: Algorithm.RSA2048,
        Slot.KEY_MANAGEMENT: Algorithm.P256,
        Slot.CARD_AUTHENTICATION: Algorithm.P256,
    }
    der = only(only(Client(card).get("5FC10A").data, 0x53)[:-5], 0x70)
    assert x509.load_der_x509_certificate(der).not_valid_before_utc == start


@pytest.mark.parametrize("serial", [-1, 2**32])
def test_a_serial_number_has_32_bits(serial: int) -> None:
    with pytest.raises(ValueError, match="32 bits"):
        PivCard.personalised(serial=serial)


RSA_CHALLENGE = "7C820106 8200 81820100" + "00" * 256


@pytest.mark.parametrize(
    ("apdu", "slow"),
    [
        ("0087079C 00 010A" + RSA_CHALLENGE + "0000", True),
        ("1087079CFF" + "00" * 255, False),  # more is to come
        ("0087079C00", True),
        ("0087119A00", False),
        ("0087079A00", False),
        ("0087079200", False),
        ("0087039B047C028100", False),
        ("0047009A05AC03800107", True),
        ("0047009A05AC03800105", True),
        ("0047009A05AC03800111", False),
        ("0047009A05AC03800103", False),
        ("0047009A00", False),
        ("00FE079A01AA", True),
        ("00FE119A01AA", False),
        ("00CB3FFF035C017E00", False),
        ("", False),
        ("00A404", False),
    ],
)
def test_what_is_slow(rsa_card: PivCard, apdu: str, slow: bool) -> None:
    rsa_card.power_on()
    assert rsa_card.slow(bytes.fromhex(apdu)) is slow


def test_the_last_piece_is_slow(rsa_card: PivCard) -> None:
    rsa_card.power_on()
    first, last = bytes.fromhex("1047009A03AC0380"), bytes.fromhex("0047009A020107")
    assert not rsa_card.slow(first)
    assert not rsa_card.slow(last)
    rsa_card.process(first)
    assert rsa_card.slow(last)
    assert rsa_card.process(last) == b"\x69\x82"


def test_asking_whether_it_is_slow_changes_nothing(client: Client) -> None:
    assert client.hex("10CB3FFF015C") == "9000"
    for _ in range(2):
        assert not client.card.slow(bytes.fromhex("00CB3FFF02017E00"))
    assert client.hex("00CB3FFF02017E00").endswith("9000")


INSTRUCTIONS = [0x20, 0x24, 0x2C, 0x47, 0x87, 0xA4, 0xC0, 0xCB, 0xDB, 0xF7, 0xF8, 0xFA, 0xFB, 0xFD, 0xFE, 0xFF]
#: Fragments that get further than random bytes do.
FRAGMENTS = [
    PIN,
    b"12345678",
    bytes.fromhex("A000000308"),
    bytes.fromhex("5C035FC105"),
    bytes.fromhex("5C017E"),
    bytes.fromhex("5303AABBCC"),
    bytes.fromhex("7C028000"),
    bytes.fromhex("7C028100"),
    bytes.fromhex("7C058200810101"),
    bytes.fromhex("7C24820081 20") + bytes(32),
    bytes.fromhex("AC03800111"),
    bytes.fromhex("0620") + bytes(31) + b"\x07",
    bytes.fromhex("039B18") + bytes(24),
]
COMMANDS = st.builds(
    CommandApdu,
    cla=st.sampled_from([0x00, 0x10, 0x00, 0x00, 0x80, 0x0C]),
    ins=st.one_of(st.sampled_from(INSTRUCTIONS), st.integers(0, 255)),
    p1=st.one_of(st.sampled_from([0x00, 0x04, 0x3F, 0x03, 0x11, 0xFF]), st.integers(0, 255)),
    p2=st.one_of(st.sampled_from([0x00, 0x80, 0x81, 0xFF, 0x9A, 0x9B, 0x9C, 0x9E]), st.integers(0, 255)),
    data=st.one_of(st.binary(max_size=300), st.lists(st.sampled_from(FRAGMENTS), max_size=3).map(b"".join)),
    ne=st.sampled_from([0, 1, 16, 256, 65536]),
    extended=st.booleans(),
).filter(lambda command: not (command.ins == 0x47 and b"\x80\x01\x05" in command.data))


@given(st.lists(st.one_of(COMMANDS.map(CommandApdu.encode), st.binary(max_size=40)), max_size=12), st.booleans())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_get_an_answer(apdus: list[bytes], administrator: bool) -> None:
    card = PivCard.personalised(serial=SERIAL, guid=GUID)
    client = Client(card)
    if administrator:
        assert client.administrator() == 0x9000
        assert client.verify() == 0x9000
    for apdu in apdus:
        assert isinstance(card.slow(apdu), bool)
        response = card.process(apdu)
        assert len(response) >= 2
        assert response[-2] in range(0x60, 0x70) or response[-2:] == b"\x90\x00"


@given(st.binary(max_size=70000))
@settings(max_examples=50)
def test_the_longest_bytes_get_an_answer(apdu: bytes) -> None:
    card = PivCard(None)
    card.power_on()
    assert len(card.process(apdu)) >= 2
