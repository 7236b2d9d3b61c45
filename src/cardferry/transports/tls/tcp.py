"""TLS over TCP, as a guest dials it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Final
from typing import Protocol as Interface

from cardferry.transports.errors import NoHostError, TransportError
from cardferry.transports.tls.errors import NotTlsError, TlsError, what_is_wrong
from cardferry.transports.tls.pipe import TlsPipe

#: s until a host that does not answer is given up.
_CONNECT_TIME: Final = 10.0


class Port(Interface):
    """Where to dial.

    Attributes:
        host: name or IP address.
        port: of TCP.
        how_to_start: for people.
    """

    @property
    def host(self) -> str: ...  # noqa: D102
    @property
    def port(self) -> int: ...  # noqa: D102
    @property
    def how_to_start(self) -> str: ...  # noqa: D102


async def connect(address: Port, using: ssl.SSLContext) -> TlsPipe:
    """Connect; raises `TransportError`."""
    pipe = TlsPipe(str(address), peer=f"who answers at {address}")
    try:
        async with asyncio.timeout(_CONNECT_TIME):
            await asyncio.get_running_loop().create_connection(
                lambda: pipe, address.host, address.port, ssl=using, server_hostname=address.host
            )
    except OSError as error:
        raise explained(address, error) from error
    return pipe


def explained(address: Port, error: OSError) -> TransportError:
    """What a person can do about it."""
    if isinstance(error, socket.gaierror):
        return NoHostError(f"{address.host} has no address: {error.strerror}", "see how it is written, and the network")
    if isinstance(error, ssl.SSLError):
        return not_proved(str(address), error, address.how_to_start)
    if isinstance(error, TimeoutError):
        return NoHostError(
            f"nobody answers at {address}", f"{address.how_to_start}; see that no firewall is in between"
        )
    return NoHostError(f"nobody listens at {address}: {error.strerror or error}", address.how_to_start)


def not_proved(where: str, error: ssl.SSLError, start: str) -> TransportError:
    """Who answers has not proved that it is the host; ``start`` is how to start that."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return TlsError(
            f"who answers at {where} {what_is_wrong(error)}",
            "if the host was set up anew: cardferry invite NAME there, and join anew; if not, it is somebody else",
        )
    return NotTlsError(f"who answers at {where} {what_is_wrong(error)}", start)
