"""A configuration is right, or an error says where it is not and what may have been meant."""

from __future__ import annotations

import pytest

from cardferry.pcsc.caller import Principal, PrincipalKind
from cardferry.policy.rules import Configuration, ConfigurationError, Pin
from cardferry.policy.rules.advice import advice

RULE = '[[allow]]\nwho = "ssh:a"\nmay = "read"\n'


def test_everything_that_a_file_can_say() -> None:
    said = Configuration.parse(
        """
        isolation = false
        keep-tries = 2
        audit = "required"
        audit-file = "/var/log/cards"
        pinentry = "pinentry-qt"
        ask-with = ["terminal", "pinentry", "terminal"]
        ask-timeout = 10
        [[allow]]
        who = ["ssh:build*", "vsock:7"]
        card = "Yubico *"
        may = ["read", "sign:9c"]
        limit = "60/hour"
        hours = "Mo-Fr 07:00-19:00"
        """,
        "config.toml",
    )
    (rule,) = said.rules
    assert (said.isolation, said.keep_tries, said.audit, said.audit_file) == (False, 2, "required", "/var/log/cards")
    assert (said.pinentry, said.ask_with, said.ask_timeout) == ("pinentry-qt", ("terminal", "pinentry"), 10)
    assert (rule.number, rule.who, rule.card, rule.pin) == (1, ("ssh:build*", "vsock:7"), "Yubico *", Pin.GUEST)
    assert [each.meaning and each.meaning.object for each in rule.may] == [None, "9C"]


@pytest.mark.parametrize(
    ("text", "line", "said", "hint"),
    [
        (RULE + 'mya = "read"', 4, "no key 'mya' in [[allow]]", "is 'may' meant?"),
        ('audti = "on"', 1, "no key 'audti'", "is 'audit' meant?"),
        ("\n\n[other]\nkey = 1", 3, "no key 'other'", "allow"),
        (RULE + RULE + 'pin = "gest"', 7, "pin: Invalid enum value 'gest'", ""),
        (RULE + '[[allow]]\nwho = "ssh:b"', 4, "missing required field `may`", ""),
        (RULE.replace("read", "raed"), 3, "no operation 'raed'", "correct may"),
        (RULE.replace("ssh:a", "a"), 2, "'a' is no principal", "correct who"),
        (RULE + 'limit = "3"', 4, "no limit such as 60/hour", "correct limit"),
        (RULE + 'limit = "0/hour"', 4, "a limit is 1 to", ""),
        (RULE + 'hours = "Mo 7-9"', 4, "no time span", ""),
        (RULE + 'hours = "Mo 25:00-26:00"', 4, "no time of the day", ""),
        (RULE.replace('"read"', "[]"), 3, "may is empty", ""),
        (RULE.replace('"read"', '"sign:"'), 3, "names no key", ""),
        ('keep-tries = "a"', 1, "keep-tries: Expected `int`", ""),
        ("keep-tries = 16", 1, "keep-tries", ""),
        (RULE + 'pin = "host"', 4, 'pin = "host" and pin-from go together', "file:/PATH"),
        (RULE + 'pin = "host"\npin-from = "file:pin"', 5, "is neither file:/PATH", "correct pin-from"),
        (RULE + 'pin = "pinpad"\npin-from = "file:/pin"', 5, "go together", ""),
        ('ask-with = ["telepathy"]', 1, "Invalid enum value 'telepathy'", ""),
        ("ask-with = []", 1, "ask-with", ""),
        ("ask-timeout = 121", 1, "ask-timeout", ""),
        ("allow = 3", 1, "Expected `array`", ""),
    ],
)
def test_errors_say_where(text: str, line: int, said: str, hint: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        Configuration.parse(text, "config.toml")
    assert error.value.message.startswith(f"config.toml, line {line}: ")
    assert said in error.value.message
    assert hint in error.value.hint


def test_the_hosts_pin_is_not_for_everybody() -> None:
    text = "isolation = false\n" + RULE + 'pin = "pinpad"'
    with pytest.raises(ConfigurationError, match="would be everybody's"):
        Configuration.parse(text, "config.toml")


def test_what_is_no_toml_is_an_error_with_its_line() -> None:
    with pytest.raises(ConfigurationError, match=r"is no TOML: .*line 2"):
        Configuration.parse("\na = = 1", "config.toml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (RULE, []),
        (RULE.replace("read", "sign:9C"), ["note: rule 1 allows to use a key, but not verify"]),
        (RULE.replace("read", "other"), ["note: rule 1 allows other"]),
        (RULE + RULE, ["note: rule 2 never decides"]),
    ],
)
def test_what_is_right_but_perhaps_not_meant(text: str, said: list[str]) -> None:
    found = list(advice(Configuration.parse(text, "x").rules))
    assert [note[: len(start)] for note, start in zip(found, said, strict=True)] == said


def test_a_ticket_stands_for_a_pin_that_is_kept_or_typed() -> None:
    kept = Configuration.parse(RULE + 'pin = "ticket"\npin-from = "keyring:cards/mine"', "x").rules[0]
    typed = Configuration.parse(RULE + 'pin = "ticket"', "x").rules[0]
    assert (str(kept.pin_from), typed.pin_from) == ("keyring:cards/mine", None)
    assert kept.pin is typed.pin is Pin.TICKET


def test_a_name_with_brackets_is_that_name_only() -> None:
    from cardferry.policy.rules.defaults import default_rules

    rules = default_rules("a[b]*")
    assert rules[0].concerns(str(Principal(PrincipalKind.UNIX, "a[b]*")), None)
    assert not rules[0].concerns(str(Principal(PrincipalKind.UNIX, "ab")), None)
