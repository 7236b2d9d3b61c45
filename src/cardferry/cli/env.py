"""``cardferry env``."""

from __future__ import annotations

import shlex

import click

from cardferry.app.commands.run import NotAttachedError, choose
from cardferry.app.commands.user_session import NotImportedError, import_variable, stale_agent
from cardferry.app.commands.variable import export_line
from cardferry.app.hosts.address import HostAddress
from cardferry.app.runtime import signals as lifetime
from cardferry.app.runtime import status_socket as control
from cardferry.app.runtime.paths import runtime_folder
from cardferry.cli.options import HostType
from cardferry.cli.say import say


@click.command("env")
@click.argument("host", type=HostType(), required=False)
@click.option(
    "--import",
    "imported",
    is_flag=True,
    help="give it to systemd's user manager, which starts gpg-agent, and to D-Bus, too",
)
def command(host: HostAddress | None, imported: bool) -> None:
    """Print the line that leads programs to the attached readers: eval "$(cardferry env)".

    With --import also programs find them that no shell starts; what was done is said on standard error.
    """
    found = choose(control.running(runtime_folder()), host)
    if found is None:
        name = "HOST" if host is None else shlex.quote(str(host))
        raise NotAttachedError(
            "nothing is attached" if host is None else f"{host} is not attached",
            f"start `cardferry attach {name}` first",
        )
    path = found.socket
    if imported:
        lifetime.run(lambda: _import(path))
    say(export_line(path))


async def _import(path: str) -> None:
    result = await import_variable(path)
    for line in result.done:
        say(line, err=True)
    if stale := await stale_agent(path):
        say(stale, err=True)
    if result.failed:
        raise NotImportedError(
            f"not all have it: {'; '.join(result.failed)}",
            "see `systemctl --user status`; what a shell starts has it by the line of `cardferry env`",
        )
