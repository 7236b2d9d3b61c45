"""``cardferry setup``: what makes it permanent, here and on other computers. One module for each of its commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

import click
from click.shell_completion import CompletionItem

from cardferry.cli.lazy import LazyGroup

_METAVAR: Final = "HOST"


class _Setup(LazyGroup):
    """Commands by their word; what is none of these words is a HOST, and goes to the module ``host``."""

    PACKAGE = __name__
    COMMANDS: ClassVar[Mapping[str, str]] = {
        "service": "start attach, share or host with this computer, by systemd",
        "system": "serve every program on this computer, also sudo, cron and services",
    }

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module; ``HOST`` gives the one for hosts, which has no word."""
        return self.imported("host") if cmd_name == _METAVAR else super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; the one for hosts gets all words, also options in front of HOST."""
        if args[0] not in self.COMMANDS:
            return None, self.imported("host"), args
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The words, and whatever the command for hosts completes."""
        return [
            *self.imported("host").params[0].shell_complete(ctx, incomplete),
            *super().shell_complete(ctx, incomplete),
        ]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List them without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(_METAVAR, "bring cardferry to another computer"), *self.COMMANDS.items()])


@click.group("setup", cls=_Setup, context_settings={"ignore_unknown_options": True})
def command() -> None:
    """Make it permanent: services that start with the computer, and what other computers need."""
