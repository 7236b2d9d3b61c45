"""``cardferry help``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import click
from click.shell_completion import CompletionItem

from cardferry.cli.say import say


def _explained(root: click.Context, names: Sequence[str]) -> click.Context:
    """The context of what these words call; raises `click.UsageError`."""
    its = root
    for name in names:
        if not isinstance(its.command, click.Group):
            raise click.UsageError(f"`{its.command_path}` has no commands")
        _, found, _ = its.command.resolve_command(its, [name])
        its = click.Context(cast(click.Command, found), info_name=name, parent=its)
    return its


def _commands(context: click.Context, argument: click.Parameter, incomplete: str) -> list[CompletionItem]:
    its = _explained(context.find_root(), context.params.get(argument.name or "") or ())
    return its.command.shell_complete(its, incomplete) if isinstance(its.command, click.Group) else []


@click.command("help")
@click.argument("names", metavar="[COMMAND]...", nargs=-1, shell_complete=_commands)
@click.pass_context
def command(context: click.Context, names: tuple[str, ...]) -> None:
    """Explain cardferry, or one of its commands: cardferry help setup system."""
    its = _explained(context.find_root(), names)
    for line in its.command.get_help(its).splitlines():
        say(line)
