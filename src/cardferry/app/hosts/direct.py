"""On the guest: a link's own connection to a host that was reached with ssh (`cardferry.link.guest_direct`).

It goes to the address to which ssh is connected. Where ssh goes through something else (a jump host), that is not to
be seen here, and the address is what the host says.
"""

from __future__ import annotations

from ipaddress import ip_address

from cardferry.app.hosts.ssh_connection import SshConnector
from cardferry.link.guest_direct import Ask, DialDirect, NoDirectError
from cardferry.transports.base import Pipe


def direct_dial(connector: SshConnector) -> DialDirect:
    """Makes attempts to connect to the host of a connector."""

    async def dial(ask: Ask) -> Pipe:
        from cardferry.transports.tls import one_time  # noqa: PLC0415 - ssl and cryptography

        key = one_time.OneTimeKey()
        found = await ask(key.certificate)
        if found.refusal:
            raise NoDirectError(found.refusal)
        address = connector.peer() or _elsewhere(found.address)
        return await one_time.dial(address, found.port, key, found.certificate)

    return dial


def _elsewhere(address: str) -> str:
    """An address of another computer that a host has told; raises `NoDirectError` for any other."""
    try:
        known = ip_address(address.partition("%")[0])
    except ValueError:
        raise NoDirectError(f"the host's address is not known, {address!r} is what it says") from None
    if known.is_loopback or known.is_unspecified or known.is_multicast:
        raise NoDirectError(f"ssh reaches the host through another computer, {address} is its address there")
    return address
