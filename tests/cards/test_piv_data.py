"""SELECT, GET DATA, PUT DATA and what a new card holds (SP 800-73-5 part 1, 3; part 2, 3.1 and 3.3.1)."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from cardferry.cards.piv import Algorithm, PivCard, Slot
from cardferry.cards.piv.certificates import self_signed
from cardferry.cards.piv.keys import generate
from cardferry.cards.piv.objects import (
    MAX_OBJECT_SIZE,
    MAX_TOTAL_SIZE,
    ObjectStore,
    certificate_object,
    fasc_n,
    initial_objects,
)
from cardferry.pcsc import tlv
from tests.cards.client import Client, Lengths, only
from tests.cards.conftest import GUID, SERIAL

PROPERTIES = "61204F0600001000010079074F05A000000308500D" + b"cardferry PIV".hex().upper() + "9000"
CERTIFICATES = {
    Slot.CARD_AUTHENTICATION: "5FC101",
    Slot.AUTHENTICATION: "5FC105",
    Slot.SIGNATURE: "5FC10A",
    Slot.KEY_MANAGEMENT: "5FC10B",
    Slot.RETIRED_1: "5FC10D",
    Slot.RETIRED_20: "5FC120",
}


@pytest.mark.parametrize(
    "apdu",
    [
        "00A404000BA00000030800001000010000",  # the whole identifier
        "00A4040009A0000003080000100000",  # without its version, SP 800-73-5 part 1, 2.2
        "00A4040005A00000030800",  # the provider only, as yubico-piv-tool does
        "00A4040005A000000308",  # and without Le
    ],
)
def test_select_by_identifier(client: Client, apdu: str) -> None:
    assert client.hex(apdu) == PROPERTIES


@pytest.mark.parametrize(
    "identifier",
    [
        "A000000527471117",  # Yubico's management
        "D27600012401",  # OpenPGP
        "A0000003",  # cut too short
        "A00000030800001000010000",  # too long
        "A0000003080000200001",  # another of NIST's
        "",
    ],
)
def test_other_applications_are_not_there_and_change_nothing(client: Client, identifier: str) -> None:
    assert client.verify() == 0x9000
    size = len(identifier) // 2
    apdu = f"00A40400{size:02X}{identifier}" if size else "00A40400"
    assert client.hex(apdu) == "6A82"
    assert client.tries() == 0x9000
    assert client.get("7E").status == 0x9000


def test_selecting_again_keeps_the_log_in(client: Client) -> None:
    assert client.verify() == 0x9000
    assert client.administrator() == 0x9000
    assert client.hex("00A4040005A000000308") == PROPERTIES
    assert client.tries() == 0x9000
    assert client.put("5FC109", b"\xfe\x00") == 0x9000


@pytest.mark.parametrize("apdu", ["00A40000023F00", "00A4040C05A000000308", "00A40800023F00"])
def test_other_ways_to_select_are_not_there(client: Client, apdu: str) -> None:
    assert client.hex(apdu) == "6A86"


def test_piv_is_selected_from_the_start(client: Client) -> None:
    assert client.get("7E").status == 0x9000


def test_the_discovery_object(client: Client) -> None:
    # SP 800-73-4 part 1, 3.3.2, with a PIN usage policy of 40 00
    assert client.hex("00CB3FFF035C017E00") == "7E124F0BA0000003080000100001005F2F0240009000"


def test_the_cardholder_unique_identifier(client: Client) -> None:
    response = client.get("5FC102")
    assert response.status == 0x9000
    objects = tlv.parse_map(only(response.data, 0x53))
    assert list(objects) == [0x30, 0x34, 0x35, 0x3E, 0xFE]
    assert len(objects[0x30]) == 25
    assert objects[0x34] == GUID.bytes
    assert objects[0x35] == b"20991231"


def test_a_fasc_n_byte_by_byte() -> None:
    # agency 9999, system 9999, credential 999999, series 0, issue 1, person 0000000000, category 1,
    # organisation 0000, association 1: written out as PACS 2.3, table 6 codes characters
    five = {"0": "00001", "1": "10000", "9": "10011", "S": "11010", "F": "10110", "E": "11111"}
    text = "S9999F9999F999999F0F1F0000000000" + "1" + "0000" + "1" + "E"
    checked = [sum(int(five[each][bit]) for each in text) % 2 for bit in range(4)]
    check = "".join(map(str, checked)) + str(1 - sum(checked) % 2)
    bits = "".join(five[each] for each in text) + check
    assert len(bits) == 200
    assert fasc_n(0) == int(bits, 2).to_bytes(25, "big")
    # what OpenSC looks for to know a card of no federal agency
    assert fasc_n(SERIAL)[:4] == bytes.fromhex("D4E739DA")
    assert fasc_n(0) != fasc_n(1)


def test_the_card_capability_container(client: Client) -> None:
    objects = tlv.parse(only(client.get("5FC107").data, 0x53))
    assert [each.tag for each in objects] == [
        *range(0xF0, 0xF8),
        *range(0xFA, 0xFF),
    ]
    assert len(objects[0].value) == 21
    assert objects[0].value.startswith(bytes.fromhex("A000000116FF02"))


def test_the_key_history(client: Client) -> None:
    assert client.hex("00CB3FFF055C035FC10C00") == "5308C10100C20100FE009000"


def test_printed_information_needs_the_pin(client: Client) -> None:
    assert client.get("5FC109").status == 0x6982
    assert client.verify() == 0x9000
    response = client.get("5FC109")
    assert response.status == 0x9000
    assert tlv.parse_map(only(response.data, 0x53))[0x01] == b"cardferry"


@pytest.mark.parametrize("tag", ["5FC103", "5FC108", "5FC109", "5FC121", "5FC123"])
def test_protected_objects(tag: str) -> None:
    client = Client(PivCard())
    assert client.administrator() == 0x9000
    assert client.put(tag, b"secret") == 0x9000
    assert client.get(tag).status == 0x6982
    assert client.verify() == 0x9000
    assert client.get(tag).data == b"\x53\x06secret"
    assert client.status(0x20, 0xFF, 0x80) == 0x9000
    assert client.get(tag).status == 0x6982


@pytest.mark.parametrize("slot", CERTIFICATES)
def test_certificates_belong_to_their_slots(slot: Slot) -> None:
    key = generate(Algorithm.P256)
    client = Client(PivCard.personalised(keys={slot: key}, holder="Ada"))
    response = client.get(CERTIFICATES[slot])
    assert response.status == 0x9000
    content = tlv.parse(only(response.data, 0x53))
    assert [each.tag for each in content] == [0x70, 0x71, 0xFE]
    assert (content[1].value, content[2].value) == (b"\0", b"")
    certificate = x509.load_der_x509_certificate(content[0].value)
    assert certificate.public_key() == key.public_key()
    certificate.verify_directly_issued_by(certificate)
    assert certificate_object(slot) == int(CERTIFICATES[slot], 16)


def test_what_certificates_say() -> None:
    key = generate(Algorithm.P384)
    certificate = x509.load_der_x509_certificate(self_signed(key, Slot.SIGNATURE, "Ada"))
    assert certificate.subject == certificate.issuer
    assert certificate.subject.rfc4514_string() == "CN=Ada,OU=Digital Signature"
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.content_commitment, usage.key_agreement) == (True, True, False)
    assert certificate.signature_hash_algorithm is not None
    assert certificate.signature_hash_algorithm.name == "sha384"
    management = x509.load_der_x509_certificate(self_signed(key, Slot.RETIRED_3, "Ada"))
    usage = management.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_agreement) == (False, True)


def test_ready_made_certificates() -> None:
    key = generate(Algorithm.P256)
    der = self_signed(key, Slot.AUTHENTICATION, "somebody else")
    card = PivCard.personalised(keys={Slot.AUTHENTICATION: key}, certificates={Slot.AUTHENTICATION: der})
    assert der in Client(card).get("5FC105").data
    certificate = x509.load_der_x509_certificate(der)
    assert certificate.public_bytes(Encoding.DER) == der
    assert certificate.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    ) == key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("lengths", Lengths)
@pytest.mark.parametrize("size", [0, 1, 100, 240, 255, 256, 257, 500, 1000, 3052, MAX_OBJECT_SIZE])
def test_objects_of_all_sizes_go_in_and_come_out(lengths: Lengths, size: int) -> None:
    client = Client(PivCard(), lengths)
    assert client.administrator() == 0x9000
    content = bytes(each % 251 for each in range(size))
    assert client.put("5FC106", content) == 0x9000
    response = client.get("5FC106")
    if size == 0:
        assert response.status == 0x6A82
    else:
        assert (response.status, only(response.data, 0x53)) == (0x9000, content)


def test_empty_content_removes_an_object(client: Client) -> None:
    assert client.administrator() == 0x9000
    assert client.put("5FC105", b"") == 0x9000
    assert client.get("5FC105").status == 0x6A82
    assert client.put("5FC105", b"") == 0x9000


def test_templates_have_no_wrapper(client: Client) -> None:
    assert client.administrator() == 0x9000
    template = bytes.fromhex("7F6103020100")
    assert client.status(0xDB, 0x3F, 0xFF, template) == 0x9000
    assert client.get("7F61").data == template
    discovery = bytes.fromhex("7E124F0BA0000003080000100001005F2F026010")
    assert client.status(0xDB, 0x3F, 0xFF, discovery) == 0x9000
    assert client.get("7E").data == discovery


def test_put_data_needs_the_management_key(client: Client) -> None:
    assert client.put("5FC105", b"x") == 0x6982
    assert client.verify() == 0x9000
    assert client.put("5FC105", b"x") == 0x6982
    assert client.status(0xDB, 0x3F, 0xFF, b"\x7e\x01x") == 0x6982


@pytest.mark.parametrize(
    "data",
    [
        "",
        "5C035FC105",  # no content
        "5C035FC105 5401AA",  # content under another tag
        "5C035FC105 5301AA 5301AA",
        "5301AA 5C035FC105",
        "5C00 5301AA",
        "5C045FC105 7E 5301AA",  # two tags
        "5C035FC105 5302AA",  # cut short
        "7C01AA",
    ],
)
def test_put_data_with_wrong_data(client: Client, data: str) -> None:
    assert client.administrator() == 0x9000
    revision = client.card.revision
    assert client.status(0xDB, 0x3F, 0xFF, bytes.fromhex(data)) == 0x6A80
    assert client.card.revision == revision


@pytest.mark.parametrize(
    "data", ["", "5C00", "5D017E", "5C017E00", "5C025FC1", "5C035FC1FF", "5C02007E", "5C047E5FC102", "5C"]
)
def test_get_data_with_wrong_data(client: Client, data: str) -> None:
    assert client.status(0xCB, 0x3F, 0xFF, bytes.fromhex(data)) == 0x6A80


@pytest.mark.parametrize("ins", [0xCB, 0xDB])
@pytest.mark.parametrize("parameters", [(0x3F, 0xFE), (0x00, 0xFF), (0, 0)])
def test_get_and_put_data_with_wrong_parameters(client: Client, ins: int, parameters: tuple[int, int]) -> None:
    assert client.status(ins, *parameters, bytes.fromhex("5C017E")) == 0x6A86


@pytest.mark.parametrize("tag", ["5FC104", "5FC106", "5FC110", "7F61", "5FC17F", "5F2F", "5C"])
def test_objects_that_are_not_there(client: Client, tag: str) -> None:
    assert client.get(tag).status == 0x6A82


@pytest.mark.parametrize("tag", ["5FC124", "5FC100", "5F2F", "7D", "5FFE00"])
def test_there_is_no_place_for_unknown_objects(client: Client, tag: str) -> None:
    assert client.administrator() == 0x9000
    assert client.put(tag, b"x") == 0x6A82


def test_a_vendors_objects_have_a_place(client: Client) -> None:
    # yubico-piv-tool keeps its own data there
    assert client.administrator() == 0x9000
    assert client.put("5FFF00", b"\x80\x00") == 0x9000
    assert client.get("5FFF00").data == bytes.fromhex("53028000")


def test_objects_are_bounded_one_by_one_and_together() -> None:
    client = Client(PivCard(), Lengths.EXTENDED)
    assert client.administrator() == 0x9000
    assert client.put("5FC106", bytes(MAX_OBJECT_SIZE + 1)) == 0x6A84
    assert client.get("5FC106").status == 0x6A82
    numbers = iter(range(MAX_TOTAL_SIZE // MAX_OBJECT_SIZE + 2))
    while client.put(f"5FFF{next(numbers):02X}", bytes([1]) * MAX_OBJECT_SIZE) == 0x9000:
        pass
    stored = sum(len(each) for each in client.card.contents.objects.all().values())
    assert MAX_TOTAL_SIZE - MAX_OBJECT_SIZE < stored <= MAX_TOTAL_SIZE
    # what is there can still be replaced by something no larger
    assert client.put("5FFF00", b"small") == 0x9000
    assert client.put("5FFF00", bytes(MAX_OBJECT_SIZE)) == 0x9000


def test_a_name_that_is_too_long_is_cut() -> None:
    objects = initial_objects(GUID, SERIAL, "x" * 300)
    assert len(tlv.parse_map(objects[0x5FC109])[0x01]) == 125


def test_the_store_hands_out_copies() -> None:
    store = ObjectStore({0x5FC102: b"x"})
    store.all().clear()
    assert store.get(0x5FC102) == b"x"


@given(st.integers(0, 2**32 - 1))
def test_every_serial_has_a_fasc_n(serial: int) -> None:
    raw = int.from_bytes(fasc_n(serial), "big")
    fives = [raw >> shift & 0x1F for shift in range(195, -1, -5)]
    assert all(each.bit_count() % 2 for each in fives)
    digits = [int(f"{each >> 1:04b}"[::-1], 2) for each in fives]
    assert int("".join(map(str, digits[22:32]))) == serial % 10**10
