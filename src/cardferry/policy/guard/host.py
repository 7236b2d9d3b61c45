"""What the guards of all readers of a host share."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from cardferry.pcsc.caller import Caller, Principal, PrincipalKind, Program
from cardferry.policy.audit import AuditLog, Entry
from cardferry.policy.guard.wrong_pins import WrongPins
from cardferry.policy.operations import Meaning
from cardferry.policy.pin.pinentry import Pinentry, Said
from cardferry.policy.rulebook import Rulebook
from cardferry.policy.rules.limits import Uses
from cardferry.policy.rules.rule import Ask, Rule

log = logging.getLogger(__name__)

#: s for which a person's yes holds, with ``ask = "first"``.
_HOLDS: Final = 600.0
#: s until what has happened is written down; how much may wait for that.
_PAUSE: Final = 0.05
_MOST_UNWRITTEN: Final = 1000
#: s in which the same refusal is counted, not written anew.
_SAME: Final = 1.0


class HostGuard:
    """Decides who may do what with this host's cards, and writes it down.

    Args:
        rulebook: the rules in force.
        audit: where it is written; None for nowhere.
        wrong_pins: who has given wrong PINs.

    Attributes:
        rulebook: the rules in force.
        uses: what has been done under a limit.
        wrong_pins: who has given wrong PINs.
        itself: who asks cards which ones they are; whatever the rules say.
        version: another number whenever what somebody may do can have changed.
    """

    def __init__(self, rulebook: Rulebook, audit: AuditLog | None = None, wrong_pins: WrongPins | None = None) -> None:
        self.rulebook = rulebook
        rulebook.told = self.changed
        self.itself = Caller(
            Principal(PrincipalKind.LOCAL_USER, rulebook.account), Program("cardferry", os.getpid(), os.getuid(), True)
        )
        self.version = 0
        self._told: set[Callable[[], None]] = set()
        self.uses = Uses()
        self.wrong_pins = wrong_pins or WrongPins()
        self._audit = audit
        self._pinentry: Pinentry | None = None
        #: What the person has allowed, and until when.
        self._allowed: dict[tuple[Principal, str, Meaning], float] = {}
        #: What happened and is not written down yet, and what will do that.
        self._unwritten: list[Entry] = []
        self._writing: asyncio.TimerHandle | None = None
        self._denials: dict[tuple[str, str, str], tuple[float, int]] = {}

    @property
    def wants_cards(self) -> bool:
        """Whether cards are asked which ones they are: for rules that name them, or for what is written down."""
        return self.audits or self.rulebook.names_cards

    def changed(self) -> None:
        """The rules have changed, or more is known of a card."""
        self.version += 1
        for told in tuple(self._told):
            told()

    @contextmanager
    def telling(self, told: Callable[[], None]) -> Iterator[None]:
        """Call this after each change, for the block. At its end all that has happened is written down."""
        self._told.add(told)
        try:
            yield
        finally:
            self._told.discard(told)
            self.write()

    def spares_tries_of(self, who: Principal) -> bool:
        """Whether the principal is a guest, which leaves PIN tries; the account itself is none."""
        return not (who.kind is PrincipalKind.LOCAL_USER and who.name == self.rulebook.account)

    def _person(self) -> Pinentry:
        command = self.rulebook.configuration.pinentry
        if self._pinentry is None or self._pinentry.command != command:
            self._pinentry = Pinentry(command)
        return self._pinentry

    async def consents(self, caller: Caller, reader: str, rule: Rule, meaning: Meaning, what: str) -> bool:
        """Ask the person at the host whether something may be done."""
        which = caller.principal, reader, meaning
        now = time.monotonic()
        if rule.ask is Ask.FIRST and now < self._allowed.get(which, 0.0):
            return True
        holds = f" Your answer holds for {_HOLDS / 60:g} minutes." if rule.ask is Ask.FIRST else ""
        said = await self._person().consent(
            f"{caller.principal} ({caller}) wants to use the card in {reader}: {what}.{holds}"
        )
        if said.yes and rule.ask is Ask.FIRST:
            self._allowed = {each: until for each, until in self._allowed.items() if now < until}
            self._allowed[which] = time.monotonic() + _HOLDS
        return said.yes

    async def pin(self, caller: Caller, reader: str, rule: Rule) -> Said:
        """The PIN of the card, for a principal whose rule says that the host gives it.

        Raises:
            SecretError: it is kept where it cannot be read.
        """
        if rule.pin_from is not None:
            return Said(yes=True, pin=rule.pin_from.read())
        return await self._person().pin(f"{caller.principal} ({caller}) wants the PIN of the card in {reader}.")

    @property
    def audits(self) -> bool:
        """Whether anything is written down."""
        return self._audit is not None

    @property
    def must_audit(self) -> bool:
        """Whether nothing that acts may be done that is not written down before."""
        return self.rulebook.configuration.audit == "required"

    def note(self, caller: Caller, entry: Entry) -> None:
        """Write something down, together with what else happens within `_PAUSE` s: a file costs more than a line."""
        if self._audit is None:
            return
        entry.principal = str(caller.principal)
        entry.program = str(caller)
        entry.proved = caller.program.proved
        self._unwritten.append(entry)
        if len(self._unwritten) >= _MOST_UNWRITTEN:
            self.write()
        elif self._writing is None:
            self._writing = asyncio.get_running_loop().call_later(_PAUSE, self.write)

    def note_now(self, caller: Caller, entry: Entry) -> bool:
        """Write something down before anything else is done; whether it is written."""
        self.note(caller, replace(entry))
        return self._audit is not None and self.write()

    def write(self) -> bool:
        """Write down what has happened until now; whether all of it is written."""
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        entries, self._unwritten = self._unwritten, []
        return self._audit is None or not entries or self._audit.add(*entries)

    def note_denial(self, caller: Caller, entry: Entry) -> None:
        """Write a refusal down. One that comes again at once is counted, so that nobody can fill the disk with it."""
        which = (str(caller.principal), entry.reader, entry.operation.partition(":")[0])
        now = time.monotonic()
        last, more = self._denials.get(which, (-_SAME, 0))
        if now < last + _SAME:
            self._denials[which] = last, more + 1
            return
        self._denials[which] = now, 0
        entry.times = more + 1
        log.info("denied to %s: %s with %s: %s", caller.principal, entry.what, entry.reader, entry.rule)
        self.note(caller, entry)
