"""``cardferry demo``."""

from __future__ import annotations

import click


@click.command("demo")
def command() -> None:
    """See it work: two computers on this machine, a card in one, programs in the other.

    Uses what is installed (pcscd, vpcd, OpenSSH, OpenSC; as root also network namespaces), says what it uses, leaves
    nothing behind, and takes less than a minute.
    """
    from rich.console import Console  # noqa: PLC0415 - slow to import, and only tables need it

    from cardferry.app.demo.story import tell  # noqa: PLC0415

    tell(Console(highlight=False))
