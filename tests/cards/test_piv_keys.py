"""GENERAL AUTHENTICATE and GENERATE ASYMMETRIC KEY PAIR (SP 800-73-5 part 2, 3.2.4 and 3.3.2)."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from hypothesis import given, settings
from hypothesis import strategies as st

from cardferry.cards.piv import Algorithm, PinPolicy, PivCard, Slot
from cardferry.cards.piv import keys as piv_keys
from cardferry.cards.piv.keys import KeyInputError, Origin, PrivateKey, SlotKey, generate
from cardferry.pcsc import tlv
from tests.cards.client import Client, Lengths, only

DIGEST = hashlib.sha256(b"message").digest()
P256, P384, RSA2048 = Algorithm.P256, Algorithm.P384, Algorithm.RSA2048
SLOTS = [*range(0x82, 0x96), 0x9A, 0x9C, 0x9D, 0x9E]


def answered(data: bytes) -> bytes:
    """The response in a dynamic authentication template."""
    return only(only(data, 0x7C), 0x82)


def public_numbers(data: bytes) -> dict[int, bytes]:
    """The parts of a public key."""
    return tlv.parse_map(only(data, 0x7F49))


def verify_ecdsa(key: object, signature: bytes, digest: bytes = DIGEST) -> None:
    assert isinstance(key, ec.EllipticCurvePublicKey)
    algorithm = hashes.SHA256() if len(digest) == 32 else hashes.SHA384()
    key.verify(signature, digest, ec.ECDSA(Prehashed(algorithm)))


def pkcs1_block(digest_info: bytes) -> bytes:
    """EMSA-PKCS1-v1_5 for RSA-2048, as a host pads (RFC 8017, 9.2)."""
    return b"\0\1" + b"\xff" * (256 - 3 - len(digest_info)) + b"\0" + digest_info


def sha256_info(digest: bytes) -> bytes:
    return bytes.fromhex("3031300D060960864801650304020105000420") + digest


def own_key(client: Client, slot: Slot) -> PrivateKey:
    return client.card.contents.keys[slot].private


def test_sign_with_ecc(client: Client) -> None:
    assert client.verify() == 0x9000
    response = client.sign(0x11, 0x9A, DIGEST)
    assert response.status == 0x9000
    verify_ecdsa(own_key(client, Slot.AUTHENTICATION).public_key(), answered(response.data))


def test_a_signature_byte_by_byte(client: Client) -> None:
    # as in SP 800-73-4 part 2, A.4: a template with an empty response and the challenge
    assert client.verify() == 0x9000
    answer = client.hex(f"00 87 11 9A 26 7C24 8200 8120 {DIGEST.hex()} 00")
    assert answer.startswith("7C")
    assert answer.endswith("9000")
    assert bytes.fromhex(answer)[2] == 0x82
    assert bytes.fromhex(answer)[4] == 0x30


@pytest.mark.parametrize(("size", "algorithm", "slot"), [(32, P256, 0x9A), (48, P384, 0x82)])
@pytest.mark.parametrize("length", [1, 20, 31, 32, 33, 47, 48, 49, 64])
def test_digests_of_all_lengths(rsa_card: PivCard, size: int, algorithm: Algorithm, slot: int, length: int) -> None:
    client = Client(rsa_card)
    digest = bytes(range(1, length + 1))
    assert client.verify() == 0x9000
    response = client.sign(algorithm, slot, digest)
    assert response.status == 0x9000
    # ECDSA: the leftmost bits count, and a short digest is a small number
    meant = digest[:size].rjust(size, b"\0")
    verify_ecdsa(own_key(client, Slot(slot)).public_key(), answered(response.data), meant)


@pytest.mark.parametrize("lengths", Lengths)
def test_sign_with_rsa(rsa_card: PivCard, lengths: Lengths) -> None:
    client = Client(rsa_card, lengths)
    assert client.verify() == 0x9000
    response = client.sign(0x07, 0x9C, pkcs1_block(sha256_info(DIGEST)))
    assert response.status == 0x9000
    key = own_key(client, Slot.SIGNATURE).public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    key.verify(answered(response.data), DIGEST, padding.PKCS1v15(), Prehashed(hashes.SHA256()))


def test_decrypt_with_rsa(rsa_card: PivCard) -> None:
    client = Client(rsa_card)
    key = own_key(client, Slot.KEY_MANAGEMENT).public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    assert client.verify() == 0x9000
    block = answered(client.sign(0x07, 0x9D, key.encrypt(b"secret", padding.PKCS1v15())).data)
    assert len(block) == 256
    assert block[:2] == b"\0\2"
    assert block.endswith(b"\0secret")


@given(st.binary(min_size=256, max_size=256))
@settings(max_examples=15, deadline=None)
def test_any_rsa_block_comes_back_by_the_public_key(block: bytes) -> None:
    card = _rsa_card()
    numbers = card.private.private_numbers()
    assert isinstance(numbers, rsa.RSAPrivateNumbers)
    modulus = numbers.public_numbers.n
    if int.from_bytes(block, "big") >= modulus:
        with pytest.raises(KeyInputError):
            card.respond(block)
    else:
        answer = int.from_bytes(card.respond(block), "big")
        assert pow(answer, 65537, modulus) == int.from_bytes(block, "big")


_CACHE: list[SlotKey] = []


def _rsa_card() -> SlotKey:
    if not _CACHE:
        _CACHE.append(SlotKey(generate(RSA2048), PinPolicy.NEVER, Origin.GENERATED))
    return _CACHE[0]


@pytest.mark.parametrize("size", [0, 1, 255, 257])
def test_rsa_wants_whole_blocks(rsa_card: PivCard, size: int) -> None:
    client = Client(rsa_card)
    assert client.verify() == 0x9000
    assert client.sign(0x07, 0x9D, bytes(size)).status == 0x6A80
    assert client.sign(0x07, 0x9D, b"\xff" * 256).status == 0x6A80


def test_agree_on_a_secret(rsa_card: PivCard) -> None:
    client = Client(rsa_card)
    assert client.verify() == 0x9000
    for slot, algorithm, size in ((0x9A, P256, 65), (0x82, P384, 97)):
        own = own_key(client, Slot(slot))
        assert isinstance(own, ec.EllipticCurvePrivateKey)
        other = ec.generate_private_key(own.curve)
        point = only(piv_keys.public_template(other.public_key()), 0x86)
        assert len(point) == size
        response = client.authenticate(algorithm, slot, (0x82, b""), (0x85, point))
        assert response.status == 0x9000
        assert answered(response.data) == other.exchange(ec.ECDH(), own.public_key())


@pytest.mark.parametrize(
    "point",
    [b"", b"\x04", b"\x04" + bytes(64), b"\x04" + b"\xff" * 64, b"\x00", b"\x05" + bytes(64), bytes(97)],
)
def test_what_is_no_point(client: Client, point: bytes) -> None:
    assert client.verify() == 0x9000
    assert client.authenticate(0x11, 0x9D, (0x82, b""), (0x85, point)).status == 0x6A80


def test_rsa_agrees_on_nothing(rsa_card: PivCard) -> None:
    client = Client(rsa_card)
    assert client.verify() == 0x9000
    assert client.authenticate(0x07, 0x9D, (0x82, b""), (0x85, bytes(256))).status == 0x6A80


@pytest.mark.parametrize("slot", [0x9A, 0x9C, 0x9D, 0x82])
def test_keys_need_the_pin(rsa_card: PivCard, slot: int) -> None:
    client = Client(rsa_card)
    algorithm = client.card.contents.keys[Slot(slot)].algorithm
    challenge = pkcs1_block(sha256_info(DIGEST)) if algorithm.is_rsa else DIGEST
    assert client.sign(algorithm, slot, challenge).status == 0x6982
    assert client.verify() == 0x9000
    assert client.sign(algorithm, slot, challenge).status == 0x9000


def test_card_authentication_needs_no_pin(client: Client) -> None:
    assert client.sign(0x11, 0x9E, DIGEST).status == 0x9000


def test_the_pin_lasts_except_for_9c(client: Client) -> None:
    assert client.verify() == 0x9000
    for _ in range(3):
        assert client.sign(0x11, 0x9A, DIGEST).status == 0x9000
    assert client.sign(0x11, 0x9C, DIGEST).status == 0x6982
    assert client.verify() == 0x9000
    assert client.sign(0x11, 0x9C, DIGEST).status == 0x9000
    assert client.sign(0x11, 0x9C, DIGEST).status == 0x6982
    assert client.tries() == 0x9000


@pytest.mark.parametrize(
    "between",
    ["00CB3FFF035C017E00", "00A4040005A000000308", "00200080", "00FD0000", "00010000", "0087119E", "002000FF"],
)
def test_nothing_may_come_between_pin_and_9c(client: Client, between: str) -> None:
    assert client.verify() == 0x9000
    client.hex(between)
    assert client.sign(0x11, 0x9C, DIGEST).status == 0x6982


def test_pieces_and_fetching_do_not_come_between_pin_and_9c(rsa_card: PivCard) -> None:
    client = Client(rsa_card, Lengths.CHAINED)
    assert client.verify() == 0x9000
    assert client.hex("00C0000000") == "6985"
    assert client.sign(0x07, 0x9C, pkcs1_block(sha256_info(DIGEST))).status == 0x9000


def test_a_changed_pin_does_for_9c(client: Client) -> None:
    assert client.status(0x24, 0, 0x80, b"123456\xff\xff123456\xff\xff") == 0x9000
    assert client.sign(0x11, 0x9C, DIGEST).status == 0x9000


@pytest.mark.parametrize(
    ("algorithm", "slot"),
    [
        (0x07, 0x9A),  # another algorithm than the key's
        (0x14, 0x9A),
        (0x00, 0x9A),
        (0x03, 0x9A),
        (0x11, 0x82),  # no key in this slot
        (0x11, 0x81),  # no such slot
        (0x11, 0x96),
        (0x11, 0x9F),
        (0x11, 0x04),
        (0x11, 0x00),
    ],
)
def test_keys_that_are_not_there(client: Client, algorithm: int, slot: int) -> None:
    assert client.verify() == 0x9000
    assert client.sign(algorithm, slot, DIGEST).status == 0x6A86


@pytest.mark.parametrize(
    "data",
    [
        "",
        "7C00",
        "7C028200",
        "7C028100",
        "7C0481008200",  # nothing to sign
        "7C03820181",
        "7C088200 8101AA 8501AA",  # sign and agree at once
        "7C078200 8101AA 8300",
        "7C058201AA 8100",
        "7C0682008102AA",  # cut short
        "7D058200 8101AA",
        "7C058200 8101AA 00",
        "8200 8101AA",
    ],
)
def test_templates_with_nothing_to_do(client: Client, data: str) -> None:
    assert client.status(0x87, 0x11, 0x9E, bytes.fromhex(data)) == 0x6A80


@pytest.mark.parametrize("slot", SLOTS)
def test_generate_in_every_slot(slot: int) -> None:
    client = Client(PivCard())
    assert client.administrator() == 0x9000
    response = client.generate(slot, 0x11)
    assert response.status == 0x9000
    point = public_numbers(response.data)[0x86]
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    assert client.verify() == 0x9000
    verify_ecdsa(key, answered(client.sign(0x11, slot, DIGEST).data))


def test_generate_p384() -> None:
    client = Client(PivCard())
    assert client.administrator() == 0x9000
    point = public_numbers(client.generate(0x9E, 0x14).data)[0x86]
    assert len(point) == 97
    digest = hashlib.sha384(b"message").digest()
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), point)
    verify_ecdsa(key, answered(client.sign(0x14, 0x9E, digest).data), digest)


@pytest.mark.parametrize("lengths", Lengths)
def test_generate_rsa(lengths: Lengths) -> None:
    client = Client(PivCard(), lengths)
    assert client.administrator() == 0x9000
    response = client.generate(0x9E, 0x07)
    assert response.status == 0x9000
    parts = public_numbers(response.data)
    assert list(parts) == [0x81, 0x82]
    assert parts[0x82] == b"\x01\x00\x01"
    assert len(parts[0x81]) == 256
    key = rsa.RSAPublicNumbers(65537, int.from_bytes(parts[0x81], "big")).public_key()
    signature = answered(client.sign(0x07, 0x9E, pkcs1_block(sha256_info(DIGEST))).data)
    key.verify(signature, DIGEST, padding.PKCS1v15(), Prehashed(hashes.SHA256()))


@pytest.mark.parametrize("make", ["generate", "put"])
def test_generating_needs_the_management_key(client: Client, make: str) -> None:
    before = dict(client.card.contents.keys)
    assert client.verify() == 0x9000
    status = client.generate(0x9A, 0x11).status if make == "generate" else client.put("5FC105", b"x")
    assert status == 0x6982
    assert client.card.contents.keys == before


def test_a_new_key_replaces_the_old_one(client: Client) -> None:
    before = own_key(client, Slot.AUTHENTICATION)
    assert client.administrator() == 0x9000
    assert client.generate(0x9A, 0x11).status == 0x9000
    assert own_key(client, Slot.AUTHENTICATION) is not before


@pytest.mark.parametrize(
    "data",
    [
        "",
        "AC00",
        "AC028000",
        "AC03800103",  # triple DES
        "AC03800106",  # RSA-1024 is too short today
        "AC0380010F",
        "AC0480020011",
        "AC06800111 830100",  # unknown parameter
        "AC06800111 AA0107",  # unknown PIN policy
        "AC06800111 AB0102",  # touch
        "AC06800111 AB0103",
        "AD03800111",
        "AC03800111 00",
        "AC06800111 800111",
    ],
)
def test_generate_with_wrong_data(client: Client, data: str) -> None:
    assert client.administrator() == 0x9000
    assert client.status(0x47, 0, 0x9A, bytes.fromhex(data)) == 0x6A80


@pytest.mark.parametrize("slot", [0x00, 0x04, 0x81, 0x96, 0x9B, 0x9F, 0xF9])
def test_generate_where_no_slot_is(client: Client, slot: int) -> None:
    assert client.administrator() == 0x9000
    assert client.generate(slot, 0x11).status == 0x6A86
    assert client.hex("00 47 01 9A 05 AC03800111") == "6A86"


@pytest.mark.parametrize(
    ("policy", "status"),
    [
        (b"\xaa\x01\x01", (0x9000, 0x9000)),  # never
        (b"\xaa\x01\x02", (0x6982, 0x9000)),  # once
        (b"\xaa\x01\x03", (0x6982, 0x6982)),  # always
        (b"\xaa\x01\x00", (0x6982, 0x9000)),  # the slot's
        (b"\xab\x01\x01", (0x6982, 0x9000)),  # touch: never
        (b"\xab\x01\x00", (0x6982, 0x9000)),
        (b"\x81\x01\x00", (0x6982, 0x9000)),  # the standard's parameter field
    ],
)
def test_pin_policies(client: Client, policy: bytes, status: tuple[int, int]) -> None:
    assert client.administrator() == 0x9000
    assert client.generate(0x9A, 0x11, policy).status == 0x9000
    assert client.sign(0x11, 0x9A, DIGEST).status == status[0]
    assert client.verify() == 0x9000
    assert client.sign(0x11, 0x9A, DIGEST).status == 0x9000
    assert client.sign(0x11, 0x9A, DIGEST).status == status[1]


def test_keys_are_not_shown() -> None:
    assert "private" not in repr(SlotKey(generate(P256), PinPolicy.ONCE, Origin.GENERATED))


def test_keys_that_no_piv_card_has() -> None:
    with pytest.raises(ValueError, match="not a kind of key"):
        piv_keys.algorithm_of(ec.generate_private_key(ec.SECP521R1()))
    with pytest.raises(ValueError, match="not a kind of key"):
        PivCard.personalised(keys={Slot.SIGNATURE: ec.generate_private_key(ec.SECP256K1())})
    with pytest.raises(ValueError, match="no private keys"):
        generate(Algorithm.AES128)


def test_a_faulty_private_key_answers_nothing(rsa_key: PrivateKey, monkeypatch: pytest.MonkeyPatch) -> None:
    # a fault in one half of the computation would give the other prime away
    assert isinstance(rsa_key, rsa.RSAPrivateKey)
    key = SlotKey(rsa_key, PinPolicy.NEVER, Origin.GENERATED)
    block = pkcs1_block(sha256_info(DIGEST))
    key.respond(block)
    real = pow
    numbers = rsa_key.private_numbers()

    def faulty(base: int, exponent: int, modulus: int) -> int:
        result: int = real(base, exponent, modulus)
        return result ^ 1 if modulus == numbers.p else result

    monkeypatch.setattr(piv_keys, "pow", faulty, raising=False)
    with pytest.raises(KeyInputError):
        key.respond(block)
