"""``cardferry demo``."""

from __future__ import annotations

import signal

import click


@click.command("demo")
def command() -> None:
    """See it work: two computers on this machine, a card in one, programs in the other.

    Uses what is installed (pcscd, vpcd, OpenSSH, OpenSC; as root also network namespaces), says what it uses, leaves
    nothing behind, and takes less than a minute.
    """
    from rich.console import Console  # noqa: PLC0415 - slow to import, and only tables need it

    from cardferry.app.demo.story import tell  # noqa: PLC0415

    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # what it has started is ended then
    tell(Console(highlight=False))
