"""A host and guests that have joined it, all in the tests' own process, and certificates that are good for nothing."""

from __future__ import annotations

import socket
from datetime import timedelta
from pathlib import Path

import pytest

from cardferry.transports.tls import certificates as c
from cardferry.transports.tls.address import TlsAddress
from cardferry.transports.tls.dialling import joined_host
from cardferry.transports.tls.host import own_host


def free_port() -> int:
    """A port of 127.0.0.1 at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def join(address: TlsAddress, name: str = "build1", life: timedelta = c.GUEST_LIFE) -> None:
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
