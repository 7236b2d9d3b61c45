"""The management key: external and mutual authentication (SP 800-73-5 part 2, 3.2.4 and appendix A)."""

from __future__ import annotations

import pytest
from cryptography.exceptions import UnsupportedAlgorithm

from cardferry.cards.piv import Algorithm, PivCard
from cardferry.cards.piv.management_key import DEFAULT_KEY, ManagementKey
from tests.cards.client import MANAGEMENT_KEY, Client, block, only

AES_KEYS = {0x08: bytes(range(16)), 0x0A: bytes(range(24)), 0x0C: bytes(range(32))}
ADMINISTRATOR_ONLY = "00DB3FFF 08 5C035FC105 5301AA"


def scripted(*blocks: str) -> PivCard:
    """A card whose random blocks are these."""
    script = [bytes.fromhex(each) for each in blocks]

    def random(nbytes: int, /) -> bytes:
        assert len(script[0]) == nbytes
        return script.pop(0)

    return PivCard(random=random)


def permitted(client: Client) -> bool:
    """Whether the card takes the client for its administrator."""
    status = client.hex(ADMINISTRATOR_ONLY)
    assert status in ("9000", "6982")
    return status == "9000"


def test_one_block_of_triple_des() -> None:
    # NIST SP 800-20, table A.1: the variable plaintext test's first block, with all parity bits one
    key = ManagementKey(Algorithm.TDES, bytes.fromhex("0101010101010101" * 3))
    assert key.encrypt(bytes.fromhex("8000000000000000")) == bytes.fromhex("95F8A5E5DD31D900")


@pytest.mark.parametrize(
    ("algorithm", "key", "answer"),
    [
        # FIPS 197, appendix C
        (Algorithm.AES128, bytes(range(16)), "69C4E0D86A7B0430D8CDB78070B4C55A"),
        (Algorithm.AES192, bytes(range(24)), "DDA97CA4864CDFE06EAF70A0EC0D7191"),
        (Algorithm.AES256, bytes(range(32)), "8EA2B7CA516745BFEAFC49904B496089"),
    ],
)
def test_one_block_of_aes(algorithm: Algorithm, key: bytes, answer: str) -> None:
    plain = bytes.fromhex("00112233445566778899AABBCCDDEEFF")
    assert ManagementKey(algorithm, key).encrypt(plain) == bytes.fromhex(answer)


def test_external_authentication_byte_by_byte() -> None:
    client = Client(scripted("0011223344556677"))
    assert not permitted(client)
    assert client.hex("0087039B 04 7C028100 00") == "7C0A810800112233445566779000"
    answer = block(0x03, MANAGEMENT_KEY, bytes.fromhex("0011223344556677")).hex()
    assert client.hex(f"0087039B 0C 7C0A8208{answer} 00") == "9000"
    assert permitted(client)


def test_mutual_authentication_byte_by_byte() -> None:
    client = Client(scripted("8899AABBCCDDEEFF"))
    witness = block(0x03, MANAGEMENT_KEY, bytes.fromhex("8899AABBCCDDEEFF")).hex().upper()
    assert client.hex("0087039B 04 7C028000 00") == f"7C0A8008{witness}9000"
    proof = block(0x03, MANAGEMENT_KEY, bytes.fromhex("0102030405060708")).hex().upper()
    answer = client.hex("0087039B 16 7C14 80088899AABBCCDDEEFF 81080102030405060708 00")
    assert answer == f"7C0A8208{proof}9000"
    assert permitted(client)


def test_an_empty_response_object_may_ask_for_the_proof() -> None:
    client = Client(scripted("8899AABBCCDDEEFF"))
    client.hex("0087039B 04 7C028000 00")
    answer = client.hex("0087039B 18 7C16 80088899AABBCCDDEEFF 81080102030405060708 8200 00")
    assert answer.endswith("9000")
    assert permitted(client)


def test_algorithm_zero_is_triple_des(client: Client) -> None:
    assert client.administrator(algorithm=0x03) == 0x9000
    assert client.hex("0087009B 04 7C028100 00").startswith("7C0A8108")


@pytest.mark.parametrize("algorithm", AES_KEYS)
def test_aes_management_keys(algorithm: int) -> None:
    card = PivCard()
    key = AES_KEYS[algorithm]
    card.contents.management_key = ManagementKey(Algorithm(algorithm), key)
    client = Client(card)
    assert client.administrator(key, algorithm) == 0x9000
    assert permitted(client)
    client.card.reset()
    challenge = only(only(client.authenticate(algorithm, 0x9B, (0x81, b"")).data, 0x7C), 0x81)
    assert len(challenge) == 16
    answer = block(algorithm, key, challenge)
    assert client.authenticate(algorithm, 0x9B, (0x82, answer)).status == 0x9000
    assert permitted(client)
    assert client.authenticate(0x03, 0x9B, (0x81, b"")).status == 0x6A86
    assert client.authenticate(0x00, 0x9B, (0x81, b"")).status == 0x6A86


