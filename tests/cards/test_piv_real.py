"""Unmodified programs use the built-in card: OpenSC's and Yubico's, through a real pcscd and vpcd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from cardferry.cards.piv import Algorithm, PivCard, Slot
from cardferry.cards.piv.card import ATR
from cardferry.cards.piv.keys import PrivateKey
from tests.cards.conftest import GUID, SERIAL
from tests.cards.vpcd_bridge import CardInPcscd

pytestmark = pytest.mark.real

LOG_IN = ("--login", "--pin", "123456")
YUBICO = ("yubico-piv-tool", "--reader", "Virtual PCD")
#: How OpenSC numbers PIV's keys and certificates.
AUTHENTICATION, SIGNATURE, KEY_MANAGEMENT = "01", "02", "03"


@pytest.fixture
def pcscd(card: PivCard, tmp_path: Path) -> Iterator[CardInPcscd]:
    """`card` in a reader."""
    with CardInPcscd(card, tmp_path) as pcscd:
        yield pcscd


@pytest.fixture
def rsa_pcscd(rsa_card: PivCard, tmp_path: Path) -> Iterator[CardInPcscd]:
    """`rsa_card` in a reader."""
    with CardInPcscd(rsa_card, tmp_path) as pcscd:
        yield pcscd


@pytest.fixture
def message(tmp_path: Path) -> Path:
    """Something to sign."""
    path = tmp_path / "message"
    path.write_text("Pay the bearer one smart card.\n")
    return path


def public_key(pcscd: CardInPcscd, tmp_path: Path, number: str) -> Path:
    """The public key of a certificate that pkcs11-tool reads from the card, as openssl wants it."""
    certificate, key = tmp_path / f"{number}.der", tmp_path / f"{number}.pem"
    pcscd.run("pkcs11-tool", "--read-object", "--type", "cert", "--id", number, "-o", certificate)
    pem = pcscd.run("openssl", "x509", "-inform", "der", "-in", certificate, "-pubkey", "-noout")
    key.write_text(pem)
    return key


def certificate_for(pcscd: CardInPcscd, tmp_path: Path, key: Path, subject: str) -> Path:
    """A certificate that a little authority issues for a public key."""
    authority, authority_key, path = tmp_path / "ca.pem", tmp_path / "ca.key", tmp_path / f"{subject}.pem"
    if not authority.exists():
        pcscd.run(
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", authority_key, "-out", authority, "-subj", "/CN=authority", "-days", "9"),
        )
    pcscd.run(
        *("openssl", "x509", "-new", "-force_pubkey", key, "-subj", f"/CN={subject}", "-days", "9"),
        *("-CA", authority, "-CAkey", authority_key, "-out", path),
    )
    return path


def test_opensc_tool_names_the_card(pcscd: CardInPcscd) -> None:
    listing = pcscd.run("opensc-tool", "--atr", "--name")
    assert ATR.hex(":") in listing
    assert "Personal Identity Verification Card" in listing


def test_pkcs15_tool_lists_keys_certificates_and_objects(pcscd: CardInPcscd, card: PivCard) -> None:
    listing = pcscd.run("pkcs15-tool", "--dump")
    assert f"Serial number  : {GUID.hex}" in listing
    for name in ("PIV AUTH key", "SIGN key", "KEY MAN key", "CARD AUTH key"):
        assert f"Private EC Key [{name}]" in listing
    for name in ("PIV Authentication", "Digital Signature", "Key Management", "Card Authentication"):
        assert f"X.509 Certificate [Certificate for {name}]" in listing
    assert "Card Holder Unique Identifier" in listing
    assert card.processed > 0


def test_pkcs11_tool_lists_slots_and_objects(pcscd: CardInPcscd) -> None:
    slots = pcscd.run("pkcs11-tool", "--list-slots")
    assert "token label        : cardferry" in slots
    assert "token initialized, PIN initialized" in slots
    objects = pcscd.run("pkcs11-tool", "--list-objects", *LOG_IN)
    assert objects.count("Certificate Object; type = X.509 cert") == 4
    assert objects.count("Private Key Object; EC") == 4
    assert objects.count("Public Key Object; EC  EC_POINT 256 bits") == 4


@pytest.mark.parametrize("number", [AUTHENTICATION, SIGNATURE])
def test_pkcs11_tool_signs_with_ecdsa(pcscd: CardInPcscd, tmp_path: Path, message: Path, number: str) -> None:
    digest, signature = tmp_path / "digest", tmp_path / "signature"
    pcscd.run("openssl", "dgst", "-sha256", "-binary", "-out", digest, message)
    sign = ("pkcs11-tool", *LOG_IN, "--sign", "-m", "ECDSA", "--id", number, "--signature-format", "openssl")
    pcscd.run(*sign, "-i", digest, "-o", signature)
    key = public_key(pcscd, tmp_path, number)
    verify = ("openssl", "dgst", "-sha256", "-verify", str(key), "-signature", str(signature), str(message))
    assert "Verified OK" in pcscd.run(*verify)
    message.write_text("Pay the bearer ten smart cards.\n")
    pcscd.run(*verify, check=False)


def test_pkcs11_tool_derives_a_secret(pcscd: CardInPcscd, tmp_path: Path) -> None:
    private, public, secret = tmp_path / "other.pem", tmp_path / "other.der", tmp_path / "secret"
    pcscd.run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private)
    pcscd.run("openssl", "pkey", "-in", private, "-pubout", "-outform", "der", "-out", public)
    derive = ("pkcs11-tool", *LOG_IN, "--derive", "-m", "ECDH1-COFACTOR-DERIVE", "--id", KEY_MANAGEMENT)
    pcscd.run(*derive, "-i", public, "-o", secret)
    key = public_key(pcscd, tmp_path, KEY_MANAGEMENT)
    expected = tmp_path / "expected"
    pcscd.run("openssl", "pkeyutl", "-derive", "-inkey", private, "-peerkey", key, "-out", expected)
    assert secret.read_bytes() == expected.read_bytes()


@pytest.mark.parametrize(
    ("mechanism", "options"),
    [
        ("RSA-PKCS", ()),
        ("SHA256-RSA-PKCS", ()),
        ("SHA256-RSA-PKCS-PSS", ("-sigopt", "rsa_padding_mode:pss")),
    ],
)
def test_pkcs11_tool_signs_with_rsa(
    rsa_pcscd: CardInPcscd, tmp_path: Path, message: Path, mechanism: str, options: tuple[str, ...]
) -> None:
    to_sign, signature = message, tmp_path / "signature"
    if mechanism == "RSA-PKCS":
        digest = tmp_path / "digest"
        rsa_pcscd.run("openssl", "dgst", "-sha256", "-binary", "-out", digest, message)
        # DigestInfo of SHA-256 (RFC 8017, 9.2): this mechanism wants it ready-made
        to_sign = tmp_path / "digest-info"
        to_sign.write_bytes(bytes.fromhex("3031300D060960864801650304020105000420") + digest.read_bytes())
    sign = ("pkcs11-tool", *LOG_IN, "--sign", "-m", mechanism, "--id", SIGNATURE)
    rsa_pcscd.run(*sign, "-i", to_sign, "-o", signature)
    key = public_key(rsa_pcscd, tmp_path, SIGNATURE)
    verify = ("openssl", "dgst", "-sha256", "-verify", key, "-signature", signature)
    assert "Verified OK" in rsa_pcscd.run(*verify, *options, message)


@pytest.mark.parametrize(
    ("mechanism", "padding"),
    [
        (("RSA-PKCS",), ("rsa_padding_mode:pkcs1",)),
        (
            ("RSA-PKCS-OAEP", "--hash-algorithm", "SHA256"),
            ("rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha256"),
        ),
    ],
)
def test_pkcs11_tool_decrypts_with_rsa(
    rsa_pcscd: CardInPcscd,
    tmp_path: Path,
    message: Path,
    mechanism: tuple[str, ...],
    padding: tuple[str, ...],
) -> None:
    encrypted, decrypted = tmp_path / "encrypted", tmp_path / "decrypted"
    key = public_key(rsa_pcscd, tmp_path, KEY_MANAGEMENT)
    encrypt = ("openssl", "pkeyutl", "-encrypt", "-pubin", "-inkey", key, "-in", message, "-out", encrypted)
    rsa_pcscd.run(*encrypt, "-pkeyopt", *padding)
    decrypt = ("pkcs11-tool", *LOG_IN, "--decrypt", "-m", *mechanism, "--id", KEY_MANAGEMENT)
    rsa_pcscd.run(*decrypt, "-i", encrypted, "-o", decrypted)
    assert decrypted.read_text() == message.read_text()


def test_pkcs11_tool_gets_random_bytes(pcscd: CardInPcscd, tmp_path: Path) -> None:
    output = tmp_path / "random"
    pcscd.run("pkcs11-tool", "--generate-random", "32", "-o", output)
    assert len(set(output.read_bytes())) > 8


def test_pkcs11_tool_changes_the_pin(pcscd: CardInPcscd, card: PivCard) -> None:
    pcscd.run("pkcs11-tool", *LOG_IN, "--change-pin", "--new-pin", "7654321")
    assert card.contents.pin.value == b"7654321\xff"
    assert "CKR_PIN_INCORRECT" in pcscd.run("pkcs11-tool", *LOG_IN, "-O", check=False)
    assert card.contents.pin.left == 2
    pcscd.run("pkcs11-tool", "--login", "--pin", "7654321", "-O")
    assert card.contents.pin.left == 3


def test_piv_tool_authenticates_and_stores_a_certificate(pcscd: CardInPcscd, card: PivCard, tmp_path: Path) -> None:
    # piv-tool 0.23 can generate keys, too (-G), but fails to print them with OpenSSL 3
    secret = tmp_path / "management-key"
    secret.write_text(":".join(["01", "02", "03", "04", "05", "06", "07", "08"] * 3))
    environment = {"PIV_EXT_AUTH_KEY": str(secret)}
    pcscd.run("piv-tool", "-A", "M:9B:03", "-G", "9A:11", "-o", "key", environment=environment, check=False)
    new = card.contents.keys[Slot.AUTHENTICATION].private.public_key()
    assert card.revision > 0
    key = tmp_path / "new.pem"
    key.write_bytes(_pem(card.contents.keys[Slot.AUTHENTICATION].private))
    certificate = certificate_for(pcscd, tmp_path, key, "ada")
    pcscd.run("piv-tool", "-A", "M:9B:03", "-C", "9A", "-i", certificate, environment=environment, check=False)
    stored = tmp_path / "stored.der"
    pcscd.run("pkcs11-tool", "--read-object", "--type", "cert", "--id", AUTHENTICATION, "-o", stored)
    loaded = x509.load_der_x509_certificate(stored.read_bytes())
    assert loaded.subject.rfc4514_string() == "CN=ada"
    assert loaded.public_key() == new


def _pem(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_yubico_piv_tool_shows_the_status(pcscd: CardInPcscd) -> None:
    status = pcscd.run(*YUBICO, "-a", "status")
    assert "Version:\t5.4.3" in status
    assert f"Serial Number:\t{SERIAL}" in status
    assert GUID.hex in status
    assert status.count("Algorithm:\tECCP256") == 4
    assert "PIN tries left:\t3" in status


@pytest.mark.parametrize(
    ("slot", "algorithm"), [("9a", "ECCP256"), ("9c", "RSA2048"), ("9e", "ECCP384"), ("82", "ECCP256")]
)
def test_yubico_piv_tool_generates_and_imports_a_certificate(
    pcscd: CardInPcscd, card: PivCard, tmp_path: Path, slot: str, algorithm: str
) -> None:
    key = tmp_path / "key.pem"
    pcscd.run(*YUBICO, "-a", "generate", "-s", slot, "-A", algorithm, "-o", key)
    on_card = card.contents.keys[Slot(int(slot, 16))].private.public_key()
    assert load_pem_public_key(key.read_bytes()) == on_card
    certificate = certificate_for(pcscd, tmp_path, key, "grace")
    pcscd.run(*YUBICO, "-a", "import-certificate", "-s", slot, "-i", certificate)
    read = pcscd.run(*YUBICO, "-a", "read-certificate", "-s", slot)
    assert x509.load_pem_x509_certificate(read.encode()) == x509.load_pem_x509_certificate(certificate.read_bytes())
    log_in = ("-a", "verify-pin", "-P", "123456")
    test = pcscd.run(*YUBICO, *log_in, "-a", "test-signature", "-s", slot, "-i", certificate)
    assert "Successful" in test
    pcscd.run(*YUBICO, "-a", "delete-certificate", "-s", slot)
    pcscd.run(*YUBICO, "-a", "read-certificate", "-s", slot, check=False)


def test_yubico_piv_tool_signs(rsa_pcscd: CardInPcscd, tmp_path: Path, message: Path) -> None:
    signature = tmp_path / "signature"
    for slot, algorithm, number in (("9a", "ECCP256", AUTHENTICATION), ("9c", "RSA2048", SIGNATURE)):
        sign = ("--sign", "-s", slot, "-A", algorithm, "-H", "SHA256", "-i", message, "-o", signature)
        rsa_pcscd.run(*YUBICO, "-a", "verify-pin", "-P", "123456", *sign)
        key = public_key(rsa_pcscd, tmp_path, number)
        verify = ("openssl", "dgst", "-sha256", "-verify", key, "-signature", signature, message)
        assert "Verified OK" in rsa_pcscd.run(*verify)


def test_yubico_piv_tool_decrypts(rsa_pcscd: CardInPcscd, tmp_path: Path) -> None:
    certificate = tmp_path / "certificate.pem"
    rsa_pcscd.run(*YUBICO, "-a", "read-certificate", "-s", "9d", "-o", certificate)
    log_in = ("-a", "verify-pin", "-P", "123456")
    test = rsa_pcscd.run(*YUBICO, *log_in, "-a", "test-decipher", "-s", "9d", "-i", certificate)
    assert "Successfully performed RSA decryption" in test


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_yubico_piv_tool_imports_a_key(pcscd: CardInPcscd, card: PivCard, tmp_path: Path, kind: str) -> None:
    path, public = tmp_path / "key.pem", tmp_path / "public.pem"
    if kind == "ec":
        pcscd.run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path)
    else:
        pcscd.run("openssl", "genrsa", "-out", path, "2048")
    pcscd.run("openssl", "pkey", "-in", path, "-pubout", "-out", public)
    pcscd.run(*YUBICO, "-a", "import-key", "-s", "9e", "-i", path)
    assert card.contents.keys[Slot.CARD_AUTHENTICATION].private.public_key() == load_pem_public_key(public.read_bytes())


def test_yubico_piv_tool_changes_the_management_key(pcscd: CardInPcscd, card: PivCard) -> None:
    new = "aabbccddeeff00112233445566778899aabbccddeeff0011"
    pcscd.run(*YUBICO, "-a", "set-mgm-key", "-n", new)
    assert card.contents.management_key.key == bytes.fromhex(new)
    pcscd.run(*YUBICO, "-a", "set-chuid", check=False)
    pcscd.run(*YUBICO, f"--key={new}", "-a", "set-chuid", "-a", "set-ccc")


def test_wrong_pins_count_down_and_block_and_the_puk_unblocks(pcscd: CardInPcscd) -> None:
    wrong = (*YUBICO, "-a", "verify-pin", "-P", "999999")
    assert "2 tries left" in pcscd.run(*wrong, check=False)
    assert "1 tries left" in pcscd.run(*wrong, check=False)
    assert "blocked" in pcscd.run(*wrong, check=False)
    right = (*YUBICO, "-a", "verify-pin", "-P", "123456")
    assert "blocked" in pcscd.run(*right, check=False)
    assert "PIN tries left:\t0" in pcscd.run(*YUBICO, "-a", "status")
    unblock = (*YUBICO, "-a", "unblock-pin", "-N", "123456", "-P")
    pcscd.run(*unblock, "00000000", check=False)
    assert "Successfully unblocked" in pcscd.run(*unblock, "12345678")
    assert "Successfully verified" in pcscd.run(*right)
    changed = pcscd.run(*YUBICO, "-a", "change-puk", "-P", "12345678", "-N", "87654321")
    assert "Successfully changed the puk" in changed


def test_yubico_piv_tool_resets_a_blocked_card(pcscd: CardInPcscd, card: PivCard) -> None:
    pcscd.run(*YUBICO, "-a", "reset", check=False)
    for action in ("verify-pin", "change-puk"):
        for _ in range(3):
            pcscd.run(*YUBICO, "-a", action, "-P", "99999999", "-N", "11111111", check=False)
    assert "Successfully reset" in pcscd.run(*YUBICO, "-a", "reset")
    assert card.contents.keys == {}
    assert "PIN tries left:\t3" in pcscd.run(*YUBICO, "-a", "status")


def test_yubicos_pkcs11_module_signs(tmp_path: Path, message: Path) -> None:
    # that module looks only at readers whose name contains "Yubi"
    card = PivCard.personalised(serial=SERIAL, guid=GUID, algorithms={Slot.RETIRED_1: Algorithm.P256})
    with CardInPcscd(card, tmp_path, name="Yubico of sorts") as pcscd:
        module = ("pkcs11-tool", "--module", "libykcs11.so.2")
        assert f"serial num         : {SERIAL}" in pcscd.run(*module, "-L")
        signature = tmp_path / "signature"
        sign = ("--sign", "-m", "ECDSA-SHA256", "--id", "01", "--signature-format", "openssl")
        pcscd.run(*module, *LOG_IN, *sign, "-i", message, "-o", signature)
        key = public_key(pcscd, tmp_path, AUTHENTICATION)
        verify = ("openssl", "dgst", "-sha256", "-verify", key, "-signature", signature, message)
        assert "Verified OK" in pcscd.run(*verify)
