"""Connections over TLS between two ends that have told each other a certificate through a connection that stands.

Each end makes a key (`OneTimeKey`) and believes one certificate, the other end's; nobody has signed them but their own
keys, and what they say of themselves does not count. A guest's is good for one connection. Keys are in memory only.
"""

from __future__ import annotations

import secrets
import socket
import ssl
from collections.abc import Iterable
from typing import Final

from cryptography import x509

from cardferry.pcsc.errors import CardferryError
from cardferry.system.descriptors import file_in_memory
from cardferry.transports.tls import certificates as c
from cardferry.transports.tls.errors import what_is_wrong
from cardferry.transports.tls.identity import context
from cardferry.transports.tls.inside import TlsInside
from cardferry.transports.tls.tcp import secured
from cardferry.wire.enrolment import LINK

#: s until a host that does not answer is given up.
_CONNECT_TIME: Final = 5.0


class NobodyThereError(CardferryError):
    """The other end cannot be reached directly."""


class OneTimeKey:
    """A key, with a certificate that says nothing but that.

    Attributes:
        certificate: for the other end (DER).
    """

    def __init__(self) -> None:
        key = c.new_key()
        made = c.self_signed(secrets.token_hex(8), key)
        self.certificate = c.der(made)
        self._pem = c.key_pem(key) + c.certificate_pem(made)

    def context(self, believed: Iterable[bytes], *, server: bool) -> ssl.SSLContext:
        """For an end that believes these certificates (DER). Raises `ssl.SSLError` when one is none."""
        made = context(server, None, None, [LINK])
        with file_in_memory(self._pem) as path:
            made.load_cert_chain(path)
        for one in believed:
            made.load_verify_locations(cadata=one)
        return made


class OneTimeDoor:
    """Who may come in at a listener: those who are expected, each once. See `cardferry.transports.tls.door`.

    Args:
        key: of the host's end.
    """

    def __init__(self, key: OneTimeKey) -> None:
        self._key = key
        #: Certificates (DER) by name.
        self._expected: dict[str, bytes] = {}
        self._here: set[str] = set()

    @property
    def certificate(self) -> bytes:
        """Of the host's end (DER)."""
        return self._key.certificate

    def expect(self, certificate: bytes) -> str:
        """Let whoever has the key of that certificate come in; returns what it is called. Raises `ValueError`."""
        try:
            name = _name(x509.load_der_x509_certificate(certificate))
            self._key.context([certificate], server=True)
        except (x509.InvalidVersion, ssl.SSLError) as error:
            raise ValueError("OpenSSL does not take it") from error
        self._expected[name] = certificate
        return name

    def forget(self, name: str) -> None:
        """It is not expected any more."""
        self._expected.pop(name, None)

    def took(self, name: str) -> None:
        """It is here, and nobody else may come in with that certificate."""
        self.forget(name)
        self._here.add(name)

    def left(self, name: str) -> None:
        """It is here no more."""
        self._here.discard(name)

    def context(self) -> ssl.SSLContext:
        """For the next one who comes."""
        return self._key.context(self._expected.values(), server=True)

    def admitted(self, certificate: x509.Certificate) -> tuple[str, str]:
        """What it is called, and why it must not come in."""
        name = _name(certificate)
        return name, "" if name in self._expected or name in self._here else "it is not expected"

    def seen(self, certificate: x509.Certificate, address: str, software: str = "") -> None:
        """Nobody keeps a list of them."""


def _name(certificate: x509.Certificate) -> str:
    return c.fingerprint(certificate).hex()


def listen(address: str, ports: tuple[int, int]) -> socket.socket:
    """Listen at one address, at the first port that is free of those; 0 stands for any. Raises `OSError`."""
    for port in range(ports[0], ports[1] + 1):
        family, _, _, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, socket.SOCK_STREAM)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(where)
            made.listen(64)
            made.setblocking(False)
        except OSError:
            made.close()
            if port == ports[1]:
                raise
        else:
            return made
    raise OSError(f"there are no ports from {ports[0]} to {ports[1]}")


async def dial(address: str, port: int, key: OneTimeKey, certificate: bytes) -> TlsInside:
    """Connect to the end that has the key of that certificate (DER).

    Raises:
        NobodyThereError: it cannot be reached, or is somebody else.
    """
    where = f"{address} port {port}"
    try:
        using = key.context([certificate], server=False)
        return await secured(address, port, f"{where}, direct", using, _CONNECT_TIME)
    except ssl.SSLError as error:
        raise NobodyThereError(f"who answers at {where} {what_is_wrong(error)}") from error
    except TimeoutError as error:
        raise NobodyThereError(f"nobody answers at {where}") from error
    except OSError as error:
        raise NobodyThereError(f"{where} cannot be reached: {error.strerror or error}") from error
