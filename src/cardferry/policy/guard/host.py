"""What the guards of all readers of a host share."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from cardferry.labelled import Labelled
from cardferry.pcsc.caller import Caller, Principal, PrincipalKind, Program
from cardferry.pcsc.errors import UserError
from cardferry.policy.audit import AuditLog, Entry
from cardferry.policy.guard.act import KEY_USES, Act
from cardferry.policy.guard.consent import Consents, Matter
from cardferry.policy.guard.tickets import Tickets
from cardferry.policy.guard.wrong_pins import WrongPins
from cardferry.policy.operations import Meaning
from cardferry.policy.pin.ask_password import AskPassword
from cardferry.policy.pin.notification import Notification
from cardferry.policy.pin.person import CANCELLED, Person, Question, Said, Way
from cardferry.policy.pin.pinentry import Pinentry
from cardferry.policy.rulebook import Rulebook
from cardferry.policy.rules.limits import Uses
from cardferry.policy.rules.rule import Ask, AskWith, Pin, Rule

log = logging.getLogger(__name__)

#: What needs no PIN, in rules.
_LITTLE: Final = frozenset({"read", "verify"})
#: s until what has happened is written down. So many lines (2 ms of work) are in the next pass of the event loop, and
#: what could not wait for that, in a loop that never passes, is written at once.
_PAUSE: Final = 0.05
_MANY_UNWRITTEN: Final = 32
_MOST_UNWRITTEN: Final = 1000
#: s in which the same refusal is counted, not written anew.
_SAME: Final = 1.0


@dataclass(slots=True)
class GuardCount:
    """What was refused to one principal with a card, and how often the card has said that its PIN is wrong."""

    denials: int = 0
    pin_failures: int = 0


class HostGuard:
    """Decides who may do what with this host's cards, and writes it down.

    Args:
        rulebook: the rules in force.
        audit: where it is written; None for nowhere.
        wrong_pins: who has given wrong PINs.
        tickets: what programs give in the place of a PIN.

    Attributes:
        rulebook: the rules in force.
        uses: what has been done under a limit.
        wrong_pins: who has given wrong PINs.
        tickets: what programs give in the place of a PIN.
        person: the person at the host.
        itself: who asks cards which ones they are; whatever the rules say.
        version: another number whenever what somebody may do can have changed.
        counts: what was refused, by reader and by principal.
    """

    def __init__(
        self,
        rulebook: Rulebook,
        audit: AuditLog | None = None,
        wrong_pins: WrongPins | None = None,
        tickets: Tickets | None = None,
    ) -> None:
        self.rulebook = rulebook
        rulebook.told = self.changed
        self.itself = Caller(
            Principal(PrincipalKind.LOCAL_USER, rulebook.account), Program("cardferry", os.getpid(), os.getuid(), True)
        )
        self.version = 0
        self._shows_cards = False
        self._told: set[Callable[[], None]] = set()
        self.uses = Uses()
        self.wrong_pins = wrong_pins or WrongPins()
        self.tickets = tickets or Tickets()
        self._audit = audit
        self.person = Person(self._ways)
        self._pages: list[Way] = []
        self._consents = Consents(self.person.ask)
        #: What happened and is not written down yet, and what will do that.
        self._unwritten: list[Entry | Act] = []
        self._writing: asyncio.Handle | None = None
        self._denials: dict[tuple[str, str, str], tuple[float, int]] = {}
        self.counts = Labelled(lambda: Labelled(GuardCount))

    @property
    def wants_cards(self) -> bool:
        """Whether cards are asked which ones they are: for rules, for what is written down, or for what others see."""
        return self.audits or self.rulebook.names_cards or self._shows_cards

    def show_cards(self) -> None:
        """Others are to see which cards there are, from now on: in a fleet's directory."""
        self._shows_cards = True
        self.changed()

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

    @contextmanager
    def asking(self, page: Way) -> Iterator[None]:
        """For the block the person can be asked on a web page."""
        self._pages.append(page)
        try:
            yield
        finally:
            self._pages.remove(page)

    def _ways(self, terminals: Sequence[Way]) -> list[Way]:
        """The ways to ask the person, in the order of the configuration."""
        configuration = self.rulebook.configuration
        ways: dict[AskWith, Sequence[Way]] = {
            AskWith.PAGE: self._pages,
            AskWith.DESKTOP: (Notification(),),
            AskWith.PINENTRY: (Pinentry(configuration.pinentry),),
            AskWith.TERMINAL: terminals,
            AskWith.SYSTEMD: (AskPassword(),),
        }
        return [way for each in configuration.ask_with for way in ways[each]]

    @property
    def asks_with(self) -> list[str]:
        """How the person would be asked now, for people; empty when no rule wants that."""
        rules = self.rulebook.rules
        questions = {"for a PIN": Question("", "PIN")} if any(map(_typed, rules)) else {}
        if any(rule.ask is not Ask.NEVER for rule in rules):
            questions["for yes or no"] = Question("")
        return [
            f"{what}: {', then '.join(way.name for way in self.person.ways(question)) or 'nobody can be asked'}"
            for what, question in questions.items()
        ]

    async def consents(self, caller: Caller, card: str, rule: Rule, meaning: Meaning, what: str) -> bool:
        """Ask the person at the host whether something may be done; ``card`` is how it is known there."""
        text = f"{caller.principal} ({caller}) wants to use the card in {card}: {what}."
        patience = float(self.rulebook.configuration.ask_timeout)
        question = Question(text, lasting=rule.ask is Ask.FIRST, patience=patience)
        return (await self._consents.get(Matter(caller.principal, card, meaning), question)).yes

    async def pin(self, caller: Caller, card: str, rule: Rule, prompt: str = "PIN", patience: float = 0.0) -> Said:
        """The PIN of the card, for a principal whose rule says that the host gives it. Whoever has used it wipes it.

        Args:
            card: how it is known at the host.
            prompt: which PIN.
            patience: s that the person has to type it; 0 for as long as the configuration says.
        """
        if rule.pin_from is not None:
            try:
                return Said(yes=True, pin=await rule.pin_from.read())
            except UserError as error:
                log.error("%s; %s", error.message, error.hint)
                return CANCELLED
        what = ", ".join(each.text for each in rule.may if each.text not in _LITTLE)
        text = f"{caller.principal} ({caller}) wants the PIN of the card in {card}, for: {what or 'reading'}."
        return await self.person.ask(
            Question(text, prompt, patience=patience or self.rulebook.configuration.ask_timeout)
        )

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
        entry.principal = str(caller.principal)
        entry.program = str(caller)
        entry.proved = caller.program.proved
        self._later(entry)

    def note_act(self, act: Act) -> None:
        """Write down what was done. The words for what only uses a key are found later, when nobody waits for them."""
        self._later(act if act.action.operation in KEY_USES else act.entry())

    def note_now(self, caller: Caller, entry: Entry) -> bool:
        """Write something down before anything else is done; whether it is written."""
        self.note(caller, entry)
        return self._audit is not None and self.write()

    def _later(self, what: Entry | Act) -> None:
        if self._audit is None:
            return
        unwritten = self._unwritten
        unwritten.append(what)
        if self._writing is None:
            self._writing = asyncio.get_running_loop().call_later(_PAUSE, self.write)
        elif len(unwritten) == _MANY_UNWRITTEN:
            self._writing.cancel()
            self._writing = asyncio.get_running_loop().call_soon(self.write)
        elif len(unwritten) >= _MOST_UNWRITTEN:
            self.write()

    def write(self) -> bool:
        """Write down what has happened until now; whether all of it is written."""
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        unwritten, self._unwritten = self._unwritten, []
        if self._audit is None or not unwritten:
            return True
        return self._audit.add(*map(_entry, unwritten))

    def note_denial(self, caller: Caller, entry: Entry) -> None:
        """Write a refusal down. One that comes again at once is counted, so that nobody can fill the disk with it."""
        self.counts.of(entry.reader).of(str(caller.principal)).denials += 1
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


def _entry(what: Entry | Act) -> Entry:
    """The line about it. A bug in our words for one must not take the others with it."""
    if isinstance(what, Entry):
        return what
    try:
        return what.entry()
    except Exception:  # the boundary between a guest's command and the lines about others
        log.exception("a bug in the words for what %s has done", what.caller.principal)
        return Entry(what.at, "done", str(what.caller.principal), what="something that could not be put into words")


def _typed(rule: Rule) -> bool:
    """Whether a person types its PIN at the host."""
    return rule.pin is not Pin.GUEST and rule.pin_from is None
