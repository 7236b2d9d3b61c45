"""``cardferry invite``."""

from __future__ import annotations

import click

from cardferry.cli.say import say
from cardferry.cli.seconds import DurationType


@click.command("invite")
@click.argument("name", metavar="NAME")
@click.option(
    "--for", "seconds", type=DurationType(), default="15m", show_default=True, help="how long the line is good"
)
@click.option(
    "--valid",
    "life",
    type=DurationType(days=825),
    default="90d",
    show_default=True,
    help="how long each certificate of the guest is valid; it renews it by itself",
)
@click.option("--address", metavar="HOST[:PORT]", help="where the guest finds this computer, if not by its name")
def command(name: str, seconds: float, life: float, address: str | None) -> None:
    """Print a line with which another computer can join this one, once: `cardferry join LINE` there.

    From then on it is the principal tls:NAME for rules and records, and uses this computer's readers with `cardferry
    attach`, while `cardferry host --listen tls::7764` runs here.
    """
    from cardferry.app.commands.guests import invite  # noqa: PLC0415 - cryptography

    line, notes = invite(name, seconds, life, address)
    for note in notes:
        say(note, err=True)
    say(line)
