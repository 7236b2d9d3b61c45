"""A rule: who may do what with which card, with whose PIN, how often and when."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from cardferry.policy.operations import Meaning, Operation
from cardferry.policy.pin.secret import SecretPlace
from cardferry.policy.rules.hours import Hours
from cardferry.policy.rules.limits import Limit

#: In ``may``: everything that can be done with a card and its reader.
ALL: Final = "all"
#: In ``card``: all of them.
ANY_CARD: Final = "*"
#: What rules may call a card: its reader's name first, then that with its number, and its certificates' subjects.
Card = tuple[str, ...]
#: What the tables of operations call keys and objects (`Meaning.object`).
_OBJECT: Final = re.compile(r"([0-9A-F]{2})+|SIG|DEC|AUT", re.IGNORECASE)
_OBJECT_HINT: Final = "hexadecimal digits such as 9C, or one of SIG, DEC, AUT"
_OPERATIONS: Final = {operation.value: operation for operation in Operation}


class Pin(StrEnum):
    """Whose PIN opens the card."""

    #: The program's own, as everywhere.
    GUEST = "guest"
    #: The host has it, and nobody is asked.
    HOST = "host"
    #: The host asks the person in front of it.
    PINPAD = "pinpad"
    #: Programs give a ticket, and the host puts the PIN in its place.
    TICKET = "ticket"


class Ask(StrEnum):
    """Whether the person at the host is asked."""

    NEVER = "never"
    #: One of the answers is: for the next 10 minutes.
    FIRST = "first"
    ALWAYS = "always"


class AskWith(StrEnum):
    """A way to ask the person at the host, in the order in which they are tried."""

    #: The web page of `cardferry host --web`, while somebody looks at it; not for PINs.
    PAGE = "page"
    #: A notification on the desktop with buttons; not for PINs.
    DESKTOP = "desktop"
    PINENTRY = "pinentry"
    #: The terminal of a `cardferry host` or `cardferry share` in the foreground.
    TERMINAL = "terminal"
    #: systemd-ask-password; only for PINs.
    SYSTEMD = "systemd-ask-password"


@dataclass(frozen=True, slots=True)
class Permission:
    """What ``may`` says in one word, such as ``sign:9C``."""

    text: str
    meaning: Meaning | None

    @classmethod
    def parse(cls, text: str) -> Permission:
        """Read one; raises `ValueError` in words for people."""
        if text == ALL:
            return cls(text, None)
        name, colon, what = text.partition(":")
        operation = _OPERATIONS.get(name)
        if operation is None:
            raise ValueError(f"there is no operation {name!r}: {', '.join(_OPERATIONS)}, or {ALL}")
        if colon and not what:
            raise ValueError(f"{text!r} names no key or object")
        if what and not _OBJECT.fullmatch(what):
            raise ValueError(f"{text!r} names no key or object: {_OBJECT_HINT}")
        return cls(text, Meaning(operation, _object(what)))

    def covers(self, meaning: Meaning) -> bool:
        """Whether it allows that."""
        return self.meaning is None or self.meaning.covers(meaning)


def _object(text: str) -> str | None:
    """As the tables write it: hexadecimal digits, and names of keys, in capitals."""
    return text.upper() or None


@dataclass(frozen=True, slots=True)
class Rule:
    """One ``[[allow]]``.

    Attributes:
        number: its place in the file, from 1; 0 for what holds without a file.
        who: patterns of principals such as ``ssh:build*``.
        card: a pattern of one of the card's names.
        may: what is allowed.
        pin: see `Pin`.
        limit: how often it may be done in all, reading and PINs apart; None for as often as they like.
        ask: see `Ask`.
        hours: when; None for always.
        pin_from: where the PIN is kept, for `Pin.HOST` and `Pin.TICKET`.
        text_hours, text_limit: the last two as they were written.
    """

    number: int
    who: tuple[str, ...]
    card: str
    may: tuple[Permission, ...]
    pin: Pin = Pin.GUEST
    limit: Limit | None = None
    ask: Ask = Ask.NEVER
    hours: Hours | None = None
    pin_from: SecretPlace | None = None
    text_limit: str = field(default="", compare=False)
    text_hours: str = field(default="", compare=False)

    def concerns(self, who: str, card: Card | None) -> bool:
        """Whether it is about this principal and this card (None: any)."""
        return any(fnmatch.fnmatchcase(who, pattern) for pattern in self.who) and (
            card is None or self.card == ANY_CARD or any(_matches(name, self.card) for name in card)
        )

    def allows(self, meaning: Meaning, moment: datetime) -> bool:
        """Whether it allows that then."""
        return any(each.covers(meaning) for each in self.may) and (self.hours is None or self.hours.hold(moment))

    def __str__(self) -> str:
        """As ``rule 2 of the configuration``."""
        return f"rule {self.number}" if self.number else "the rule without a configuration"


def _matches(name: str, pattern: str) -> bool:
    """As for ``--reader``: a shell's pattern, upper and lower case alike; a whole name matches itself."""
    folded = name.casefold()
    return pattern.casefold() == folded or fnmatch.fnmatchcase(folded, pattern.casefold())
