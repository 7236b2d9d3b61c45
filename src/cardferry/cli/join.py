"""``cardferry join``."""

from __future__ import annotations

import sys

import click

from cardferry.cli.say import say


@click.command("join")
@click.argument("line", metavar="LINE")
def command(line: str) -> None:
    """Join a host, with the LINE that `cardferry invite` has printed there; - reads it from standard input.

    A key is made here, which does not leave this computer, and the host gives a certificate for it.
    """
    from cardferry.app.commands.guests import join  # noqa: PLC0415 - cryptography
    from cardferry.app.runtime import signals as lifetime  # noqa: PLC0415

    text = sys.stdin.readline() if line == "-" else line
    joined = lifetime.run(lambda: join(text))
    if joined is not None:
        name, host = joined
        say(f"joined as {name}; from now on: cardferry attach {host}")
