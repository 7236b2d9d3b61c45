"""``cardferry status``."""

from __future__ import annotations

import time

import click
import msgspec

from cardferry.app import control
from cardferry.app.control import Running
from cardferry.app.paths import runtime_folder
from cardferry.cli.options import json_option
from cardferry.manager.status import SlotStatus


@click.command("status")
@json_option
def command(as_json: bool) -> None:
    """Show readers, cards, who holds them and who waits."""
    running = control.running(runtime_folder())
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(running)))
    elif not running:
        click.echo("nothing is attached or shared")
    else:
        for one in running:
            _show(one)


def _show(one: Running) -> None:
    from cardferry.cli import tables  # noqa: PLC0415 - rich

    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.since))
    click.echo(f"{one.command} {one.hosts}: since {since}, {one.contexts} contexts (process {one.pid})")
    for link in one.links:
        click.echo(f"{link.host}: {link.state}, {link.socket}")
    tables.show(
        "",
        ("reader", "card", "held by", "waiting", "clients"),
        [(slot.reader, card(slot), _holder(slot), _waiting(slot), "\n".join(slot.clients)) for slot in one.readers],
    )


def card(slot: SlotStatus) -> str:
    """The card's ATR, or why there is none to show."""
    if slot.atr:
        return slot.atr
    return "does not answer" if "present" in slot.state else "none"


def _holder(slot: SlotStatus) -> str:
    return "nobody" if slot.holder is None else f"{slot.holder} for {slot.held:.1f} s"


def _waiting(slot: SlotStatus) -> str:
    return "\n".join(f"{waiter.client} for {waiter.waiting:.1f} s" for waiter in slot.waiters)
