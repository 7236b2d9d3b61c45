"""A group of commands, each a module that is imported when it is called: help and completion cost nothing."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import ClassVar, cast

import click
from click.shell_completion import CompletionItem


class LazyGroup(click.Group):
    """To be derived.

    Attributes:
        PACKAGE: where the modules are; each has a `click.Command` named ``command``.
        COMMANDS: their names and their lines in the help, what people need first in front.
    """

    PACKAGE: ClassVar[str]
    COMMANDS: ClassVar[Mapping[str, str]]

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table."""
        del ctx
        return list(self.COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module."""
        del ctx
        return self.imported(cmd_name) if cmd_name in self.COMMANDS else None

    def imported(self, name: str) -> click.Command:
        """The command of a module."""
        return cast(click.Command, importlib.import_module(f"{self.PACKAGE}.{name}").command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; one that is none may be like one that is."""
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            raise click.exceptions.NoSuchCommand(error.command_name, possibilities=self.COMMANDS, ctx=ctx) from None

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands, without importing them, and our own options."""
        found = [CompletionItem(name, help=says) for name, says in self.COMMANDS.items() if name.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(self.COMMANDS.items()))
