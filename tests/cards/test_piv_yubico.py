"""Yubico's extensions (developers.yubico.com/PIV/Introduction/Yubico_extensions.html)."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from cardferry.cards.piv import PivCard, Slot
from cardferry.cards.piv.keys import PrivateKey
from cardferry.pcsc import tlv
from tests.cards.client import PIN, PUK, Client, Lengths, only

DIGEST = hashlib.sha256(b"message").digest()
WRONG = b"000000\xff\xff"


def number(value: int, size: int) -> bytes:
    return value.to_bytes(size, "big")


def rsa_parts(key: PrivateKey) -> bytes:
    """An RSA key as yubico-piv-tool sends it."""
    assert isinstance(key, rsa.RSAPrivateKey)
    numbers = key.private_numbers()
    values = (numbers.p, numbers.q, numbers.dmp1, numbers.dmq1, numbers.iqmp)
    return b"".join(tlv.encode(tag, number(value, 128)) for tag, value in enumerate(values, start=1))


def test_version_and_serial(client: Client) -> None:
    assert client.hex("00FD000000") == "0504039000"
    assert client.hex("00F8000000") == "00BC614E9000"


@pytest.mark.parametrize("apdu", ["00FD010000", "00FD000100", "00F8010000", "00F7010080", "00FB000100", "00FFFFFE"])
def test_wrong_parameters(client: Client, apdu: str) -> None:
    assert client.hex(apdu) == "6A86"


def test_metadata_of_pin_and_puk(client: Client) -> None:
    assert client.hex("00F7008000") == "0101FF05010106020303" + "9000"
    assert client.verify(WRONG) == 0x63C2
    assert client.hex("00F7008000") == "0101FF05010106020302" + "9000"
    assert client.status(0x24, 0, 0x81, PUK + b"other   ") == 0x9000
    assert client.hex("00F7008100") == "0101FF05010006020303" + "9000"


def test_metadata_of_the_management_key(client: Client) -> None:
    assert client.hex("00F7009B00") == "01010302020001050101" + "9000"
    assert client.administrator() == 0x9000
    assert client.status(0xFF, 0xFF, 0xFF, b"\x08\x9b\x10" + bytes(16)) == 0x9000
    assert client.hex("00F7009B00") == "01010802020001050100" + "9000"


def test_metadata_of_keys(rsa_card: PivCard) -> None:
    client = Client(rsa_card)
    response = client.send(0xF7, 0, 0x9A)
    assert response.status == 0x9000
    parts = tlv.parse_map(response.data)
    assert {tag: parts[tag].hex() for tag in (1, 2, 3)} == {1: "11", 2: "0201", 3: "01"}
    assert len(only(parts[4], 0x86)) == 65
    parts = tlv.parse_map(client.send(0xF7, 0, 0x9C).data)
    assert {tag: parts[tag].hex() for tag in (1, 2, 3)} == {1: "07", 2: "0301", 3: "02"}
    assert list(tlv.parse_map(parts[4])) == [0x81, 0x82]


@pytest.mark.parametrize(("algorithm", "curve", "size"), [(0x11, ec.SECP256R1(), 32), (0x14, ec.SECP384R1(), 48)])
def test_import_ecc(client: Client, algorithm: int, curve: ec.EllipticCurve, size: int) -> None:
    key = ec.generate_private_key(curve)
    data = tlv.encode(0x06, number(key.private_numbers().private_value, size))
    assert client.status(0xFE, algorithm, 0x9E, data) == 0x6982
    assert client.administrator() == 0x9000
    assert client.status(0xFE, algorithm, 0x9E, data) == 0x9000
    signature = only(only(client.sign(algorithm, 0x9E, bytes(size - 1) + b"x").data, 0x7C), 0x82)
    digest = hashes.SHA256() if size == 32 else hashes.SHA384()
    key.public_key().verify(signature, bytes(size - 1) + b"x", ec.ECDSA(Prehashed(digest)))


@pytest.mark.parametrize("lengths", Lengths)
def test_import_rsa(client: Client, rsa_key: PrivateKey, lengths: Lengths) -> None:
    client.lengths = lengths
    assert isinstance(rsa_key, rsa.RSAPrivateKey)
    assert client.administrator() == 0x9000
    assert client.status(0xFE, 0x07, 0x82, rsa_parts(rsa_key) + b"\xaa\x01\x01") == 0x9000
    assert client.card.contents.keys[Slot.RETIRED_1].private.public_key() == rsa_key.public_key()
    secret = rsa_key.public_key().encrypt(b"secret", padding.PKCS1v15())
    assert client.sign(0x07, 0x82, secret).data.endswith(b"\0secret")


def test_two_primes_make_an_rsa_key(client: Client, rsa_key: PrivateKey) -> None:
    assert client.administrator() == 0x9000
    assert client.status(0xFE, 0x07, 0x82, rsa_parts(rsa_key)[: 2 * 131]) == 0x9000


def rsa_data(p: int, q: int) -> str:
    return (tlv.encode(1, number(p, 128)) + tlv.encode(2, number(q, 128))).hex()


TOP = 1 << 1023 | 1 << 1022


@pytest.mark.parametrize(
    ("algorithm", "data"),
    [
        (0x11, ""),
        (0x11, "0600"),
        (0x11, "0620" + "00" * 32),  # zero
        (0x11, "0620" + "FF" * 32),  # above the order
        (0x11, "0681FF" + "FF" * 255),
        (0x11, "0620" + "01" * 31),  # cut short
        (0x11, "0620" + "01" * 32 + "0101AA"),
        (0x11, "0620" + "01" * 32 + "AA0109"),
        (0x11, "0620" + "01" * 32 + "AB0102"),
        (0x11, "0101AA0201BB"),
        (0x07, "0620" + "01" * 32),
        (0x07, "0101AA"),
        (0x07, "0101AA0201BB"),  # too small
        (0x07, "0100 0200"),
        (0x07, rsa_data(TOP | 1, TOP | 1)),  # twice the same
        (0x07, rsa_data(TOP | 4, TOP | 6)),  # even
        (0x07, rsa_data(TOP | 3, TOP | 9)),  # no primes
        (0x07, rsa_data((TOP // 65537 + 1) * 65537 + 1, TOP | 1)),  # no exponent 65537
    ],
)
def test_import_what_is_no_key(client: Client, algorithm: int, data: str) -> None:
    assert client.administrator() == 0x9000
    before = dict(client.card.contents.keys)
    assert client.status(0xFE, algorithm, 0x9E, bytes.fromhex(data)) == 0x6A80
    assert client.card.contents.keys == before


@pytest.mark.parametrize(("algorithm", "slot"), [(0x03, 0x9A), (0x06, 0x9A), (0xE0, 0x9A), (0x11, 0xF9), (0x11, 0x9B)])
def test_import_where_no_such_key_can_be(client: Client, algorithm: int, slot: int) -> None:
    assert client.administrator() == 0x9000
    assert client.status(0xFE, algorithm, slot, b"\x06\x20" + b"\x01" * 32) == 0x6A86


@pytest.mark.parametrize(
    ("algorithm", "key"), [(0x03, bytes(range(24))), (0x08, bytes(16)), (0x0A, bytes(24)), (0x0C, bytes(32))]
)
def test_set_the_management_key(client: Client, algorithm: int, key: bytes) -> None:
    data = bytes((algorithm, 0x9B, len(key))) + key
    assert client.status(0xFF, 0xFF, 0xFF, data) == 0x6982
    assert client.administrator() == 0x9000
    assert client.status(0xFF, 0xFF, 0xFF, data) == 0x9000
    client.card.reset()
    assert client.administrator(key, algorithm) == 0x9000


@pytest.mark.parametrize(
    "data",
    ["", "039B", "039B18", "039A18" + "01" * 24, "039B18" + "01" * 23, "039B10" + "01" * 16, "119B20" + "01" * 32],
)
def test_set_a_management_key_that_is_none(client: Client, data: str) -> None:
    assert client.administrator() == 0x9000
    assert client.status(0xFF, 0xFF, 0xFF, bytes.fromhex(data)) == 0x6A80
    client.card.reset()
    assert client.administrator() == 0x9000


def test_set_retries(client: Client) -> None:
    assert client.status(0x24, 0, 0x80, PIN + b"654321\xff\xff") == 0x9000
    assert client.hex("00FA0504") == "6982"
    assert client.administrator() == 0x9000
    assert client.hex("00FA0004") == "6A86"
    assert client.hex("00FA0500") == "6A86"
    assert client.hex("00FA050401AA") == "6700"
    assert client.hex("00FA0504") == "9000"
    assert client.tries() == 0x63C5
    assert client.verify() == 0x9000
    assert client.status(0x24, 0, 0x81, WRONG + PUK) == 0x63C3


def test_set_retries_needs_the_pin(client: Client) -> None:
    assert client.administrator() == 0x9000
    assert client.hex("00FA0504") == "6982"


def test_many_retries_do_not_fit_into_the_status(client: Client) -> None:
    assert client.administrator() == 0x9000
    assert client.verify() == 0x9000
    assert client.hex("00FAFFFF") == "9000"
    assert client.tries() == 0x63CF
    assert client.verify(WRONG) == 0x63CF
    assert client.card.contents.pin.left == 254


def test_factory_reset_only_when_all_is_blocked(client: Client) -> None:
    assert client.administrator() == 0x9000
    assert client.status(0xFF, 0xFF, 0xFF, b"\x08\x9b\x10" + bytes(16)) == 0x9000
    assert client.hex("00FB0000") == "6985"
    while client.verify(WRONG) != 0x6983:
        pass
    assert client.hex("00FB0000") == "6985"
    while client.status(0x24, 0, 0x81, WRONG + PUK) != 0x6983:
        pass
    assert client.hex("00FB0000") == "9000"
    contents = client.card.contents
    assert contents.keys == {}
    assert client.get("5FC105").status == 0x6A82
    assert client.get("5FC102").status == 0x9000
    assert client.tries() == 0x63C3
    assert client.put("5FC105", b"x") == 0x6982
    assert client.administrator() == 0x9000
    assert client.hex("00F8000000") == "00BC614E9000"


@pytest.mark.parametrize("ins", ["F9", "F6", "FC"])
def test_what_is_not_there(client: Client, ins: str) -> None:
    assert client.hex(f"00{ins}9A0000") == "6D00"
