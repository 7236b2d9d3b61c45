"""A host and guests that have joined it, all in the tests' own process, and certificates that are good for nothing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from cardferry.transports.base import Listener
from cardferry.transports.sockets import Access
from cardferry.transports.tls import certificates as c
from cardferry.transports.tls.address import TlsAddress
from cardferry.transports.tls.dialling import Target, joined_host
from cardferry.transports.tls.host import own_host


def free_port() -> int:
    """A port of 127.0.0.1 at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def join(address: Target, name: str = "build1", life: timedelta = c.GUEST_LIFE) -> None:
    """Make this account a guest of its own host, without a connection."""
    host, key = own_host(), c.new_key()
    secret = host.guests.invite(name, 60.0, life.total_seconds())
    assert host.guests.join(secret, c.key_fingerprint(key.public_key()), "127.0.0.1", "a test") is not None
    authority = host.authority()
    made = authority.issue(name, key.public_key(), life, host=False)
    joined_host(address).keep(key, c.der(made), c.der(authority.certificate))


def joined_port(folder: Path, patch: pytest.MonkeyPatch) -> TlsAddress:
    """A port at which nobody listens yet, and that was joined."""
    patch.setenv("XDG_DATA_HOME", str(folder))
    address = TlsAddress("127.0.0.1", free_port())
    join(address)
    return address


@contextmanager
def open_listener(address: TlsAddress) -> Iterator[Listener]:
    """Listen there."""
    with address.listen(Access()) as listener:
        yield listener


def signed(
    authority: c.Authority,
    key: c.Key,
    names: list[x509.GeneralName],
    *,
    server: bool = False,
    days: tuple[float, float] = (-1, 1),
) -> x509.Certificate:
    """A certificate as somebody else's infrastructure makes them.

    Args:
        days: from when to when it is valid, from now.
    """
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return builder.sign(authority.key, hashes.SHA256())


class Infrastructure:
    """A public key infrastructure of somebody else.

    Args:
        folder: where its files are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = c.Authority.new("somebody")
        (folder / "ca.pem").write_bytes(c.certificate_pem(self.authority.certificate))

    def files(
        self, name: str, *names: x509.GeneralName, server: bool = False, days: tuple[float, float] = (-1, 1)
    ) -> tuple[str, str, str]:
        """Files for somebody: authority, certificate, key."""
        key, (certificate, private) = c.new_key(), (self.folder / f"{name}.pem", self.folder / f"{name}.key")
        certificate.write_bytes(c.certificate_pem(signed(self.authority, key, list(names), server=server, days=days)))
        private.touch(0o600)
        private.write_bytes(c.key_pem(key))
        return str(self.folder / "ca.pem"), str(certificate), str(private)


def run(loop: str, main: Coroutine[Any, Any, None]) -> None:
    """Run something in asyncio's event loop or in uvloop's."""
    factory = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}[loop]
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)
