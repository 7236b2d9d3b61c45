"""The one decision: the first rule that is about somebody and allows something decides; nothing else is allowed."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardferry.pcsc.caller import Principal, PrincipalKind
from cardferry.policy.guard.identity import Identity
from cardferry.policy.operations import Meaning, Operation
from cardferry.policy.rules import Configuration, Verdict, decide
from cardferry.policy.rules.decide import sees
from cardferry.policy.rules.hours import Hours
from cardferry.policy.rules.limits import Limit, Uses
from cardferry.policy.rules.rule import Permission

RULES = Configuration.parse(
    """
    [[allow]]
    who = ["ssh:build*", "vsock:7"]
    card = "Yubico*"
    may = ["read", "verify", "sign:9C"]
    [[allow]]
    who = "ssh:build1"
    may = "decrypt"
    hours = "Mo-Fr 07:00-19:00"
    [[allow]]
    who = "ssh:careful"
    may = "sign"
    ask = "first"
    [[allow]]
    who = "local-user:alice"
    may = "all"
    """,
    "x",
).rules
MONDAY, SUNDAY = datetime(2026, 11, 23, 12, 0), datetime(2026, 11, 22, 12, 0)
YUBIKEY, OTHER = "YUBICO YubiKey 00 00", "Acme 00 00"


def who(text: str) -> Principal:
    kind, _, name = text.partition(":")
    return Principal(PrincipalKind(kind), name)


def what(text: str) -> Meaning:
    meaning = Permission.parse(text).meaning
    assert meaning is not None
    return meaning


@pytest.mark.parametrize(
    ("principal", "card", "operation", "moment", "verdict", "number"),
    [
        ("ssh:build1", YUBIKEY, "sign:9C", SUNDAY, Verdict.ALLOW, 1),
        ("ssh:build1", YUBIKEY, "read:5FC105", SUNDAY, Verdict.ALLOW, 1),
        ("ssh:build1", YUBIKEY, "sign:9A", SUNDAY, Verdict.DENY, None),
        ("ssh:build1", YUBIKEY, "sign", SUNDAY, Verdict.DENY, None),
        ("ssh:build1", OTHER, "sign:9C", SUNDAY, Verdict.DENY, None),
        ("ssh:build1", None, "sign:9C", SUNDAY, Verdict.ALLOW, 1),
        ("vsock:7", YUBIKEY, "sign:9C", SUNDAY, Verdict.ALLOW, 1),
        ("unix:build1", YUBIKEY, "sign:9C", SUNDAY, Verdict.DENY, None),
        ("ssh:build1", OTHER, "decrypt:9D", MONDAY, Verdict.ALLOW, 2),
        ("ssh:build1", OTHER, "decrypt:9D", SUNDAY, Verdict.DENY, None),
        ("ssh:build1", YUBIKEY, "other", MONDAY, Verdict.DENY, None),
        ("ssh:careful", YUBIKEY, "sign:9C", MONDAY, Verdict.ASK, 3),
        ("local-user:alice", OTHER, "other", MONDAY, Verdict.ALLOW, 4),
        ("local-user:alice", OTHER, "control", MONDAY, Verdict.ALLOW, 4),
        ("ssh:nobody", OTHER, "read", MONDAY, Verdict.DENY, None),
    ],
)
def test_who_may_do_what(
    principal: str, card: str | None, operation: str, moment: datetime, verdict: Verdict, number: int | None
) -> None:
    decision = decide(RULES, who(principal), None if card is None else (card,), what(operation), moment)
    assert (decision.verdict, decision.rule and decision.rule.number) == (verdict, number)


@pytest.mark.parametrize(
    ("principal", "operation", "why"),
    [
        ("ssh:nobody", "read", "no rule is about ssh:nobody"),
        ("ssh:careful", "decrypt", "rule 3 is about ssh:careful, but does not allow it"),
        ("ssh:build1", "sign:9A", "rules 1 and 2 are about ssh:build1, but do not allow it"),
        ("ssh:build1", "decrypt", "rules 1 and 2 are about ssh:build1, but do not allow it now (rule 2 does Mo-Fr"),
        ("local-user:alice", "other", "rule 4 allows it"),
    ],
)
def test_why(principal: str, operation: str, why: str) -> None:
    assert decide(RULES, who(principal), None, what(operation), SUNDAY).why.startswith(why)


def test_which_readers_are_there_for_somebody() -> None:
    assert sees(RULES, who("vsock:7"), (YUBIKEY,))
    assert not sees(RULES, who("vsock:7"), (OTHER,))
    assert not sees(RULES, who("ssh:nobody"), (YUBIKEY,))


OPERATIONS = st.sampled_from(list(Operation))
MEANINGS = st.builds(Meaning, OPERATIONS, st.sampled_from([None, "9A", "9C", "80"]))


@given(MEANINGS, MEANINGS)
def test_who_is_denied_something_is_denied_everything_that_is_stronger(weak: Meaning, strong: Meaning) -> None:
    if strong.covers(weak):
        for rule in RULES:
            allowed = rule.allows(strong, MONDAY)
            assert not allowed or rule.allows(weak, MONDAY)


@given(MEANINGS)
def test_no_rules_deny_all(meaning: Meaning) -> None:
    assert decide((), who("local-user:alice"), None, meaning, MONDAY).verdict is Verdict.DENY


@pytest.mark.parametrize(
    ("text", "moment", "holds"),
    [
        ("Mo-Fr 07:00-19:00", datetime(2026, 11, 23, 7, 0), True),
        ("Mo-Fr 07:00-19:00", datetime(2026, 11, 23, 6, 59), False),
        ("Mo-Fr 07:00-19:00", datetime(2026, 11, 23, 19, 0), False),
        ("Mo-Fr 07:00-19:00", datetime(2026, 11, 22, 12, 0), False),
        ("mo-fr", datetime(2026, 11, 27, 23, 59), True),
        ("22:00-06:00", datetime(2026, 11, 23, 5, 59), True),
        ("Fr 22:00-06:00", datetime(2026, 11, 28, 5, 59), True),
        ("Fr 22:00-06:00", datetime(2026, 11, 27, 5, 59), False),
        ("Fr 22:00-06:00", datetime(2026, 11, 28, 6, 0), False),
        ("Sa-Mo", datetime(2026, 11, 22, 1, 0), True),
        ("Sa-Mo", datetime(2026, 11, 24, 1, 0), False),
        ("Mo 08:00-09:00, We 10:00-24:00", datetime(2026, 11, 25, 23, 59), True),
    ],
)
def test_hours(text: str, moment: datetime, holds: bool) -> None:
    assert Hours.parse(text).hold(moment) is holds


def test_a_limit_slides() -> None:
    uses, limit = Uses(), Limit.parse("2/minute")
    taken = [uses.take("me", limit, now) for now in (0, 30, 59, 60, 61, 89, 90)]
    assert taken == [True, True, False, True, False, False, True]
    assert uses.take("somebody else", limit, 59)


@pytest.mark.parametrize(
    ("pattern", "about"),
    [
        ("YUBICO YubiKey * serial 1234*", True),
        ("*serial 12345678", True),
        ("*serial 999*", False),
        ("cn=build signing,*", True),
        ("CN=somebody else*", False),
        (YUBIKEY, True),
        (OTHER, False),
        ("*", True),
    ],
)
def test_a_card_is_known_by_its_reader_its_number_and_its_certificates(pattern: str, about: bool) -> None:
    card = Identity(("12345678",), {"9C": "CN=build signing,O=Example"}).names(YUBIKEY)
    rules = Configuration.parse(f'[[allow]]\nwho = "*"\nmay = "read"\ncard = "{pattern}"', "a file").rules
    assert sees(rules, who("ssh:build1"), card) is about
    unknown = Identity().names(YUBIKEY)
    assert sees(rules, who("ssh:build1"), unknown) is (pattern in (YUBIKEY, "*")), "what was not read does not match"
