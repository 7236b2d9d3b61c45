"""The configuration file: TOML, checked whole before any of it holds.

An unknown key or a value that is none is an error, with its line and what may have been meant. msgspec checks the
types; what is written in words (``60/hour``) is parsed here, so that a file is either right or not used at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from cardferry.policy.configuration_file import ConfigurationError, KeyPath, line_of, parse, unknown_key, wrong_value
from cardferry.policy.fleet_table import fleet_settings
from cardferry.policy.pin.secret import SecretPlace
from cardferry.policy.rules.hours import Hours
from cardferry.policy.rules.limits import Limit
from cardferry.policy.rules.rule import ANY_CARD, Ask, AskWith, Permission, Pin, Rule

T = TypeVar("T")


class _Allow(msgspec.Struct, rename="kebab", forbid_unknown_fields=True):
    who: str | list[str]
    may: str | list[str]
    card: str = ANY_CARD
    pin: Pin = Pin.GUEST
    limit: str | None = None
    ask: Ask = Ask.NEVER
    hours: str | None = None
    pin_from: str | None = None


class _File(msgspec.Struct, rename="kebab", forbid_unknown_fields=True):
    allow: list[_Allow] = []
    isolation: bool = True
    keep_tries: Annotated[int, msgspec.Meta(ge=0, le=15)] = 1
    audit: Literal["off", "on", "required"] = "on"
    audit_file: str | None = None
    pinentry: str = "pinentry"
    ask_with: Annotated[tuple[AskWith, ...], msgspec.Meta(min_length=1)] = tuple(AskWith)
    ask_timeout: Annotated[int, msgspec.Meta(ge=1, le=120)] = 30
    # options of commands: these know themselves what is right (`cardferry.cli.configured`)
    attach: dict[str, Any] = {}
    share: dict[str, Any] = {}
    host: dict[str, Any] = {}
    pool: dict[str, Any] = {}
    # `cardferry.policy.fleet_table`
    fleet: dict[str, Any] = {}


class Configuration(msgspec.Struct, frozen=True):
    """What a file says.

    Attributes:
        rules: in their order; empty when there is none.
        isolation: whether what one principal has unlocked is locked again before another one's first command.
        keep_tries: PIN tries that guests leave.
        audit: ``off``, ``on``, or ``required``: then nothing that acts is done when it cannot be written down.
        audit_file: where it is written; None for the account's own place.
        pinentry: the program that asks the person at the host.
        ask_with: the ways to ask, the first choice first.
        ask_timeout: s that the person has to answer.
    """

    rules: tuple[Rule, ...] = ()
    isolation: bool = True
    keep_tries: int = 1
    audit: str = "on"
    audit_file: str | None = None
    pinentry: str = "pinentry"
    ask_with: tuple[AskWith, ...] = tuple(AskWith)
    ask_timeout: int = 30

    @classmethod
    def parse(cls, text: str, name: str) -> Configuration:
        """Read a file's text.

        Args:
            name: of the file, for errors.

        Raises:
            ConfigurationError: it is not as it must be.
        """
        raw = parse(text, name)
        _check_keys(raw, text, name)
        try:
            file = msgspec.convert(raw, _File)
        except msgspec.ValidationError as error:
            raise wrong_value(str(error), raw, (), text, name) from None
        if not file.isolation and any(allow.pin is not Pin.GUEST for allow in file.allow):
            raise ConfigurationError(
                f"{name}: with isolation = false the PIN that the host gives for one would be everybody's",
                "leave out isolation, or pin",
            )
        fleet_settings(raw, text, name)
        rules = tuple(_rule(allow, number, text, name) for number, allow in enumerate(file.allow, start=1))
        return cls(
            rules, file.isolation, file.keep_tries, file.audit, file.audit_file,
            file.pinentry, tuple(dict.fromkeys(file.ask_with)), file.ask_timeout,
        )  # fmt: skip


def _rule(allow: _Allow, number: int, text: str, name: str) -> Rule:
    def parsed(key: str, parse: Callable[[str], T], value: str) -> T:
        try:
            return parse(value)
        except ValueError as error:
            line = line_of(text, ("allow", number - 1, key))
            raise ConfigurationError(f"{name}, line {line}: {error}", f"correct {key} there") from None

    def listed(key: str, value: str | list[str]) -> list[str]:
        values = [value] if isinstance(value, str) else value
        if not values:
            line = line_of(text, ("allow", number - 1, key))
            raise ConfigurationError(f"{name}, line {line}: {key} is empty", "name at least one, or remove the rule")
        return values

    pin_from = None if allow.pin_from is None else parsed("pin-from", SecretPlace.parse, allow.pin_from)
    if (allow.pin is Pin.HOST) != (pin_from is not None) and allow.pin is not Pin.TICKET:
        line = line_of(text, ("allow", number - 1, "pin-from" if allow.pin_from else "pin"))
        raise ConfigurationError(
            f'{name}, line {line}: pin = "host" and pin-from go together',
            "pin-from names where the host keeps the PIN: file:/PATH, credential:NAME or keyring:SERVICE/USER",
        )
    return Rule(
        number,
        tuple(parsed("who", _who, each) for each in listed("who", allow.who)),
        allow.card,
        tuple(parsed("may", Permission.parse, each) for each in listed("may", allow.may)),
        allow.pin,
        None if allow.limit is None else parsed("limit", Limit.parse, allow.limit),
        allow.ask,
        None if allow.hours is None else parsed("hours", Hours.parse, allow.hours),
        pin_from,
        allow.limit or "",
        allow.hours or "",
    )


def _who(pattern: str) -> str:
    if ":" not in pattern and pattern != "*":
        raise ValueError(f"{pattern!r} is no principal such as ssh:build1 or local-user:alice")
    return pattern


# errors that say where

_KNOWN: Final[Mapping[str, Sequence[str]]] = {
    "": [field.encode_name for field in msgspec.structs.fields(_File)],
    "allow": [field.encode_name for field in msgspec.structs.fields(_Allow)],
}


def _check_keys(raw: dict[str, Any], text: str, name: str) -> None:
    _check(raw, "", (), text, name)
    rules = raw.get("allow", [])
    for number, table in enumerate(rules if isinstance(rules, list) else []):
        if isinstance(table, dict):
            _check(table, "allow", ("allow", number), text, name)


def _check(table: dict[str, Any], kind: str, path: KeyPath, text: str, name: str) -> None:
    known = _KNOWN[kind]
    for key in table:
        if key not in known:
            raise unknown_key(key, known, f"{name}, line {line_of(text, (*path, key))}", "[[allow]]" if kind else "")
