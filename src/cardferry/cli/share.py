"""``cardferry share``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from cardferry.app.commands.share import share
from cardferry.app.commands.variable import export_line
from cardferry.app.hosts.address import HostAddress
from cardferry.app.hosts.sources import LOCAL_PCSCD
from cardferry.app.hosts.ssh_host import SshHost
from cardferry.app.runtime import logging as logs
from cardferry.app.runtime import signals as lifetime
from cardferry.app.runtime.service import Service
from cardferry.app.sharing.lending import Share
from cardferry.cli.configured import Configured, only_tried
from cardferry.cli.options import (
    HostType,
    config_option,
    hosts_argument,
    service_options,
    ssh_host,
    ssh_option,
    wait_option,
)
from cardferry.cli.say import say
from cardferry.cli.seconds import SecondsType
from cardferry.cli.verbosity import verbose_option
from cardferry.system.service_manager import service_manager
from cardferry.transports.ssh import SshCommand


@click.command("share", cls=Configured)
@hosts_argument
@click.option(
    "--readers",
    type=HostType(),
    default=str(LOCAL_PCSCD),
    show_default=True,
    help="where the readers are: pcscd:PATH, vpicc:PORT, vpicc:unix:PATH, virtual:",
)
@ssh_option
@click.option("--remote-socket", metavar="PATH", help="where programs on HOST shall connect")
@click.option("--link/--no-link", default=True, help="use the cardferry over there, if there is one  [default: link]")
@click.option(
    "--grace",
    type=SecondsType(),
    default=10.0,
    show_default=True,
    metavar="S",
    help="a guest that is out of reach keeps what it holds for S seconds",
)
@wait_option
@config_option
@service_options
@verbose_option
def command(
    *,
    hosts: tuple[HostAddress, ...],
    readers: HostAddress,
    ssh: SshCommand,
    remote_socket: str | None,
    link: bool,
    grace: float,
    wait: bool,
    config: Path | None,
    service: Service,
    verbose: int,
) -> None:
    """Lend this computer's readers to HOST, or to several HOSTs that take turns with the card.

    HOST is an ssh destination (name, user@name, ssh://user@name:port); nothing but its sshd is needed there; if
    cardferry is there, too, it is much faster over a distance and survives a broken network. Programs on HOST use the
    socket that is named when all is ready. Runs until Ctrl-C.
    """
    guests = tuple(ssh_host(host, "share") for host in hosts)
    service = replace(service, config=config)
    wanted = Share(guests, readers, ssh, remote_socket, service, link, grace, wait)
    if only_tried():
        return
    logs.set_up(verbose)

    def announce(guest: SshHost, path: str) -> None:
        say(f"ready {path} on {guest.destination}")
        say(export_line(path))
        service_manager().tell(READY="1", STATUS=f"programs on {guest.destination} connect at {path}")

    lifetime.run(lambda: share(wanted, announce))
