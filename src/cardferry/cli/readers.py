"""``cardferry readers``."""

from __future__ import annotations

import click
import msgspec

from cardferry.app.runtime import status_socket as control
from cardferry.app.runtime.paths import runtime_folder
from cardferry.cli.options import json_option
from cardferry.cli.say import say, say_json
from cardferry.cli.status import card
from cardferry.manager.status import WaiterStatus


class ReaderRow(msgspec.Struct):
    """One reader in ``cardferry readers --json``.

    Attributes:
        reader: its name for PC/SC programs.
        atr: in hex, empty without a card.
        command: ``attach`` or ``share``.
        hosts: as the user wrote them.
        sockets: where programs find it.
        holder: which program has the card, None when none has; on whose behalf, and for how long in s.
        waiters: who waits for it, by their places in the queue.
    """

    reader: str
    state: str
    atr: str
    command: str
    hosts: list[str]
    sockets: list[str]
    holder: str | None
    principal: str
    held: float
    waiters: list[WaiterStatus]


@click.command("readers")
@json_option
def command(as_json: bool) -> None:
    """List readers and their cards."""
    running = control.running(runtime_folder())
    found = [(one, slot) for one in running for slot in one.readers]
    if as_json:
        rows = [
            ReaderRow(
                slot.reader,
                slot.state,
                slot.atr,
                one.command,
                [link.host for link in one.links],
                sorted({link.socket for link in one.links}),
                slot.holder,
                slot.principal,
                slot.held,
                slot.waiters,
            )
            for one, slot in found
        ]
        say_json(rows)
        return
    for trouble in (trouble for one in running for trouble in one.troubles):
        say(f"{trouble.says}; {trouble.hint}" if trouble.hint else trouble.says, err=True)
    if not found:
        say("no readers")
    else:
        from cardferry.cli import tables  # noqa: PLC0415 - rich

        tables.show(
            "",
            ("reader", "card", "through"),
            [(slot.reader, card(slot), f"{one.command} {one.hosts}") for one, slot in found],
        )
