"""``cardferry setup service``: units of systemd that run ``attach``, ``share`` or ``host``."""

from __future__ import annotations

import importlib
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, cast

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from cardferry.cli.say import say

_LINES: Final = {
    "attach": "use HOST's readers here all the time",
    "share": "lend this computer's readers to HOST all the time",
    "host": "serve guests that have cardferry, too, all the time",
}
_system = click.option(
    "--system/--user", default=None, help="a service of the computer, run as root, or of the account [root: --system]"
)


def _is_system(chosen: bool | None) -> bool:
    return os.geteuid() == 0 if chosen is None else chosen


@click.group("service")
def command() -> None:
    """Start attach, share or host with this computer, by systemd.

    It is an account's service, or as root one of the computer. It waits for hosts that are away, says good-bye when it
    is stopped, and is started anew when it hangs. Programs that systemd starts find the readers of the first attach.
    """


class _Service(click.Command):
    """Sets up a service; the options of the command that it runs are its own, too.

    Attributes:
        runs: the command.
    """

    runs: click.Command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Options of both."""
        return [*super().shell_complete(ctx, incomplete), *self.runs.shell_complete(ctx, incomplete)]


def _service(name: str) -> Callable[[Any], Any]:
    def decorate(function: Any) -> Any:
        made = command.command(
            name,
            cls=_Service,
            short_help=_LINES[name],
            options_metavar="[OPTIONS]",
            context_settings={"ignore_unknown_options": True},
            epilog=f"All options of `cardferry {name}` can be given, too.",
        )(function)
        cast(_Service, made).runs = importlib.import_module(f"cardferry.cli.{name}").command
        return made

    return decorate


_linger = click.option("--linger", is_flag=True, help="start it with the computer, before anybody logs in")
_environment = click.option(
    "--environment/--no-environment",
    default=None,
    help="programs that systemd starts, gpg-agent among them, use these readers [default: unless they use others]",
)
_words = click.argument("words", metavar="HOST...", nargs=-1, type=click.UNPROCESSED)


@_service("attach")
@_words
@_system
@_linger
@_environment
@click.pass_context
def attach(
    context: click.Context, words: tuple[str, ...], system: bool | None, linger: bool, environment: bool | None
) -> None:
    """Use HOST's readers here all the time."""
    _install(context, "attach", words, system=_is_system(system), linger=linger, environment=environment)


@_service("share")
@_words
@_system
@_linger
@click.pass_context
def share(context: click.Context, words: tuple[str, ...], system: bool | None, linger: bool) -> None:
    """Lend this computer's readers to HOST all the time."""
    _install(context, "share", words, system=_is_system(system), linger=linger)


@_service("host")
@click.argument("words", metavar="", nargs=-1, type=click.UNPROCESSED)
@_system
@_linger
@click.pass_context
def host(context: click.Context, words: tuple[str, ...], system: bool | None, linger: bool) -> None:
    """Serve guests that have cardferry, too, all the time."""
    _install(context, "host", words, system=_is_system(system), linger=linger)


@command.command("list")
@_system
def list_services(system: bool | None) -> None:
    """Show which there are."""
    from cardferry.app.commands.services import Services  # noqa: PLC0415
    from cardferry.app.runtime import signals as lifetime  # noqa: PLC0415
    from cardferry.cli import tables  # noqa: PLC0415 - rich

    found = lifetime.run(Services(say, system=_is_system(system)).installed)
    if not found:
        say("there are no services of cardferry")
        return
    rows = [(one.title, one.state, "yes" if one.enabled else "no", one.command) for one in found]
    tables.show(("service", "state", "starts by itself", "command"), rows)


@command.command("remove")
@click.argument("name", metavar="attach|share|host", type=click.Choice(list(_LINES)))
@click.argument("hosts", metavar="[HOST...]", nargs=-1)
@_system
def remove(name: str, hosts: tuple[str, ...], system: bool | None) -> None:
    """Stop one and remove it: cardferry setup service remove attach laptop."""
    from cardferry.app.commands.service_unit import unit_name  # noqa: PLC0415
    from cardferry.app.commands.services import Services  # noqa: PLC0415
    from cardferry.app.runtime import signals as lifetime  # noqa: PLC0415

    if bool(hosts) == (name == "host"):
        raise click.UsageError("host is alone" if hosts else f"whose? {name} HOST")
    services = Services(say, system=_is_system(system))
    lifetime.run(lambda: services.remove(unit_name(name, _label(hosts))))


def _install(
    context: click.Context,
    name: str,
    words: Sequence[str],
    *,
    system: bool,
    linger: bool,
    environment: bool | None = None,
) -> None:
    from cardferry.app.commands.service_unit import Unit  # noqa: PLC0415
    from cardferry.app.commands.services import Services  # noqa: PLC0415
    from cardferry.app.runtime import signals as lifetime  # noqa: PLC0415

    its: click.Command = importlib.import_module(f"cardferry.cli.{name}").command
    parsed = its.make_context(name, list(words), parent=context.find_root())  # what is wrong is said now
    for parameter in its.params:
        _check_whole(parsed, parameter)
    typed: tuple[str, ...] = tuple(its.make_parser(parsed).parse_args(list(words))[0].get("hosts") or ())
    waits = ["--wait"] if name != "host" and not parsed.params["wait"] else []
    unit = Unit(
        name,
        _label(typed),
        shlex.join([name, *typed]),
        tuple(program()),
        (name, *waits, *words),
        system,
        "" if system else os.environ.get("PATH", ""),
    )
    hosts = " ".join(map(str, parsed.params.get("hosts", ())))
    services = Services(say, system=system)
    lifetime.run(lambda: services.install(unit, hosts, environment=environment, linger=linger))


def _label(hosts: Sequence[str]) -> str:
    from cardferry.app.hosts.registry import parse_host  # noqa: PLC0415

    return "+".join(parse_host(one).label for one in hosts)


def _check_whole(parsed: click.Context, parameter: click.Parameter) -> None:
    """A service has no folder from which a path could be looked for; raises `click.BadParameter`."""
    path = parsed.params.get(parameter.name or "")
    typed = parsed.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
    if typed and isinstance(path, Path) and not path.is_absolute():
        raise click.BadParameter(f"a service needs the whole path: {path.absolute()}", parsed, parameter)


def program() -> list[str]:
    """What starts this cardferry in the time to come: the link in PATH, which outlives upgrades, if it is this one."""
    own = Path(sys.prefix) / "bin" / "cardferry"
    found = shutil.which("cardferry")
    if found is not None and own.exists() and Path(found).samefile(own):
        return [os.path.abspath(found)]  # noqa: PTH100 - the link stays one
    return [str(own)] if own.exists() else [sys.executable, "-m", "cardferry"]
