"""What an end of a TLS connection proves itself with, and what it believes of the other one: contexts of ``ssl``.

A host has its own authority (`Host`), a guest has joined hosts (`JoinedHost`), or both have certificates of a public
key infrastructure that somebody else runs (`Pki`). Files are read again when they have changed, so whoever renews
them need start nothing anew.
"""

from __future__ import annotations

import base64
import binascii
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Self

from cryptography import x509

from cardferry.private_file import write_private
from cardferry.transports.folders import locked
from cardferry.transports.tls import certificates as c
from cardferry.transports.tls import files
from cardferry.transports.tls.errors import InvitationError, TlsError
from cardferry.transports.tls.guests import Guests
from cardferry.wire.enrolment import ENROLMENT, LINK

_AUTHORITY, _CERTIFICATE, _KEY = "authority.pem", "certificate.pem", "key.pem"
_AUTHORITY_KEY = "authority.key.pem"
#: Characters of a SHA-256 in the alphabet of URLs (RFC 4648, section 5).
_FINGERPRINT_SIZE: Final = 43


def context(server: bool, certificate: Path | None, key: Path | None, alpn: Sequence[str]) -> ssl.SSLContext:
    """What both ends have in common: TLS 1.3, and no tickets, because who comes again is looked up again."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = made.maximum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.set_alpn_protocols(list(alpn))
    if server:
        made.num_tickets = 0
    if certificate is not None and key is not None:
        files.check_key(key)
        try:
            made.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            why = error.strerror or getattr(error, "reason", None) or str(error)
            raise TlsError(
                f"{certificate} with {key} cannot be used: {why}", "name a certificate and its key"
            ) from None
    return made


def trust(made: ssl.SSLContext, authority: Path) -> None:
    """Believe what that authority has signed; raises `TlsError`."""
    try:
        made.load_verify_locations(authority)
    except (OSError, ssl.SSLError) as error:
        why = error.strerror or getattr(error, "reason", None) or str(error)
        raise TlsError(f"the authority's certificate {authority} cannot be used: {why}", "name a file in PEM") from None


def read_certificate(path: Path) -> x509.Certificate:
    """Read the first certificate of a file in PEM; raises `TlsError`."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is none"
        raise TlsError(f"the certificate {path} cannot be read: {why}", "name another file, or join anew") from None


@dataclass(frozen=True, slots=True)
class Pki:
    """Files of a public key infrastructure, the same at a host and at a guest.

    Attributes:
        authority: who is believed, in PEM.
        certificate: this end's own, with those between it and the authority, in PEM.
        key: likewise.
    """

    authority: Path
    certificate: Path
    key: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them."""
        return self.authority, self.certificate, self.key

    def context(self, *, server: bool) -> ssl.SSLContext:
        """For either end; a guest also looks whether the host's certificate has the name that was dialled."""
        made = context(server, self.certificate, self.key, [LINK])
        trust(made, self.authority)
        made.check_hostname = not server
        return made


class Host:
    """A host's own authority, its certificate, and its guests.

    Args:
        folder: where they are kept.
        name: of this computer, for people who look at certificates.

    Attributes:
        guests: see `Guests`.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        folder.mkdir(mode=0o700, exist_ok=True)
        self.guests = Guests(folder)

    def authority(self) -> c.Authority:
        """The authority, which is made when it is not there."""
        key, certificate = self._folder / _AUTHORITY_KEY, self._folder / _AUTHORITY
        with locked(self._folder):
            if not certificate.exists():
                new = c.Authority.new(self._name)
                write_private(key, c.key_pem(new.key))
                write_private(certificate, c.certificate_pem(new.certificate))
        files.check_key(key)
        try:
            return c.Authority(c.read_key(key.read_bytes()), x509.load_pem_x509_certificate(certificate.read_bytes()))
        except ValueError as error:
            raise TlsError(f"the authority in {self._folder} is damaged: {error}",
                           "move that folder away: a new one is made, and all guests join anew") from None  # fmt: skip

    @property
    def files(self) -> tuple[Path, ...]:
        """What a context is made of."""
        return self._folder / _AUTHORITY, self._folder / _CERTIFICATE, self._folder / _KEY

    def context(self) -> ssl.SSLContext:
        """For those who come in; who has no certificate yet may join."""
        made = context(True, self._folder / _CERTIFICATE, self._folder / _KEY, [LINK, ENROLMENT])
        made.verify_mode = ssl.CERT_OPTIONAL
        trust(made, self._folder / _AUTHORITY)
        return made

    def renew(self) -> datetime:
        """See that the host's own certificate is good; returns when to look again."""
        path, key_path = self._folder / _CERTIFICATE, self._folder / _KEY
        with suppress(OSError, ValueError):
            due = c.renewal(x509.load_pem_x509_certificate(path.read_bytes()))
            if due > datetime.now(UTC):
                return due
        authority = self.authority()
        key = c.new_key()
        made = authority.issue(self._name, key.public_key(), c.HOST_LIFE, host=True)
        with locked(self._folder):
            write_private(key_path, c.key_pem(key))
            write_private(path, c.certificate_pem(made))
        return c.renewal(made)


