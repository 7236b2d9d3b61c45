"""Self-signed certificates for the keys of a new card, so that it can be used at once.

X.509 version 3 (RFC 5280), made with `cryptography`. Key usage follows the slot (SP 800-73-5 part 1, 3.1.3 and
following), because PKCS#11 modules offer only those operations that the certificate allows.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cardferry.cards.piv.keys import Algorithm, PrivateKey, Slot, algorithm_of

#: Days that a certificate is valid.
VALIDITY: Final = timedelta(days=3650)

_PURPOSES: Final = {
    Slot.AUTHENTICATION: "PIV Authentication",
    Slot.SIGNATURE: "Digital Signature",
    Slot.KEY_MANAGEMENT: "Key Management",
    Slot.CARD_AUTHENTICATION: "Card Authentication",
}


def self_signed(key: PrivateKey, slot: Slot, holder: str, not_before: datetime | None = None) -> bytes:
    """A DER certificate.

    Args:
        key: signs it, and is what it is about.
        slot: decides the key usage.
        holder: common name of the subject, 1 to 64 characters.
        not_before: valid from then for `VALIDITY`; now by default.
    """
    purpose = _PURPOSES.get(slot, "Retired Key Management")
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, purpose),
            x509.NameAttribute(NameOID.COMMON_NAME, holder),
        ]
    )
    start = not_before or datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + VALIDITY)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(slot, isinstance(key, rsa.RSAPrivateKey)), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if slot is Slot.AUTHENTICATION:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    digest = hashes.SHA384() if algorithm_of(key) is Algorithm.P384 else hashes.SHA256()
    return builder.sign(key, digest).public_bytes(Encoding.DER)


def _key_usage(slot: Slot, is_rsa: bool) -> x509.KeyUsage:
    signs = slot in (Slot.AUTHENTICATION, Slot.SIGNATURE, Slot.CARD_AUTHENTICATION)
    return x509.KeyUsage(
        digital_signature=signs,
        content_commitment=slot is Slot.SIGNATURE,
        key_encipherment=not signs and is_rsa,
        data_encipherment=False,
        key_agreement=not signs and not is_rsa,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
