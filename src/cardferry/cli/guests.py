"""``cardferry guests``: who comes over TLS, and who must wait after wrong PINs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from cardferry.cli.say import say

if TYPE_CHECKING:
    from cardferry.app.commands.guests import Guest


@click.group("guests", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="for programs")
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """Show guests that have joined with `cardferry invite`, and those that wait because of wrong PINs."""
    if context.invoked_subcommand is not None:
        return
    from cardferry.app.commands.guests import listed, wrong_secrets  # noqa: PLC0415 - cryptography
    from cardferry.app.runtime.configuration import wrong_pins  # noqa: PLC0415
    from cardferry.app.runtime.paths import runtime_folder  # noqa: PLC0415
    from cardferry.app.runtime.status_socket import running  # noqa: PLC0415

    guests = listed(running(runtime_folder()))
    if as_json:
        from cardferry.cli.say import say_json  # noqa: PLC0415 - msgspec

        say_json(guests)
        return
    if guests:
        from cardferry.cli import tables  # noqa: PLC0415 - rich

        tables.show(("guest", "joined", "last seen", "from", "program"), [_row(one) for one in guests])
    if words := wrong_secrets():
        say(words)
    waiting = wrong_pins().waiting()
    if not waiting:
        say("nobody waits because of wrong PINs")
    for who, seconds in waiting.items():
        say(f"{who} has given wrong PINs and waits for {seconds / 60:.0f} minutes: cardferry guests forgive {who}")


def _row(guest: Guest) -> tuple[str, list[str], str, str, str]:
    joined = [f"{_time(guest.joined)}"] if guest.joined else []
    invited = [f"invited until {_time(guest.invited_until)}"] if guest.invited_until else []
    seen = "is here" if guest.here else _time(guest.seen) if guest.seen else ""
    return f"tls:{guest.name}", joined + invited, seen, guest.address, guest.software


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


@command.command("remove")
@click.argument("name", metavar="NAME")
def remove(name: str) -> None:
    """Let a guest in no more, and cut it off if it is here. NAME is as in `cardferry guests`, such as tls:build1."""
    from cardferry.app.commands.guests import remove as removed  # noqa: PLC0415 - cryptography

    removed(name)
    say(f"{name} is removed")


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