@dataclass(frozen=True, slots=True)
class Line:
    """What `cardferry invite` prints: ``tls://HOST:PORT/NAME/FINGERPRINT/SECRET``.

    Attributes:
        address: ``tls://HOST:PORT``, or ``fleet:NAME?servers=URL``.
        name: of the guest.
        fingerprint: SHA-256 of the certificate of the host's authority.
        secret: good for one certificate.
    """

    address: str
    name: str
    fingerprint: bytes
    secret: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read one; raises `InvitationError`."""
        address, name, digest, secret = ("", "", "", "")
        with suppress(ValueError):
            address, name, digest, secret = text.strip().rsplit("/", 3)
        with suppress(binascii.Error, ValueError):
            if address.startswith(("tls://", "fleet:")) and secret and len(digest) == _FINGERPRINT_SIZE:
                return cls(address, name, base64.b64decode(digest + "=", "-_", validate=True), secret)
        raise InvitationError(
            "that is not a line of `cardferry invite`", "give all of it, from tls:// or fleet: on, without blanks"
        )

    def __str__(self) -> str:
        digest = base64.urlsafe_b64encode(self.fingerprint).decode().rstrip("=")
        return f"{self.address}/{self.name}/{digest}/{self.secret}"


class JoinedHost:
    """What a guest has of a host that it has joined.

    Args:
        folder: where that is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def joined(self) -> bool:
        """Whether there is anything."""
        return (self.folder / _CERTIFICATE).exists()

    def context(self) -> ssl.SSLContext:
        """For links, and to renew; raises `TlsError`."""
        made = context(False, self.folder / _CERTIFICATE, self.folder / _KEY, [LINK])
        trust(made, self.folder / _AUTHORITY)
        return made

    @property
    def own(self) -> Path:
        """The file with the guest's own certificate."""
        return self.folder / _CERTIFICATE

    def certificate(self) -> x509.Certificate:
        """The guest's own; raises `TlsError`."""
        return read_certificate(self.own)

    def is_of(self, line: Line) -> bool:
        """Whether it is the host that a line is from, and knows this account by the name that the line has."""
        try:
            authority = read_certificate(self.folder / _AUTHORITY)
            return c.fingerprint(authority) == line.fingerprint and c.principal_name(self.certificate()) == line.name
        except TlsError:
            return False

    def key(self) -> c.Key:
        """The guest's own; raises `TlsError`."""
        path = self.folder / _KEY
        files.check_key(path)
        try:
            return c.read_key(path.read_bytes())
        except (OSError, ValueError) as error:
            raise TlsError(f"the key {path} cannot be read: {error}", "name another file, or join anew") from None

    def due(self) -> float:
        """In how many s the certificate is to be renewed; not more than 0 when that is now."""
        return (c.renewal(self.certificate()) - datetime.now(UTC)).total_seconds()

    def left(self) -> timedelta:
        """How long it is still valid."""
        return self.certificate().not_valid_after_utc - datetime.now(UTC)

    def keep(self, key: c.Key, certificate: bytes, authority: bytes) -> None:
        """Keep what joining has brought (DER)."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        write_private(self.folder / _KEY, c.key_pem(key))
        write_private(self.folder / _AUTHORITY, c.certificate_pem(x509.load_der_x509_certificate(authority)))
        self.renewed(certificate)

    def renewed(self, certificate: bytes) -> None:
        """Keep a newer certificate (DER)."""
        write_private(self.folder / _CERTIFICATE, c.certificate_pem(x509.load_der_x509_certificate(certificate)))
