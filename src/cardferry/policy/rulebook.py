"""The rules that are in force: read from a file, read again when it changes, all of it or nothing.

It is looked at when something is asked of it, at most once a second, so nothing waits for it. A file that is wrong, or
gone, changes nothing: the rules stay as they are, and that is said once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

from cardferry.pcsc.caller import Principal
from cardferry.pcsc.errors import UserError
from cardferry.policy.configuration_file import ConfigurationError, read_text
from cardferry.policy.operations import Meaning
from cardferry.policy.rules.configuration import Configuration
from cardferry.policy.rules.decide import Decision, decide, sees
from cardferry.policy.rules.defaults import default_rules
from cardferry.policy.rules.rule import ANY_CARD, Card, Pin, Rule

log = logging.getLogger(__name__)

#: s between two looks at the file.
_PAUSE: Final = 1.0
#: s after the last change to a file until it is believed to be whole: half of the rules are other rules.
_SETTLED: Final = 0.2
#: What is in force without a file.
NO_FILE: Final = Configuration(audit="off")
_Stamp = tuple[str, int, int, int] | None


def read(path: Path) -> Configuration:
    """Read a configuration file.

    Raises:
        ConfigurationError: it is wrong, cannot be read, or others may write it.
        FolderUnsafeError: others could put something in its place.
    """
    return Configuration.parse(read_text(path), str(path))


class Rulebook:
    """The rules in force.

    Args:
        find: says which file, None for none.
        account: whose readers they are.
        everybody: see `default_rules`.

    Attributes:
        configuration: what the file says.
        rules: what decides, in order: the file's rules, or those that hold without any.
        told: called after each change.

    Raises:
        UserError: the file is wrong; nothing is served without rules that were meant.
    """

    def __init__(self, find: Callable[[], Path | None], account: str, *, everybody: bool = False) -> None:
        self._find = find
        self.account = account
        self._everybody = everybody
        self._next_look = 0.0
        self._stamp: _Stamp = None
        self.path: Path | None = None
        self.told: Callable[[], None] = lambda: None
        self.configuration = NO_FILE
        self.rules: tuple[Rule, ...] = default_rules(account, everybody=everybody)
        self._load()

    @property
    def timed(self) -> bool:
        """Whether what is allowed depends on the time."""
        return any(rule.hours is not None for rule in self.rules)

    @property
    def names_cards(self) -> bool:
        """Whether some rule is not about all cards."""
        return any(rule.card != ANY_CARD for rule in self.rules)

    def look(self) -> None:
        """See whether the file has changed, if that was not done just now."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _PAUSE
        if (stamp := self._stamped()) != self._stamp:
            if stamp is not None and 0 <= time.time() - stamp[2] / 1e9 < _SETTLED:
                self._next_look = now + _SETTLED  # perhaps it is being written, and not whole
                return
            self.reload()

    def reload(self) -> None:
        """Read the file again; what is wrong with it is said, and changes nothing."""
        try:
            self._load()
        except UserError as error:
            log.error("the rules stay as they were: %s; %s", error.message, error.hint)
        else:
            log.info("%s", self.in_a_line())

    def _load(self) -> None:
        self._stamp = self._stamped()
        path = self._find()
        if path is None:
            if self.path is not None:
                raise ConfigurationError(f"the configuration {self.path} is gone", "put it back, or start anew")
            return
        self.configuration = read(path)
        self.rules = self.configuration.rules or default_rules(self.account, everybody=self._everybody)
        self.path = path
        self.told()

    def _stamped(self) -> _Stamp:
        path = self._find()
        try:
            found = path.stat() if path is not None else None
        except OSError:
            found = None
        return None if found is None else (str(path), found.st_ino, found.st_mtime_ns, found.st_size)

    def decide(self, who: Principal, card: Card | None, meaning: Meaning, moment: datetime | None = None) -> Decision:
        """What the rules say; see `cardferry.policy.rules.decide.decide`."""
        return decide(self.rules, who, card, meaning, moment or datetime.now())

    def sees(self, who: Principal, card: Card) -> bool:
        """Whether a reader is shown to the principal."""
        return sees(self.rules, who, card)

    def pin_rule(self, who: Principal, card: Card) -> Rule | None:
        """The rule by which the host gives the PIN for the principal now; None where the principal gives its own."""
        for rule in self.rules:
            if rule.pin is not Pin.GUEST and rule.concerns(str(who), card):
                return rule if rule.hours is None or rule.hours.hold(datetime.now()) else None
        return None

    def in_a_line(self) -> str:
        """What is in force, for people."""
        if self.configuration.rules:
            count = len(self.configuration.rules)
            return f"{count} rule{'s' if count > 1 else ''} in {self.path}: what they do not allow is denied"
        who = "every account of this computer" if self._everybody else self.account
        return (
            f"no rules: {who} and its ssh keys may do everything with the cards; other accounts and machines "
            "may use keys, and what changes a card is denied to them"
        )
