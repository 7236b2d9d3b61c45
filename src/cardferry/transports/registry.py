"""The transports over which a link can be dialled, by the scheme of their URLs.

A new one is a module with an `Address`, and a line here: ``docs/transports/README.md`` says how. ssh is not among them:
its connections ask for passwords, serve many sessions, and lead to hosts that have no cardferry
(`cardferry.app.hosts.ssh_host`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cardferry.transports.base import Address
from cardferry.transports.errors import AddressSyntaxError
from cardferry.transports.exec import ExecAddress
from cardferry.transports.nats.address import FleetAddress
from cardferry.transports.tls.address import TlsAddress
from cardferry.transports.unix import UnixAddress
from cardferry.transports.vsock import VsockAddress

TRANSPORTS: Final[Mapping[str, type[Address]]] = {
    "unix": UnixAddress,
    "vsock": VsockAddress,
    "tls": TlsAddress,
    "fleet": FleetAddress,
    "exec": ExecAddress,
}


def parse_listening(text: str) -> Address:
    """What ``--listen`` is given, which may be just the path of a Unix socket; raises `AddressSyntaxError`."""
    scheme, _, rest = (f"unix:{text}" if text.startswith("/") else text).partition(":")
    transport = TRANSPORTS.get(scheme)
    if transport is None or not transport.LISTEN_FORM:
        forms = "; ".join(one.LISTEN_FORM for one in TRANSPORTS.values() if one.LISTEN_FORM)
        raise AddressSyntaxError(f"nowhere to listen: {text!r}", f"write it as in {forms}")
    return transport.parse_listening(rest, text)
