"""A guest's way to a host through NATS: a connection of its own for each pipe, which ends with it."""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import Mapping
from typing import Final
from typing import Protocol as Interface

from cardferry.transports.errors import NoHostError
from cardferry.transports.nats.connection import Connection, connect, no_responders
from cardferry.transports.nats.errors import NatsRefusesError
from cardferry.transports.nats.pipe import LostError, NatsPipe
from cardferry.transports.nats.settings import FleetSettings
from cardferry.transports.nats.subjects import down, up
from cardferry.transports.tls.inside import TlsInside
from cardferry.transports.tls.tcp import not_proved
from cardferry.wire.nats import VERSION, Kind, encode

#: s until a host that does not answer is given up.
_CONNECT_TIME: Final = 10.0
#: s until it is asked again.
_AGAIN: Final = 0.5


class Place(Interface):
    """Where to dial: an address.

    Attributes:
        name: of the host in the fleet.
        service: the NATS service.
        labels: what is said of the host, where it listens.
        how_to_start: what is to be started there, for people.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def service(self) -> FleetSettings: ...  # noqa: D102
    @property
    def labels(self) -> tuple[tuple[str, str], ...]: ...  # noqa: D102
    @property
    def how_to_start(self) -> str: ...  # noqa: D102


async def connect_to(address: Place, using: ssl.SSLContext) -> TlsInside:
    """A pipe to a host, which has proved who it is; raises `TransportError`."""
    settings = address.service
    connection = await connect(settings)
    number = secrets.token_hex(16)
    here, there = (one(address.name, settings.token, number) for one in (down, up))
    pipe = NatsPipe(str(address), lambda message: connection.publish(there, message), connection.leave)
    try:
        async with asyncio.timeout(_CONNECT_TIME):
            await _open(address, connection, pipe, here, there)
            secure = TlsInside(pipe, using, server=False, name=address.name, peer=f"who answers at {address}")
            await secure.proved
    except ssl.SSLError as error:
        pipe.abort()
        raise not_proved(str(address), error, address.how_to_start) from error
    except (TimeoutError, ConnectionError) as error:
        pipe.abort()
        said = "does not answer" if isinstance(error, TimeoutError) else f"has no time for us: {error}"
        hint = f"its log says why; {address.how_to_start}"
        raise NoHostError(f"{address.name} in the fleet {said}", hint) from error
    except BaseException:
        pipe.abort()
        raise
    return secure


async def _open(address: Place, connection: Connection, pipe: NatsPipe, here: str, there: str) -> None:
    denied: list[str] = []

    def nobody() -> None:
        if not pipe.opened.done():
            pipe.opened.set_exception(
                NoHostError(
                    f"there is no host {address.name} in the fleet at {connection.where}",
                    f"cardferry readers --fleet lists all; {address.how_to_start}",
                )
            )

    def refused(what: str) -> None:
        denied.append(what)
        if not pipe.opened.done():
            pipe.opened.set_exception(
                NatsRefusesError(
                    f"NATS at {connection.where} does not let this computer through to {address.name}: {what}",
                    "see what it permits to this user: docs/fleet.md has the subjects",
                )
            )

    def took(subject: str, message: bytes, header: Mapping[str, str]) -> None:
        if no_responders(header):
            nobody()
        else:
            pipe.took(message)

    connection.denied = refused
    connection.lost.add_done_callback(
        lambda _: pipe.end(LostError(f"the connection to NATS at {connection.where} is lost"), silent=True)
    )
    await connection.subscribe(here, took)
    while not pipe.opened.done():
        # Again and again: servers of a cluster know a moment later than we who listens where.
        connection.publish(there, encode(Kind.OPEN, VERSION), here)
        await asyncio.wait({pipe.opened}, timeout=_AGAIN)
    await pipe.opened
