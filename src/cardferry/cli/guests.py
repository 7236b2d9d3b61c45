"""``cardferry guests``: who must wait after wrong PINs, and lets them try again."""

from __future__ import annotations

import click

from cardferry.cli.say import say


@click.group("guests", invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """Show guests that have given wrong PINs and must wait."""
    if context.invoked_subcommand is not None:
        return
    from cardferry.app.runtime.configuration import wrong_pins  # noqa: PLC0415

    waiting = wrong_pins().waiting()
    if not waiting:
        say("nobody waits because of wrong PINs")
    for who, seconds in waiting.items():
        say(f"{who} has given wrong PINs and waits for {seconds / 60:.0f} minutes: cardferry guests forgive {who}")


@command.command("forgive")
@click.argument("name", metavar="NAME")
def forgive(name: str) -> None:
    """Let a guest that has given wrong PINs try again. NAME is as in `cardferry guests`, such as ssh:build1."""
    from cardferry.app.runtime.configuration import wrong_pins  # noqa: PLC0415
    from cardferry.pcsc.errors import UserError  # noqa: PLC0415

    found = wrong_pins().forgive(name)
    if not found:
        raise UserError(f"no guest {name} has given wrong PINs", "`cardferry guests` names those that wait")
    for who in found:
        say(f"{who} may try again")
