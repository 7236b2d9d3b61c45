"""A host of a fleet enters itself and its readers in the directory, for as long as it takes guests there.

LinkServer( ... )  ~ nats ~   and   Entry( readers of the same ) in the directory
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cardferry.app.agent.listeners import Serve
from cardferry.app.agent.serving import Serving
from cardferry.app.hosts.ssh_link import SOFTWARE
from cardferry.pcsc.errors import UserError
from cardferry.policy.guarded import Guarded
from cardferry.transports.base import Listener

if TYPE_CHECKING:
    from cardferry.fleet.members import FleetReader


def take_guests(
    opened: Serving,
    listener: Listener,
    refused: Callable[[UserError], None] | None = None,
    serve: Serve | None = None,
) -> None:
    """Take guests at a listener from now on, and say so where there is a directory.

    Args:
        refused: is told when another host has the name in the fleet; None where that is only tried again.
        serve: serves them; None for ``opened`` itself.
    """
    if listener.name.startswith("fleet:"):
        _enter(opened, listener, refused)
    opened.guests.add(listener, serve or opened.host.serve)


def _enter(opened: Serving, listener: Listener, refused: Callable[[UserError], None] | None) -> None:
    from cardferry.fleet.entry import Entry  # noqa: PLC0415 - only for who is in a fleet
    from cardferry.fleet.members import FleetHost  # noqa: PLC0415
    from cardferry.transports.nats.listener import NatsListener  # noqa: PLC0415

    if not isinstance(listener, NatsListener):
        return
    if (guard := opened.served.guard) is not None:
        guard.show_cards()
    manager = opened.host.manager
    serial = manager.snapshot.serial

    async def changed() -> None:
        nonlocal serial
        serial = (await manager.changed(serial)).serial

    place = listener.address
    host = FleetHost(place.name, labels=dict(place.labels), version=SOFTWARE)
    entry = Entry(host, lambda: readers(opened), changed, place.service.replicas)
    listener.presence = entry.entered
    listener.refused = refused


def readers(opened: Serving) -> tuple[FleetReader, ...]:
    """The readers as the directory has them."""
    from cardferry.fleet.members import FleetReader  # noqa: PLC0415

    guarded, found = opened.served.guarded, []
    for slot in opened.describe().readers:
        card = guarded.identity(slot.reader) if isinstance(guarded, Guarded) and slot.atr else None
        found.append(
            FleetReader(
                slot.reader,
                slot.card,
                slot.atr,
                card.serials if card is not None else (),
                dict(card.subjects) if card is not None else {},
                slot.holder is not None,
                len(slot.waiters),
            )
        )
    return tuple(found)
