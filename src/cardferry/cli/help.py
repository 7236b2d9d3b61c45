"""``cardferry help``."""

from __future__ import annotations

from typing import cast

import click
from click.shell_completion import CompletionItem

from cardferry.cli.say import say


def _commands(context: click.Context, _argument: click.Parameter, incomplete: str) -> list[CompletionItem]:
    root = context.find_root()
    return root.command.shell_complete(root, incomplete)


@click.command("help")
@click.argument("name", metavar="[COMMAND]", required=False, shell_complete=_commands)
@click.pass_context
def command(context: click.Context, name: str | None) -> None:
    """Explain cardferry, or one of its commands."""
    root = context.find_root()
    explained, its = root.command, root
    if name is not None:
        group = cast(click.Group, root.command)
        _, found, _ = group.resolve_command(root, [name])
        explained = cast(click.Command, found)
        its = click.Context(explained, info_name=name, parent=root)
    for line in explained.get_help(its).splitlines():
        say(line)
