"""The decision: may this principal do that with this card now? One pure function; limits and people come after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from cardferry.pcsc.caller import Principal
from cardferry.policy.operations import Meaning
from cardferry.policy.rules.rule import Ask, Card, Rule


class Verdict(Enum):
    """What the rules say."""

    ALLOW = "allow"
    ASK = "ask"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Decision:
    """What the rules say, and why.

    Attributes:
        rule: which has decided; None when no rule allows it.
        why: in words.
        ticket: the name of the ticket by which it is done, for people.
    """

    verdict: Verdict
    rule: Rule | None
    why: str
    ticket: str = ""

    def __str__(self) -> str:
        """What has decided, such as ``rule 2, ticket 3f2a``; empty when nothing has."""
        rule = "" if self.rule is None else str(self.rule)
        return f"{rule}, ticket {self.ticket}" if self.ticket else rule

    @property
    def allowed(self) -> bool:
        """Whether it is allowed, perhaps after a question."""
        return self.verdict is not Verdict.DENY


def decide(rules: Sequence[Rule], who: Principal, card: Card | None, meaning: Meaning, moment: datetime) -> Decision:
    """The first rule that is about the principal and the card, and allows the operation at this time, decides.

    Args:
        card: what it may be called; None when it does not matter (for questions of people).
        moment: in local time.
    """
    name = str(who)
    about = [rule for rule in rules if rule.concerns(name, card)]
    for rule in about:
        if rule.allows(meaning, moment):
            verdict = Verdict.ALLOW if rule.ask is Ask.NEVER else Verdict.ASK
            return Decision(verdict, rule, f"{rule} allows it")
    if not about:
        return Decision(Verdict.DENY, None, f"no rule is about {name}" + ("" if card is None else f" and {card[0]}"))
    return Decision(Verdict.DENY, None, f"{_listed(about)} {'is' if len(about) == 1 else 'are'} about {name}, "
                    f"but {'does' if len(about) == 1 else 'do'} not allow it{_when(about, meaning)}")  # fmt: skip


def sees(rules: Sequence[Rule], who: Principal, card: Card) -> bool:
    """Whether a reader is shown to the principal: some rule is about both."""
    name = str(who)
    return any(rule.concerns(name, card) for rule in rules)


def _listed(rules: Sequence[Rule]) -> str:
    numbers = [str(rule.number) for rule in rules]
    if numbers == ["0"]:
        return str(rules[0])
    return f"rule {numbers[0]}" if len(numbers) == 1 else f"rules {', '.join(numbers[:-1])} and {numbers[-1]}"


def _when(about: Sequence[Rule], meaning: Meaning) -> str:
    """It would be allowed at another time."""
    for rule in about:
        if rule.hours is not None and any(each.covers(meaning) for each in rule.may):
            return f" now ({rule} does {rule.text_hours})"
    return ""
