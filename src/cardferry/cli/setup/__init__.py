"""``cardferry setup``: what makes it permanent, here and on other computers. One module for each of its commands."""

from __future__ import annotations

import importlib
from typing import Final, cast

import click
from click.shell_completion import CompletionItem

#: The commands that have a word of their own: a module of this package each, with a `click.Command` named ``command``,
#: and their lines in ``cardferry setup --help``, so that help imports nothing.
COMMANDS: Final[dict[str, str]] = {
    "service": "start attach, share or host with this computer, by systemd",
    "system": "serve every program on this computer, also sudo, cron and services",
}
#: Whoever types anything else means a HOST, if this says what is done with one: the module, and its line in the help.
HOST: Final[tuple[str, str] | None] = ("host", "bring cardferry to another computer")
_METAVAR: Final = "HOST"


class _Setup(click.Group):
    """Commands by their word, imported when they are called; what is none of these words is a HOST."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the help, without the one for hosts, which has no word."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module; ``HOST`` gives the one for hosts."""
        name = HOST[0] if HOST and cmd_name == _METAVAR else cmd_name
        if name == cmd_name and name not in COMMANDS:
            return None
        return cast(click.Command, importlib.import_module(f"{__name__}.{name}").command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; the one for hosts gets all words, also options in front of HOST."""
        if args[0] not in COMMANDS and HOST:
            return None, self.get_command(ctx, _METAVAR), args
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            raise click.exceptions.NoSuchCommand(error.command_name, possibilities=COMMANDS, ctx=ctx) from None

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The words, without importing the commands, and whatever the one for hosts completes."""
        found = [CompletionItem(name, help=says) for name, says in COMMANDS.items() if name.startswith(incomplete)]
        host = self.get_command(ctx, _METAVAR)
        hosts = host.params[0].shell_complete(ctx, incomplete) if host is not None else []
        return [*found, *hosts, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List them without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([*([(_METAVAR, HOST[1])] if HOST else []), *COMMANDS.items()])


@click.group("setup", cls=_Setup, context_settings={"ignore_unknown_options": True})
def command() -> None:
    """Make it permanent: services that start with the computer, and what other computers need."""
