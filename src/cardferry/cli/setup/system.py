"""``cardferry setup system``: one socket for every program, also for those that lose or ignore the variable."""

from __future__ import annotations

import os

import click

from cardferry.app.hosts.address import HostAddress
from cardferry.cli.options import HostType
from cardferry.cli.say import say
from cardferry.cli.verbosity import verbose_option
from cardferry.pcsc.errors import UserError


class NotRootError(UserError):
    """Only root may."""

    exit_code = 58


@click.command("system")
@click.argument("hosts", metavar="[HOST...]", type=HostType(), nargs=-1)
@click.option("--remove", is_flag=True, help="undo it: everything is as it was")
@click.option("--dry-run", is_flag=True, help="show the files that would be written, and change nothing")
@click.option("--serve", is_flag=True, hidden=True)
@verbose_option
def command(*, hosts: tuple[HostAddress, ...], remove: bool, dry_run: bool, serve: bool, verbose: int) -> None:
    """Serve every program on this computer, as root: sudo, cron, services, browsers in a sandbox.

    Programs find the readers where they look without any variable, at pcscd's own socket. pcscd itself moves behind
    cardferry, and all stand in one queue: local programs, and guests that come over ssh. With HOSTs their readers are
    there, too, beside those of this computer; root must be able to log in there without being asked (ssh HOST).

    polkit, where pcscd asks it, goes on deciding which local programs may use cards.
    """
    from cardferry.app.runtime import logging as logs  # noqa: PLC0415

    logs.set_up(verbose)
    if serve:
        from cardferry.app.commands.system import serve_everybody  # noqa: PLC0415
        from cardferry.app.runtime import signals as lifetime  # noqa: PLC0415

        lifetime.run(lambda: serve_everybody(hosts))
        return
    from cardferry.app.commands.system_setup import SystemSetup  # noqa: PLC0415

    setup = SystemSetup()
    names = [str(host) for host in hosts]
    if dry_run:
        for path, text in setup.files(setup.command(names)).items():
            say(f"# {path}")
            for line in text.splitlines():
                say(line)
        return
    if os.geteuid() != 0:
        raise NotRootError("this is about all accounts of this computer: only root may", "try it with sudo")
    if remove:
        say("removed: programs find pcscd again where it was" if setup.remove() else "there is nothing to remove")
        return
    setup.install(names)
    say("every program on this computer finds the readers now; see what it says: journalctl -u cardferry-system")
