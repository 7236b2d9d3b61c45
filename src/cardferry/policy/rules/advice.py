"""What is right in a configuration, and perhaps not meant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from cardferry.policy.operations import Operation
from cardferry.policy.rules.rule import Permission, Pin, Rule

_WITH_PIN: Final = (Operation.SIGN, Operation.DECRYPT, Operation.AUTHENTICATE)
_OPENING: Final = (Operation.VERIFY, Operation.OTHER)


def advice(rules: Sequence[Rule]) -> Iterator[str]:
    """Sentences for people."""
    for rule in rules:
        if not rule.number:
            continue
        uses_key = any(each.meaning is not None and each.meaning.operation in _WITH_PIN for each in rule.may)
        verifies = any(each.meaning is None or each.meaning.operation in _OPENING for each in rule.may)
        if uses_key and not verifies and rule.pin is Pin.GUEST:
            yield f"note: {rule} allows to use a key, but not verify: the guest cannot give its PIN"
        if any(each.meaning is not None and each.meaning.operation is Operation.OTHER for each in rule.may):
            yield f"note: {rule} allows other: that is everything that can be done to a card"
    for rule in rules:
        before = next((first for first in rules if first is not rule and _hides(first, rule)), None)
        if rule.number and before is not None and before.number < rule.number:
            yield f"note: {rule} never decides: {before} is about the same and allows as much"


def _hides(first: Rule, second: Rule) -> bool:
    """Whether the first decides whatever the second could."""
    return (
        first.hours is None
        and set(second.who) <= set(first.who)
        and first.card in ("*", second.card)
        and all(any(_as_much(mine, its) for mine in first.may) for its in second.may)
    )


def _as_much(mine: Permission, its: Permission) -> bool:
    return mine.meaning is None or (its.meaning is not None and mine.covers(its.meaning))
