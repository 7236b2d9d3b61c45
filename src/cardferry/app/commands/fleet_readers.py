"""``readers --fleet``: the readers of all hosts of a fleet."""

from __future__ import annotations

import msgspec

from cardferry.app.runtime.fleet import configured_fleet
from cardferry.fleet.directory import hosts
from cardferry.transports.nats.connection import check_extra


class FleetRow(msgspec.Struct, frozen=True):
    """One reader in ``cardferry readers --fleet --json``.

    Attributes:
        host: its name; ``fleet:HOST`` leads there.
        address: where that is, for people.
        labels: of the host.
        version: of the host's program.
        reader: its name at the host; empty for a host without readers.
        card: what to call the card, empty when that is not known.
        atr: in hex, empty without a card.
        serials: the card's numbers.
        subjects: whom its certificates are about, by key.
        held: whether somebody has the card.
        waiting: programs that wait for it.
    """

    host: str
    address: str
    labels: dict[str, str]
    version: str
    reader: str = ""
    card: str = ""
    atr: str = ""
    serials: tuple[str, ...] = ()
    subjects: dict[str, str] = {}
    held: bool = False
    waiting: int = 0


async def fleet_readers(servers: str) -> list[FleetRow]:
    """All that are there now.

    Args:
        servers: NATS servers; empty for those of the configuration.

    Raises:
        UserError: there is no directory to read.
    """
    check_extra()
    rows = []
    for host in await hosts(configured_fleet(servers=servers)):
        row = FleetRow(host.name, host.address, host.labels, host.version)
        rows += [
            msgspec.structs.replace(
                row, reader=one.name, card=one.card, atr=one.atr, serials=one.serials, subjects=one.subjects,
                held=one.held, waiting=one.waiting,
            )
            for one in host.readers
        ] or [row]  # fmt: skip
    return rows