def test_a_wrong_key_is_refused(client: Client) -> None:
    wrong = bytes(range(24))
    assert client.administrator(wrong) == 0x6982
    assert not permitted(client)


def test_a_wrong_answer_logs_the_administrator_out(client: Client) -> None:
    assert client.administrator() == 0x9000
    assert client.administrator(bytes(range(24))) == 0x6982
    assert not permitted(client)


def test_an_answer_without_question_is_refused(client: Client) -> None:
    assert client.authenticate(0x03, 0x9B, (0x82, bytes(8))).status == 0x6982
    assert client.authenticate(0x03, 0x9B, (0x80, bytes(8)), (0x81, bytes(8))).status == 0x6982
    assert not permitted(client)


def test_a_question_is_answered_once() -> None:
    client = Client(scripted("0011223344556677"))
    client.hex("0087039B 04 7C028100 00")
    answer = block(0x03, MANAGEMENT_KEY, bytes.fromhex("0011223344556677"))
    assert client.authenticate(0x03, 0x9B, (0x82, answer)).status == 0x9000
    assert client.authenticate(0x03, 0x9B, (0x82, answer)).status == 0x6982
    assert not permitted(client)


def test_the_witness_is_no_challenge() -> None:
    # sending the card's own encrypted block back proves nothing
    client = Client(scripted("0011223344556677", "0011223344556677", "0011223344556677"))
    witness = only(only(client.authenticate(0x03, 0x9B, (0x80, b"")).data, 0x7C), 0x80)
    assert client.authenticate(0x03, 0x9B, (0x82, witness)).status == 0x6982
    client.authenticate(0x03, 0x9B, (0x80, b""))
    assert client.authenticate(0x03, 0x9B, (0x82, bytes.fromhex("0011223344556677"))).status == 0x6982
    client.authenticate(0x03, 0x9B, (0x81, b""))
    answer = block(0x03, MANAGEMENT_KEY, bytes.fromhex("0011223344556677"))
    assert client.authenticate(0x03, 0x9B, (0x80, answer), (0x81, bytes(8))).status == 0x6982
    assert not permitted(client)


def test_reset_forgets_administrator_and_question() -> None:
    client = Client(scripted("0011223344556677", "0011223344556677"))
    answer = block(0x03, MANAGEMENT_KEY, bytes.fromhex("0011223344556677"))
    client.authenticate(0x03, 0x9B, (0x81, b""))
    client.card.reset()
    assert client.authenticate(0x03, 0x9B, (0x82, answer)).status == 0x6982
    client.authenticate(0x03, 0x9B, (0x81, b""))
    assert client.authenticate(0x03, 0x9B, (0x82, answer)).status == 0x9000
    client.card.power_off()
    client.card.power_on()
    assert not permitted(client)


@pytest.mark.parametrize(
    "data",
    ["", "7C00", "7C0481008200", "7C0481008000", "7C028300", "7C068002AABB8100", "7C0481018000", "8100"],
)
def test_templates_with_nothing_to_do(client: Client, data: str) -> None:
    assert client.status(0x87, 0x03, 0x9B, bytes.fromhex(data)) == 0x6A80


@pytest.mark.parametrize("algorithm", [0x08, 0x0A, 0x0C, 0x11, 0x07, 0xFF])
def test_another_algorithm_than_the_keys(client: Client, algorithm: int) -> None:
    assert client.authenticate(algorithm, 0x9B, (0x81, b"")).status == 0x6A86


@pytest.mark.parametrize(
    ("algorithm", "size"),
    [(Algorithm.TDES, 16), (Algorithm.AES128, 24), (Algorithm.AES256, 0), (Algorithm.P256, 32)],
)
def test_keys_fit_their_algorithm(algorithm: Algorithm, size: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        ManagementKey(algorithm, bytes(size))


def test_answers_are_compared_in_constant_time(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def recording(expected: bytes, answer: bytes) -> bool:
        compared.append(answer)
        return False

    client.authenticate(0x03, 0x9B, (0x81, b""))
    monkeypatch.setattr("hmac.compare_digest", recording)
    assert client.authenticate(0x03, 0x9B, (0x82, b"whatever")).status == 0x6982
    assert compared == [b"whatever"]


def test_keys_are_not_shown() -> None:
    assert DEFAULT_KEY == MANAGEMENT_KEY
    assert "key=" not in repr(ManagementKey())


def test_a_computer_without_triple_des(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(self: ManagementKey, block: bytes) -> bytes:
        raise UnsupportedAlgorithm("triple DES is off")

    monkeypatch.setattr(ManagementKey, "encrypt", unsupported)
    assert client.authenticate(0x03, 0x9B, (0x80, b"")).status == 0x6A81
