"""Who may see a page that other computers reach: those with a certificate, and a name that this host has been told.

The certificates are those of guests over TLS (`cardferry.transports.tls`): of the host's own authority, for who has
joined, or of a public key infrastructure. Being a guest is not enough: a page shows what all of them do.
"""

from __future__ import annotations

import ssl
from collections.abc import Collection
from datetime import UTC, datetime
from functools import partial

from cryptography import x509

from cardferry.pcsc.caller import PrincipalKind
from cardferry.transports.tls.door import HostDoor, PkiDoor


class Viewers:
    """See the module.

    Args:
        door: says whose certificate is good, and has this end's own.
        names: principals, such as ``tls:anna``.
    """

    def __init__(self, door: HostDoor | PkiDoor, names: Collection[str]) -> None:
        self._door = door
        self._names = frozenset(names)

    def context(self) -> ssl.SSLContext:
        """For HTTPS; a newer certificate of this end holds for whoever comes next. Raises `TlsError`."""
        made = self._door.context()
        made.verify_mode = ssl.CERT_REQUIRED
        made.set_alpn_protocols(["http/1.1"])
        made.sni_callback = partial(_renewed, self._door)
        return made

    def name(self, certificate: bytes | None) -> str | None:
        """The viewer who has shown that certificate (DER), of which it is known that it is good; None for others."""
        if certificate is None:
            return None
        shown = x509.load_der_x509_certificate(certificate)
        if shown.not_valid_after_utc <= datetime.now(UTC):  # since it was shown
            return None
        name, refusal = self._door.admitted(shown)
        principal = f"{PrincipalKind.TLS.value}:{name}"
        return principal if not refusal and principal in self._names else None


def _renewed(door: HostDoor | PkiDoor, connection: ssl.SSLObject, _name: str, _context: ssl.SSLContext) -> None:
    connection.context = door.context()
