"""``cardferry card``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cardferry.cli.say import say

if TYPE_CHECKING:
    from cardferry.app.commands.card import Address


@click.command("card")
@click.option(
    "--dial",
    "address",
    default="127.0.0.1:35963",
    show_default=True,
    metavar="HOST:PORT",
    help="where the virtual reader listens: vsmartcard's vpcd, or cardferry attach vpicc:PORT; or unix:PATH, for "
    "vpicc:unix:PATH",
)
def command(address: str) -> None:
    """Put a PIV card made of software into a virtual reader.

    The card has keys and certificates; its PIN is 123456, its PUK 12345678. All of it is gone when the command ends.
    """
    from cardferry.app.commands.card import dial  # noqa: PLC0415
    from cardferry.cards.piv import PivCard  # noqa: PLC0415 - brings cryptography along

    dial(PivCard.personalised(), _parse(address), lambda: say(f"ready in the reader at {address}"))


def _parse(address: str) -> Address:
    path = address.removeprefix("unix:")
    if path.startswith("/"):
        return Path(path)
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise click.BadParameter(f"{address!r} is neither HOST:PORT nor unix:PATH", param_hint="--dial")
    return host, int(port)
