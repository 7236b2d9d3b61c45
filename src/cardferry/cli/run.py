"""``cardferry run``."""

from __future__ import annotations

import sys

import click

from cardferry.app.commands.run import NotAttachedError, choose, execute, run_attached
from cardferry.app.hosts.address import HostAddress
from cardferry.app.hosts.attachment import Attachment
from cardferry.app.runtime import logging as logs
from cardferry.app.runtime import signals as lifetime
from cardferry.app.runtime import status_socket as control
from cardferry.app.runtime.paths import runtime_folder
from cardferry.app.runtime.service import Service
from cardferry.cli.fleet_options import fleet_option
from cardferry.cli.options import HostType, memory_option, ssh_option, with_fleet, with_tls
from cardferry.cli.say import say
from cardferry.cli.tls_options import TlsFiles, tls_options
from cardferry.cli.verbosity import verbose_option
from cardferry.transports.ssh import SshCommand


@click.command("run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--from", "host", type=HostType(), help="where the readers are; attached meanwhile if it is not")
@ssh_option
@memory_option
@fleet_option("for --from fleet:NAME, its NATS servers, where the configuration has none", bare=False)
@tls_options
@verbose_option
@click.argument("words", metavar="-- COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
def command(
    *,
    host: HostAddress | None,
    ssh: SshCommand,
    memory: bool,
    tls_files: TlsFiles,
    fleet: str | None,
    verbose: int,
    words: tuple[str, ...],
) -> None:
    """Run COMMAND with the remote readers.

    Without --from it uses what `cardferry attach` has attached. The exit code is COMMAND's own, 128 + n when signal
    n ended it.
    """
    logs.set_up(verbose, quiet=True)
    host = host and with_fleet(with_tls(host, tls_files), fleet)
    found = choose(control.running(runtime_folder()), host)
    if found is not None:
        if not found.readers:
            for trouble in found.troubles:
                say(f"{trouble.says}; {trouble.hint}" if trouble.hint else trouble.says, err=True)
            if not found.troubles:
                say(f"there are no readers at {found.hosts}", err=True)
        execute(words, found.socket)
    if host is None:
        raise NotAttachedError("nothing is attached", "say where the readers are: cardferry run --from HOST -- COMMAND")
    code = lifetime.run(lambda: run_attached(words, Attachment((host,), ssh, service=Service(memory=memory))))
    sys.exit(0 if code is None else code)
