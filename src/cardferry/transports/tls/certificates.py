"""Certificates: the small authority that a host has for its guests, and whom a certificate is about.

X.509 as RFC 5280 has it; the library ``cryptography`` does it. Keys are on the curve P-256. The authority signs
certificates of hosts (for TLS servers only) and of guests (for TLS clients only), so none can pass for the other.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

#: Validity of an authority, of a host's certificate, and of a guest's unless its invitation says otherwise.
AUTHORITY_LIFE: Final = timedelta(days=20 * 365)
HOST_LIFE: Final = timedelta(days=365)
GUEST_LIFE: Final = timedelta(days=90)
#: Clocks may differ by so much.
_LEEWAY: Final = timedelta(hours=1)
#: A certificate is renewed when so much of its life is over.
_RENEWED_AT: Final = 2 / 3
#: What a principal may be called: rules and records must be able to name it.
_PRINCIPAL: Final = re.compile(r"[A-Za-z0-9*_.:/@%+~=,-]{1,255}")

Key = ec.EllipticCurvePrivateKey


def new_key() -> Key:
    """A new private key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: Key) -> bytes:
    """As it is kept in a file (PKCS #8, not encrypted)."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def read_key(pem: bytes) -> Key:
    """Read a key of ours; raises `ValueError`."""
    key = serialization.load_pem_private_key(pem, None)
    if not isinstance(key, Key):
        raise ValueError("not a key on an elliptic curve")
    return key


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """As it is kept in a file."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def der(certificate: x509.Certificate) -> bytes:
    """As it is sent."""
    return certificate.public_bytes(serialization.Encoding.DER)


def fingerprint(certificate: x509.Certificate) -> bytes:
    """SHA-256 of the whole certificate."""
    return certificate.fingerprint(hashes.SHA256())


def key_fingerprint(key: CertificatePublicKeyTypes) -> str:
    """SHA-256 of a public key (SubjectPublicKeyInfo), in hexadecimal digits."""
    info = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(info).hexdigest()


def renewal(certificate: x509.Certificate) -> datetime:
    """When it is to be renewed."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return begin + (end - begin) * _RENEWED_AT


def principal_name(certificate: x509.Certificate) -> str:
    """Whom a certificate is about: the first URI of its subjectAltName, such as SPIFFE's, or else its first DNS name.

    Empty when there is none, or when no rule could name it.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ""
    found = [
        *names.get_values_for_type(x509.UniformResourceIdentifier),
        *names.get_values_for_type(x509.DNSName),
    ]
    return found[0] if found and _PRINCIPAL.fullmatch(found[0]) else ""


def request(key: Key) -> bytes:
    """A certificate signing request (DER), which proves that whoever sends it has the key."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def requested_key(data: bytes) -> ec.EllipticCurvePublicKey:
    """The key of a request; raises `ValueError` when it is none, not signed with that key, or no key on P-256."""
    wanted = x509.load_der_x509_csr(data)
    key = wanted.public_key()
    if not wanted.is_signature_valid or not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("the request is not signed with a key on an elliptic curve")
    if key.curve.name != ec.SECP256R1.name:
        raise ValueError("the key is not on P-256")
    return key


def host_certificate_of(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    """Whether the authority has issued that certificate to a host."""
    try:
        certificate.verify_directly_issued_by(authority)
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return ExtendedKeyUsageOID.SERVER_AUTH in usage


def self_signed(name: str, key: Key) -> x509.Certificate:
    """A certificate that says nothing but that there is this key; for ever, because clocks differ."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(1970, 1, 2, tzinfo=UTC))
        .not_valid_after(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))  # RFC 5280, section 4.1.2.5
    )
    return builder.sign(key, hashes.SHA256())


@dataclass(frozen=True, slots=True)
class Authority:
    """A host's own.

    Attributes:
        key: signs.
        certificate: what guests pin.
    """

    key: Key
    certificate: x509.Certificate

    @classmethod
    def new(cls, name: str) -> Authority:
        """Make one; ``name`` is for people who look at certificates."""
        key = new_key()
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"cardferry at {name}"[:64])])
        builder = _builder(subject, subject, key.public_key(), key.public_key(), AUTHORITY_LIFE)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(signs=True), critical=True)
        return cls(key, builder.sign(key, hashes.SHA256()))

    def issue(self, name: str, key: CertificatePublicKeyTypes, life: timedelta, *, host: bool) -> x509.Certificate:
        """Sign a certificate.

        Args:
            name: whom it is about, as a DNS name.
            life: how long it is valid from now on.
            host: it is a host's, else a guest's.
        """
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if host else ExtendedKeyUsageOID.CLIENT_AUTH
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
        builder = _builder(subject, self.certificate.subject, key, self.key.public_key(), life)
        for extension, critical in (
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_usage(signs=False), True),
            (x509.ExtendedKeyUsage([purpose]), False),
            (x509.SubjectAlternativeName([x509.DNSName(name)]), False),
        ):
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self.key, hashes.SHA256())


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: CertificatePublicKeyTypes,
    issuer_key: ec.EllipticCurvePublicKey,
    life: timedelta,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - min(_LEEWAY, abs(life)))  # of a short life two thirds must not be over at once
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    """An authority signs certificates and nothing else; others sign handshakes and nothing else."""
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
