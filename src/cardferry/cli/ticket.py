"""``cardferry ticket``: digits that a program gives in the place of a PIN."""

from __future__ import annotations

import time
from pathlib import Path

import click

from cardferry.cli.say import say
from cardferry.cli.seconds import DurationType


class Tickets(click.Group):
    """``cardferry ticket PRINCIPAL`` makes one; what else can be done has names."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Whatever is no name of a command is a principal."""
        return super().resolve_command(ctx, args if args[0] in self.commands else ["make", *args])


@click.group("ticket", cls=Tickets, subcommand_metavar="PRINCIPAL --may OPERATION... | list | revoke TICKET")
def command() -> None:
    """Make digits that a program gives in the place of a PIN; the host puts the real PIN there.

    `cardferry ticket ssh:build1 --may sign:9C --uses 20 --for 8h` prints them. They are good for that principal and
    those operations only, if its rule says pin = "ticket".
    """


@command.command("make", hidden=True)
@click.argument("who", metavar="PRINCIPAL")
@click.option("--may", required=True, multiple=True, metavar="OPERATION", help="such as sign:9C; repeatable")
@click.option("--uses", type=click.IntRange(1, 100_000), default=1, show_default=True, help="how often")
@click.option("--for", "seconds", type=DurationType(), default="8h", show_default=True, help="how long")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="the rules that hold where it is used")
def make(who: str, may: tuple[str, ...], uses: int, seconds: float, config: Path | None) -> None:
    """Print the digits of a new ticket. PRINCIPAL is as rules write it, such as ssh:build1."""
    from cardferry.app.runtime.configuration import rulebook, tickets  # noqa: PLC0415
    from cardferry.pcsc.caller import PrincipalKind  # noqa: PLC0415
    from cardferry.pcsc.errors import UserError  # noqa: PLC0415
    from cardferry.policy.rules.rule import Permission, Pin  # noqa: PLC0415

    kind, colon, name = who.partition(":")
    if kind not in list(PrincipalKind) or not (colon and name):
        raise click.BadParameter(
            f"{who!r} is no principal: KIND:NAME, KIND one of {', '.join(PrincipalKind)}", param_hint="PRINCIPAL"
        )
    try:
        for each in may:
            Permission.parse(each)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--may") from None
    rules = rulebook(config)
    if not any(rule.pin is Pin.TICKET and rule.concerns(who, None) for rule in rules.rules):
        raise UserError(
            f'no rule about {who} says pin = "ticket" in {rules.path or "a configuration, because there is none"}',
            "write one, or name the file with --config; docs/pin-at-the-host.md has an example",
        )
    try:
        ticket, digits = tickets().make(who, may, uses, seconds)
    except ValueError as error:
        raise UserError(str(error), "`cardferry ticket list` shows them, `cardferry ticket revoke` ends one") from None
    say(digits)
    say(f"ticket {ticket.name}: {_words(ticket.who, ticket.may, ticket.uses, ticket.until)}", err=True)


@command.command("list")
def show() -> None:
    """Show the tickets that are good. Their digits are not kept."""
    from cardferry.app.runtime.configuration import tickets  # noqa: PLC0415

    good = tickets().valid()
    if not good:
        say("there are no tickets")
    for one in good:
        say(f"ticket {one.name}: {_words(one.who, one.may, one.uses, one.until)}")


@command.command("revoke")
@click.argument("which", metavar="TICKET")
def revoke(which: str) -> None:
    """End a ticket, named as `cardferry ticket list` does; or all of a principal, such as ssh:build1."""
    from cardferry.app.runtime.configuration import tickets  # noqa: PLC0415
    from cardferry.pcsc.errors import UserError  # noqa: PLC0415

    ended = tickets().revoke(which)
    if not ended:
        raise UserError(f"there is no ticket {which}", "`cardferry ticket list` shows all")
    for one in ended:
        say(f"ticket {one.name} of {one.who} is good for nothing any more")


def _words(who: str, may: list[str], uses: int, until: float) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(until))
    return f"{who} may {', '.join(may)}, {uses} times, until {when}"
