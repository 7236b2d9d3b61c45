"""``cardferry policy``: whether the rules are right, what they say, and why."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cardferry.cli.say import say

_config = click.option(
    "--config", type=click.Path(path_type=Path), metavar="FILE", help="the configuration, instead of the account's own"
)
_DENIED = 1


@click.group("policy")
def command() -> None:
    """Say who may do what with this computer's cards: check the rules, explain them, show them."""


@command.command("check")
@_config
def check(config: Path | None) -> None:
    """See whether the configuration is right."""
    from cardferry.app.runtime.configuration import rulebook  # noqa: PLC0415
    from cardferry.policy.rules.advice import advice  # noqa: PLC0415

    rules = rulebook(config)
    say(rules.in_a_line())
    for line in advice(rules.rules):
        say(line)


@command.command("explain")
@click.option("--who", required=True, metavar="PRINCIPAL", help="such as ssh:build1, local-user:alice")
@click.option("--may", required=True, metavar="OPERATION", help="such as sign:9C, read, manage-pin")
@click.option("--card", metavar="CARD", help="what a rule calls the card; any, if it is left out")
@_config
def explain(who: str, may: str, card: str | None, config: Path | None) -> None:
    """Say whether somebody may do something now, and by which rule. The exit code is 0 if so, else 1."""
    from cardferry.app.runtime.configuration import rulebook  # noqa: PLC0415
    from cardferry.pcsc.caller import Principal, PrincipalKind  # noqa: PLC0415
    from cardferry.policy.operations import Meaning, Operation  # noqa: PLC0415
    from cardferry.policy.rules.rule import Permission  # noqa: PLC0415

    kind, colon, name = who.partition(":")
    if kind not in list(PrincipalKind) or not colon:
        raise click.BadParameter(f"{who!r} is no principal: KIND:NAME, KIND one of {', '.join(PrincipalKind)}",
                                 param_hint="--who")  # fmt: skip
    try:
        meaning = Permission.parse(may).meaning or Meaning(Operation.OTHER)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--may") from None
    decision = rulebook(config).decide(Principal(PrincipalKind(kind), name), None if card is None else (card,), meaning)
    say(f"{decision.verdict.value}: {decision.why}")
    if decision.rule is not None and decision.rule.limit is not None:
        say(f"up to {decision.rule.text_limit}")
    sys.exit(0 if decision.allowed else _DENIED)


@command.command("show")
@_config
def show(config: Path | None) -> None:
    """Show the rules in force, in the order in which they are asked."""
    from cardferry.app.runtime.configuration import rulebook  # noqa: PLC0415
    from cardferry.cli import tables  # noqa: PLC0415 - rich

    rules = rulebook(config)
    say(rules.in_a_line())
    settings = rules.configuration
    tables.show(
        ("rule", "who", "card", "may", "PIN", "asks", "limit", "when"),
        [
            (
                str(rule.number) if rule.number else "default",
                list(rule.who),
                rule.card,
                [each.text for each in rule.may],
                rule.pin.value if rule.pin_from is None else [rule.pin.value, str(rule.pin_from)],
                rule.ask.value,
                rule.text_limit,
                rule.text_hours,
            )
            for rule in rules.rules
        ],
    )
    say(f"what one principal unlocks is {'locked before another one comes' if settings.isolation else 'open to all'}")
    say(f"guests leave {settings.keep_tries} PIN tries; audit: {settings.audit}")
    ways = ", ".join(settings.ask_with)
    say(f"a person here is asked with the first of these that can: {ways}; for {settings.ask_timeout} s")
