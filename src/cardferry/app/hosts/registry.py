"""All ways of writing ``HOST``, by their schemes.

An ssh destination is anything without a scheme (``name``, ``user@name``, an alias of ``~/.ssh/config``) or an
``ssh://`` URL, unless it is the name of a host that was joined (`cardferry join`); the transports of links bring their
own schemes along; the rest names something on this computer.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Final

from cardferry.app.hosts.address import HostAddress
from cardferry.app.hosts.direct_link import LinkHost
from cardferry.app.hosts.pool_host import PoolHost
from cardferry.app.hosts.sources import PcscdHost, VirtualHost, VpiccHost
from cardferry.app.hosts.ssh_host import SshHost
from cardferry.transports.base import Address
from cardferry.transports.errors import AddressSyntaxError
from cardferry.transports.nats.address import FleetAddress
from cardferry.transports.registry import TRANSPORTS
from cardferry.transports.tls.address import TlsAddress

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(.*)", re.DOTALL)

#: Each kind of host; `FORMS` lists what people can write in this order.
KINDS: Final[tuple[type[HostAddress], ...]] = (SshHost, PcscdHost, LinkHost, PoolHost, VpiccHost, VirtualHost)
#: For errors and ``--help``.
FORMS: Final = ", ".join(form for kind in KINDS for form in kind.FORMS)


def _link(transport: type[Address]) -> Callable[[str, str], LinkHost]:
    return lambda rest, text: LinkHost(transport.parse(rest, text))


def _in_fleet(rest: str, text: str) -> LinkHost:
    from cardferry.app.runtime.fleet import configured_fleet  # noqa: PLC0415 - it reads the configuration

    return LinkHost(FleetAddress.parse(rest, text).knowing(configured_fleet()))


#: Scheme -> makes the host of what follows the scheme, and of the whole text; None when that is none, or
#: `AddressSyntaxError` when there is more to say.
SCHEMES: Final[Mapping[str, Callable[[str, str], HostAddress | None]]] = {
    "ssh": SshHost.parse,
    "pcscd": PcscdHost.parse,
    "vpicc": VpiccHost.parse,
    "virtual": VirtualHost.parse,
    "pool": lambda rest, text: PoolHost.parse(rest, text, parse_host),
    **{scheme: _link(transport) for scheme, transport in TRANSPORTS.items()},
    "fleet": _in_fleet,
}


def parse_host(text: str) -> HostAddress:
    """Parse ``HOST``; raises `AddressSyntaxError`."""
    match = _SCHEME.fullmatch(text)
    if (match is None or _is_address(text)) and (joined := TlsAddress.joined(text)) is not None:
        return LinkHost(joined)
    if match is None or _is_address(text):
        scheme, rest = "ssh", f"//{text}"
    else:
        scheme, rest = match[1].lower(), match[2]
    host = SCHEMES[scheme](rest, text) if scheme in SCHEMES else None
    if host is None:
        hint = f"for another port write ssh://{text}" if rest.isdigit() else f"HOST is one of {FORMS}"
        raise AddressSyntaxError(f"not a HOST: {text!r}", hint)
    return host


def _is_address(text: str) -> bool:
    """Whether it is an IPv6 address, with or without a user: its colons are no scheme."""
    try:
        ipaddress.IPv6Address(text.rpartition("@")[2].partition("%")[0])
    except ValueError:
        return False
    return True
