"""``cardferry env``."""

from __future__ import annotations

import click

from cardferry.app.commands.run import NotAttachedError, choose, export_line
from cardferry.app.hosts.address import HostAddress
from cardferry.app.runtime import status_socket as control
from cardferry.app.runtime.paths import runtime_folder
from cardferry.cli.options import HostType
from cardferry.cli.say import say


@click.command("env")
@click.argument("host", type=HostType(), required=False)
def command(host: HostAddress | None) -> None:
    """Print the line that leads programs to the attached readers: eval "$(cardferry env)"."""
    found = choose(control.running(runtime_folder()), host)
    if found is None:
        name = "HOST" if host is None else str(host)
        raise NotAttachedError(
            "nothing is attached" if host is None else f"{name} is not attached",
            f"start `cardferry attach {name}` first",
        )
    say(export_line(found.socket))
