"""``cardferry attach``."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import click

from cardferry.app.commands.attach import attached
from cardferry.app.commands.card_ports import card_ports, check_card_ports
from cardferry.app.commands.variable import export_line
from cardferry.app.hosts.address import HostAddress
from cardferry.app.hosts.attachment import Attachment
from cardferry.app.runtime import logging as logs
from cardferry.app.runtime import signals as lifetime
from cardferry.app.runtime.service import Service
from cardferry.cli.configured import Configured, only_tried
from cardferry.cli.fleet_options import fleet_option
from cardferry.cli.options import hosts_argument, service_options, ssh_option, wait_option, with_fleet, with_tls
from cardferry.cli.say import say
from cardferry.cli.seconds import SecondsType
from cardferry.cli.tls_options import TlsFiles, tls_options
from cardferry.cli.verbosity import verbose_option
from cardferry.system.service_manager import service_manager
from cardferry.transports.listening import check_group
from cardferry.transports.ssh import SshCommand


@click.command("attach", cls=Configured)
@hosts_argument
@ssh_option
@click.option("--socket", type=click.Path(path_type=Path), help="where programs shall connect")
@click.option("--link/--no-link", default=True, help="use the cardferry over there, if there is one  [default: link]")
@click.option(
    "--grace", type=SecondsType(), metavar="S", help="programs wait S seconds for a host that is out of reach"
)
@click.option("--direct", is_flag=True, help="make a connection of its own beside ssh, where that is possible")
@wait_option
@click.option("--native", is_flag=True, help="show the readers in this computer's pcscd, too, at the slots of its vpcd")
@click.option(
    "--native-port",
    "native_ports",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    multiple=True,
    help="with --native: a slot's TCP port, instead of those in /etc/reader.conf.d; may be given several times",
)
@click.option(
    "--qemu",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="show the first reader in a virtual machine, too, whose QEMU listens at PATH for its ccid-card-passthru",
)
@fleet_option("for fleet:NAME, its NATS servers, where the configuration has none", bare=False)
@tls_options
@service_options
@verbose_option
def command(
    *,
    hosts: tuple[HostAddress, ...],
    ssh: SshCommand,
    socket: Path | None,
    link: bool,
    grace: float | None,
    direct: bool,
    wait: bool,
    native: bool,
    native_ports: tuple[int, ...],
    qemu: Path | None,
    service: Service,
    tls_files: TlsFiles,
    fleet: str | None,
    verbose: int,
) -> None:
    """Use HOST's readers here, or those of several HOSTs side by side, each in the best way there is.

    HOST is an ssh destination (name, user@name, ssh://user@name:port): its pcscd is reached through ssh, nothing else
    is needed there; if cardferry is there, too, it is much faster over a distance and survives a broken network.

    Without ssh: unix:PATH or vsock://CID:PORT, where `cardferry host --listen` takes links, out of a container or a
    virtual machine; or exec:COMMAND, any command that runs `cardferry host --stdio` where the reader is, as in
    'exec:docker exec -i box cardferry host --stdio'; or tls://HOST, a host that takes links over TLS: `cardferry join`
    lets you in, and from then on its name alone will do; or fleet:NAME, a host of a fleet on NATS, likewise: `cardferry
    readers --fleet` lists them.

    Or pool:NAME, the readers of several hosts as one, which the table [pool.NAME] of the configuration lists: each
    connect of a program goes to the one with the shortest queue.

    Or pcscd:PATH, a pcsc-lite socket on this computer; vpicc:PORT or vpicc:unix:PATH, for cards that dial in;
    virtual:, the built-in card. Runs until Ctrl-C.
    """
    reached = tuple(with_fleet(with_tls(host, tls_files), fleet) for host in hosts)
    check_card_ports(reached, native_ports, qemu, native=native)
    wanted = Attachment(reached, ssh, socket, service, link, grace, wait, (), direct)
    wanted.check()
    if only_tried():
        check_group(service.access.group)
        return
    logs.set_up(verbose)

    async def main() -> None:
        ports = await card_ports(reached, native_ports, qemu, native=native)
        async with attached(replace(wanted, ports=ports)) as path:
            say(f"ready {path}")
            say(export_line(str(path)))
            service_manager().tell(READY="1", STATUS=f"programs connect at {path}")
            await asyncio.get_running_loop().create_future()

    lifetime.run(main)
