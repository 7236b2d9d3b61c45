"""``cardferry readers``."""

from __future__ import annotations

from collections.abc import Sequence

import click
import msgspec

from cardferry.app.commands.readers import ReadersHere, readers_here
from cardferry.app.runtime import signals as lifetime
from cardferry.app.runtime import status_socket as control
from cardferry.app.runtime.paths import runtime_folder
from cardferry.app.runtime.status_socket import Running
from cardferry.cli import tables
from cardferry.cli.fleet_options import fleet_option
from cardferry.cli.options import json_option
from cardferry.cli.say import say, say_json
from cardferry.cli.status import card
from cardferry.manager.status import SlotStatus, WaiterStatus


class ReaderRow(msgspec.Struct):
    """One reader in ``cardferry readers --json``.

    Attributes:
        reader: its name for PC/SC programs.
        card: what to call the card, empty when that is not known.
        atr: in hex, empty without a card.
        command: ``attach``, ``share``, ``host`` or ``guest``; ``pcscd`` when nothing of ours runs and that of this
            computer has told.
        hosts: as the user wrote them.
        sockets: where programs find it.
        holder: which program has the card, None when none has; on whose behalf, and for how long in s.
        waiters: who waits for it, by their places in the queue.
    """

    reader: str
    state: str
    card: str
    atr: str
    command: str
    hosts: list[str]
    sockets: list[str]
    holder: str | None
    principal: str
    held: float
    waiters: list[WaiterStatus]


@click.command("readers")
@fleet_option("those of all hosts of the fleet at these NATS servers, or at those of the configuration", bare=True)
@json_option
def command(fleet: str | None, as_json: bool) -> None:
    """List readers and their cards.

    They are those that are attached, shared or served; where nothing is, those of the pcscd of this computer.
    """
    if fleet is not None:
        _of_fleet(fleet, as_json)
        return
    running = control.all_running(runtime_folder())
    here = None if running else lifetime.run(readers_here)
    rows = list(_rows(running, here))
    if as_json:
        say_json([row for row, _ in rows])
        return
    for trouble in (trouble for one in running for trouble in one.troubles):
        say(f"{trouble.says}; {trouble.hint}" if trouble.hint else trouble.says, err=True)
    if not rows:
        say(f"no readers{f': {here.missing}' if here is not None and here.missing else ''}")
    else:
        tables.show(
            ("reader", "card", "through"),
            [(row.reader, card(slot), " ".join([row.command, *row.hosts])) for row, slot in rows],
        )


def _of_fleet(servers: str, as_json: bool) -> None:
    from cardferry.app.commands.fleet_readers import fleet_readers  # noqa: PLC0415 - an extra

    rows = lifetime.run(lambda: fleet_readers(servers)) or []
    if as_json:
        say_json(rows)
    elif not rows:
        say("the fleet has no hosts")
    else:
        tables.show(
            ("host", "reader", "card", "serial", "in use", "labels", "at"),
            [
                (
                    row.host,
                    row.reader or "none",
                    row.card or ("a card" if row.atr else ""),
                    " ".join(row.serials),
                    (f"yes, {row.waiting} wait" if row.waiting else "yes") if row.held else "",
                    " ".join(f"{key}={value}" for key, value in sorted(row.labels.items())),
                    row.address,
                )
                for row in rows
            ],
        )


def _rows(running: Sequence[Running], here: ReadersHere | None) -> list[tuple[ReaderRow, SlotStatus]]:
    found = [
        (
            slot,
            one.command,
            [link.host for link in one.links if not link.pool],
            sorted({link.socket for link in one.links}),
        )
        for one in running
        for slot in one.readers
    ]
    if here is not None:
        found += [(slot, "pcscd", [], [here.socket]) for slot in here.readers]
    return [(_row(slot, command, hosts, sockets), slot) for slot, command, hosts, sockets in found]


def _row(slot: SlotStatus, command: str, hosts: list[str], sockets: list[str]) -> ReaderRow:
    use = slot.holder, slot.principal, slot.held, slot.waiters
    return ReaderRow(slot.reader, slot.state, slot.card, slot.atr, command, hosts, sockets, *use)
