"""``cardferry setup HOST``."""

from __future__ import annotations

import sys
from typing import Final

import click

from cardferry.app.hosts.address import HostAddress
from cardferry.app.install.bring import bring, remove, use
from cardferry.app.runtime import logging as logs
from cardferry.app.runtime import signals as lifetime
from cardferry.cli.options import HostType, ssh_host, ssh_option
from cardferry.cli.say import say
from cardferry.cli.verbosity import verbose_option
from cardferry.transports.ssh import SshCommand

_INTERRUPTED: Final = 130


@click.command("HOST")
@click.argument("host", metavar="HOST", type=HostType())
@ssh_option
@click.option("--command", "program", metavar="PATH", help="use the cardferry at PATH over there, as in a .venv")
@click.option("--remove", "removing", is_flag=True, help="take away what was brought, and end what runs from there")
@verbose_option
def command(host: HostAddress, ssh: SshCommand, program: str | None, removing: bool, verbose: int) -> None:
    """Bring this cardferry to HOST, with ssh alone: no root and no network are needed over there.

    It needs Python 3.11 or newer there. All goes into ~/.local/share/cardferry, and ~/.local/bin/cardferry leads to it;
    attach and share find it there. Doing it again brings HOST up to date.
    """
    logs.set_up(verbose)
    there = ssh_host(host, "setup")

    async def main() -> bool:
        if removing:
            await remove(there, ssh, say)
        elif program is not None:
            await use(there, ssh, program, say)
        else:
            await bring(there, ssh, say)
        return True

    if not lifetime.run(main):
        sys.exit(_INTERRUPTED)
