"""The guard of one reader: each command is judged when its turn has come, and answered here if it may not be sent.

The way of a command. A principal that reads what it has read before, or uses the same key again, is not kept
(`RuledCard.transmit`): it is known that the rules allow it. All else takes the long way (`RuledCard._judged`): what
another principal has unlocked is locked, the rules are asked, limits and PIN tries are counted. What acts is written
down after its answer was given, unless it must be written before.

A command that is refused does not reach the card, so that the tracker, which follows the card, does not learn of it.
It is answered with ``6982``, as a card answers that wants a PIN first: programs know what to do then.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from functools import partial
from typing import Final

from cardferry.manager.guard import GuardedReader
from cardferry.pcsc.apdu import StatusWord
from cardferry.pcsc.caller import Caller, Principal, is_by_host_itself
from cardferry.pcsc.constants import GET_FEATURE_REQUEST, Protocol
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.reply import Reply, answered, running
from cardferry.policy.audit import Entry
from cardferry.policy.audit.words import deed, operation_text, signed_digest
from cardferry.policy.guard.act import KEY_USES, Act
from cardferry.policy.guard.cards import Cards
from cardferry.policy.guard.control import Features
from cardferry.policy.guard.host import HostGuard
from cardferry.policy.guard.pin_tries import SUPPOSED, Try, carries_user_pin, takes_back, try_of, was_wrong
from cardferry.policy.guard.tickets import Ticket, given, with_pin
from cardferry.policy.guard.unlocked import Unlocked, ask, is_locked, lock
from cardferry.policy.operations import Action, Meaning, Operation, Tracker
from cardferry.policy.operations.operation import UNCERTAIN
from cardferry.policy.operations.tracker import WITHOUT_SECRETS
from cardferry.policy.pin.entry import (
    CANCELLED,
    INVALID,
    MODIFY_CODE,
    PROPERTIES,
    PROPERTIES_CODE,
    VERIFY_CODE,
    PinEntry,
    with_pinpad,
)
from cardferry.policy.pin.person import wipe
from cardferry.policy.pin.typed import typed_command
from cardferry.policy.rules.decide import Decision, Verdict
from cardferry.policy.rules.rule import Pin, Rule

log = logging.getLogger(__name__)

DENIED: Final = StatusWord.SECURITY_STATUS_NOT_SATISFIED.encode()
#: What a card says when a wrong PIN has taken the last try, or none is left.
LAST_TRY: Final = StatusWord.retries(0).encode()
BLOCKED: Final = StatusWord.AUTHENTICATION_BLOCKED.encode()
#: Operations that limits do not count: a PIN comes before each use of a key.
_NOT_COUNTED: Final = frozenset({Operation.READ, Operation.VERIFY})
#: Meanings that are remembered of a principal; a guest chooses the names of what it reads.
_MOST_REMEMBERED: Final = 256
_PINPAD_CODES: Final = frozenset({GET_FEATURE_REQUEST, VERIFY_CODE, MODIFY_CODE, PROPERTIES_CODE})
_CONTROL: Final = Meaning(Operation.CONTROL)
_SUCCESS: Final = b"\x90\x00"
_GET_RESPONSE: Final = 0xC0


class _Known:
    """A reading command that is allowed to whoever had the card last.

    Attributes:
        epoch: while the tracker has this one, it means the same.
        response: the last answer, if it has taught the tracker nothing: nor does it the next time.
    """

    __slots__ = ("_card", "action", "epoch", "response")

    def __init__(self, card: RuledCard, action: Action, epoch: int) -> None:
        self._card = card
        self.action = action
        self.epoch = epoch
        self.response = b""

    def answered(self, reply: Reply[bytes]) -> None:
        """Its answer is there."""
        self._card.read(self, reply)


class RuledCard:
    """Stands between the queue and one reader; see `cardferry.manager.guard.CardGuard`.

    Args:
        host: what all readers share.
        cards: which card this is.
        reader: what is guarded.
    """

    def __init__(self, host: HostGuard, cards: Cards, reader: GuardedReader) -> None:
        self._host = host
        self._cards = cards
        self._reader = reader
        self._tracker = Tracker()
        self._unlocked = Unlocked()
        self._features = Features()
        #: Who has sent the last command; what it may do, by which version of the rules.
        self._principal: Principal | None = None
        self._decisions: dict[Meaning, Decision] = {}
        self._known: dict[bytes, _Known] = {}
        #: Uses of keys that need nothing but their rule: no ticket, no yes of a person, nothing written before.
        self._plain: dict[Meaning, Decision] = {}
        self._version = -1
        #: Wrong PINs since the last right one, by reference.
        self._wrong: dict[str, int] = {}
        #: Whether the rest of an answer, if one is waiting in the card, is what anybody could have read without a PIN.
        self._rest_is_free = True
        #: Tickets in whose place the card has got its PIN, since it was locked.
        self._tickets: list[Ticket] = []

    # what happens to the card

    def keeps(self, principal: Principal) -> bool:
        """Whether that principal has verified a PIN that another one's command would lock."""
        if not self._unlocked.verified or principal != self._principal:
            return False
        return self._host.rulebook.configuration.isolation

    def interrupted(self) -> None:
        """Somebody who is in no queue of ours may have used the card."""
        self._tracker.interrupted()

    def exchanged(self) -> None:
        """It is another card, or none."""
        self._cards.exchanged(self._reader.name)

    def forgotten(self) -> None:
        """The card has forgotten everything."""
        self._tracker.reset()
        self._unlocked.forget()
        self._tickets.clear()

    # commands to the card

    def transmit(self, caller: Caller, apdu: bytes, protocol: Protocol) -> Reply[bytes]:
        """Send a command, or answer it."""
        host = self._host
        host.rulebook.look()
        principal, action = caller.principal, None
        if (principal is self._principal or principal == self._principal) and host.version == self._version:
            known = self._known.get(apdu)
            if known is not None and known.epoch == self._tracker.epoch:
                return self._reader.send(principal, apdu, protocol).then(known.answered)
            action = self._tracker.judge(apdu)
            decision = self._plain.get(action.meaning)
            if decision is not None and not is_by_host_itself():
                return self._do(caller, action, decision, apdu, protocol)
            if action.operation is Operation.READ and action.meaning in self._decisions:
                return self._reader.send(principal, apdu, protocol).then(self._knowing(action, apdu).answered)
        if is_by_host_itself() and caller is not host.itself:
            return running(self._ahead(caller, apdu, protocol))
        return running(self._judged(caller, apdu, protocol, action))

    def _knowing(self, action: Action, apdu: bytes) -> _Known:
        """Remember that a command is allowed, for as long as it means the same."""
        known = _Known(self, action, self._tracker.epoch)
        if apdu[1:2] in WITHOUT_SECRETS and apdu[1] != _GET_RESPONSE:
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            self._known[apdu] = known
        return known

    def read(self, known: _Known, reply: Reply[bytes]) -> None:
        """A command of which it was known that it is allowed has its answer."""
        if reply.error is not None:
            self._answered(known.action, reply)
            return
        response = reply.result()
        if response == known.response or (known.action.quiet and response[-2:] == _SUCCESS):
            return  # the tracker would learn nothing
        epoch = self._tracker.epoch
        self._answered(known.action, reply)
        if self._tracker.epoch == epoch and response[-2:] == _SUCCESS:
            known.response = response

    def _answered(self, action: Action, reply: Reply[bytes]) -> None:
        error = reply.error
        if error is None:
            response = reply.result()
            if action.quiet and response[-2:] == _SUCCESS and action.operation in KEY_USES:
                return  # nothing is learnt from it
            self._tracker.answered(action, response)
            free = self._rest_is_free and self._tracker.read_open and self._unlocked.nothing
            self._rest_is_free = free or not self._tracker.response_open
            if action.meaning.operation is Operation.READ:
                return
            if len(response) >= 2:
                self._unlocked.answered(action, response)
            else:
                self._unlocked.doubt()
        elif not isinstance(error, PcscError) or error.code is not ReturnCode.E_SHARING_VIOLATION:
            self._tracker.lost(action)
            if action.operation is not Operation.READ:
                self._unlocked.doubt()

    def _send(self, principal: Principal, action: Action, apdu: bytes, protocol: Protocol) -> Reply[bytes]:
        return self._reader.send(principal, apdu, protocol).then(partial(self._answered, action))

    async def _own(self, principal: Principal, apdu: bytes, protocol: Protocol) -> bytes:
        """A command of ours, in the state that a principal has left the card in."""
        return await self._send(principal, self._tracker.judge(apdu), apdu, protocol)

    async def _judged(self, caller: Caller, apdu: bytes, protocol: Protocol, judged: Action | None) -> bytes:
        """The long way; ``judged`` is what is known of the command if the same principal goes on."""
        if judged is None:
            await self._enter(caller.principal, protocol)
        if caller is self._host.itself:
            return await self._own(caller.principal, apdu, protocol)
        action = judged or self._tracker.judge(apdu)
        pin_rule = self._host.rulebook.pin_rule(caller.principal, self._names)
        if pin_rule is not None and takes_back(action):
            return await self._act(caller, action, Decision(Verdict.ALLOW, pin_rule, "it locks"), apdu, protocol)
        if pin_rule is not None and carries_user_pin(action):
            if pin_rule.pin is Pin.TICKET and action.operation is Operation.VERIFY and action.complete:
                return await self._with_ticket(caller, pin_rule, action, protocol)
            return self._refused(caller, action, "its PIN is given at the host, and not by the program", DENIED)
        decision = self._decide(caller, action.meaning)
        if not decision.allowed:
            return self._refused(caller, action, decision.why, DENIED)
        ticket = None
        if pin_rule is not None and pin_rule.pin is Pin.TICKET and action.operation not in _NOT_COUNTED:
            ticket = next((each for each in self._tickets if each.covers(action.meaning)), None)
            why = "it needs a ticket for that" if ticket is None else self._host.tickets.why_not(ticket)
            if ticket is None or why:
                return self._refused(caller, action, why, DENIED)
            decision = replace(decision, ticket=ticket.name)
        if not await self._consents(caller, action, decision):
            why = f"{decision.rule} asks the person at the host, who has not allowed it"
            return self._refused(caller, action, why, DENIED)
        if ticket is not None and self._does(action) and (why := self._host.tickets.use(ticket)):
            return self._refused(caller, action, why, DENIED)
        if action.operation is Operation.READ:
            return await self._send(caller.principal, action, apdu, protocol)
        if pin_rule is None or pin_rule.pin is not Pin.TICKET:
            self._remember(action, decision)
        return await self._act(caller, action, decision, apdu, protocol)

    def _remember(self, action: Action, decision: Decision) -> None:
        """The next use of this key is as plain, if it is: as long as the decision is remembered itself."""
        plain = decision.verdict is Verdict.ALLOW and not self._host.must_audit
        if plain and action.operation in KEY_USES and self._decisions.get(action.meaning) is decision:
            self._plain[action.meaning] = decision

    def _does(self, action: Action) -> bool:
        """Whether it is a whole command that does something: no piece of one, and not what fetches an answer's rest."""
        command = action.command
        fetches = self._tracker.response_open and command is not None and command.is_get_response
        return action.complete and not fetches and action.operation not in _NOT_COUNTED

    async def _ahead(self, caller: Caller, apdu: bytes, protocol: Protocol) -> bytes:
        """A command that no program has sent yet. What would be denied is not done, and nobody has asked for it."""
        await self._enter(caller.principal, protocol)
        action = self._tracker.judge(apdu)
        if action.operation is not Operation.READ or not self._decide(caller, action.meaning).allowed:
            raise PcscError(ReturnCode.E_SHARING_VIOLATION, "the rules do not allow to run ahead")
        return await self._send(caller.principal, action, apdu, protocol)

    async def _consents(self, caller: Caller, action: Action, decision: Decision) -> bool:
        """Ask the person at the host, where the rule says so, about what is done with a key or changes the card."""
        rule = decision.rule
        if decision.verdict is not Verdict.ASK or rule is None or not self._does(action):
            return True
        what = deed(action, signed_digest(action), self._subject(action), done=False)
        return await self._host.consents(caller, self._called, rule, action.meaning, what)

    async def _with_ticket(self, caller: Caller, rule: Rule, action: Action, protocol: Protocol) -> bytes:
        """The program gives a ticket where a PIN goes: the card gets the PIN in its place."""
        command, principal, wrong_pins = action.command, caller.principal, self._host.wrong_pins
        if command is None or wrong_pins.waits(principal):
            return self._refused(
                caller, action, f"too many wrong PINs; `cardferry guests forgive {principal}`", BLOCKED
            )
        ticket = self._host.tickets.find(principal, given(command))
        if ticket is None:
            last = self._count_wrong(principal)
            answer = StatusWord.retries(0 if last else 1).encode()
            return self._refused(caller, action, "what was given as PIN is no ticket", answer)
        if why := self._host.tickets.why_not(ticket):
            return self._refused(caller, action, why, DENIED)
        said = await self._host.pin(caller, self._called, rule)
        try:
            if said.pin is None:
                return self._refused(caller, action, "the host has no PIN for it", DENIED)
            apdu = with_pin(action, said.pin)
        except ValueError as error:
            return self._refused(caller, action, str(error), DENIED)
        finally:
            if said.pin is not None:
                wipe(said.pin)
        decision = Decision(Verdict.ALLOW, rule, f"{rule} puts the PIN in its place", ticket.name)
        response = await self._act(caller, self._tracker.judge(apdu), decision, apdu, protocol)
        if response == _SUCCESS:
            self._tickets = [ticket, *(each for each in self._tickets if each.name != ticket.name)]
        return response

    async def _act(self, caller: Caller, action: Action, decision: Decision, apdu: bytes, protocol: Protocol) -> bytes:
        """Send a command that does more than read."""
        taken = try_of(action, apdu) if self._host.spares_tries_of(caller.principal) else None
        if taken is not None and (refusal := await self._refusal(caller, action, taken, protocol)):
            return refusal
        response = await self._do(caller, action, decision, apdu, protocol)
        if taken is not None:
            self._count(caller, taken, response)
        elif action.operation is Operation.VERIFY and response == _SUCCESS:
            self._wrong.clear()
        return response

    def _do(self, caller: Caller, action: Action, decision: Decision, apdu: bytes, protocol: Protocol) -> Reply[bytes]:
        """Send a command that is allowed, within its limit, and have it written down."""
        if not self._within_limit(caller.principal, action, decision):
            return answered(self._refused(caller, action, f"{decision.rule}: {_limit(decision)}", DENIED))
        host = self._host
        if not (host.audits or host.must_audit):
            return self._send(caller.principal, action, apdu, protocol)
        act = self._new_act(caller, action, decision)
        if host.must_audit and not host.note_now(caller, act.entry()):
            return answered(self._refused(caller, action, "it cannot be written down", DENIED))
        return self._reader.send(caller.principal, apdu, protocol).then(partial(self._acted, act))

    def _acted(self, act: Act, reply: Reply[bytes]) -> None:
        try:
            self._answered(act.action, reply)
        finally:
            act.answered(reply)
            self._host.note_act(act)

    def _allow_nothing(self) -> None:
        self._decisions.clear()
        self._known.clear()
        self._plain.clear()

    @property
    def _names(self) -> tuple[str, ...]:
        """All that rules may call the card."""
        return self._cards.names(self._reader.name)

    @property
    def _called(self) -> str:
        """The card as a person knows it: by its reader, and its number."""
        serials = self._cards.identity(self._reader.name).serials
        return f"{self._reader.name}, serial {' or '.join(serials)}" if serials else self._reader.name

    def _decide(self, caller: Caller, meaning: Meaning) -> Decision:
        """What the rules say; remembered where it is allowed, and does not depend on the time."""
        current = caller.principal == self._principal and self._host.version == self._version
        known = self._decisions.get(meaning) if current else None
        if known is None:
            known = self._host.rulebook.decide(caller.principal, self._names, meaning)
            if current and known.allowed and not self._host.rulebook.timed:
                if len(self._decisions) >= _MOST_REMEMBERED:
                    self._decisions.clear()
                self._decisions[meaning] = known
        return known

    # principals

    async def _enter(self, principal: Principal, protocol: Protocol) -> None:
        """A principal's command comes. What another one has unlocked is locked before.

        Raises:
            PcscError: ``W_RESET_CARD`` when only a reset could do that.
        """
        rulebook = self._host.rulebook
        if principal != self._principal:
            if self._principal is not None and rulebook.configuration.isolation:
                await self._lock(self._principal, protocol)
            self._principal = principal
            self._allow_nothing()
            self._tickets.clear()
        if self._host.version != self._version:
            self._version = self._host.version
            self._allow_nothing()

    async def _lock(self, principal: Principal, protocol: Protocol) -> None:
        tracker = self._tracker
        # The next command could be taken for the rest of it, or fetch the rest of what only this one has earned.
        begun = tracker.chain_open or (tracker.response_open and not self._rest_is_free)
        if self._unlocked.nothing and not begun:
            return
        references = None if begun else self._unlocked.lockable(tracker.applications)
        for reference in references or ():
            locked = await self._own(principal, lock(reference), protocol)
            if locked != b"\x90\x00" or not is_locked(await self._own(principal, ask(reference), protocol)):
                references = None
                break
        if references is None or not self._unlocked.nothing:
            log.info("%s: reset, because %s had unlocked it", self._reader.name, principal)
            await self._reader.start_over()

    # limits, PIN tries

    def _within_limit(self, principal: Principal, action: Action, decision: Decision) -> bool:
        rule = decision.rule
        if rule is None or rule.limit is None or not self._does(action):
            return True
        now = asyncio.get_running_loop().time()
        return self._host.uses.take((rule.number, principal), rule.limit, now)

    async def _refusal(self, caller: Caller, action: Action, taken: Try, protocol: Protocol) -> bytes | None:
        """The answer to a command that may not use up a try; None when it may."""
        if self._host.wrong_pins.waits(caller.principal):
            why = f"too many wrong PINs; `cardferry guests forgive {caller.principal}`"
            return self._refused(caller, action, why, BLOCKED)
        keep = self._host.rulebook.configuration.keep_tries
        if not keep:
            return None
        left = None
        if taken.question and not self._tracker.chain_open:
            left = taken.left(await self._own(caller.principal, taken.question, protocol))
        if left is None:
            left = max(SUPPOSED, keep + 1) - self._wrong.get(taken.reference, 0)
        if 0 < left <= keep:
            return self._refused(caller, action, f"{left} PIN tries are left, and are kept (keep-tries)", LAST_TRY)
        return None

    def _count(self, caller: Caller, taken: Try, response: bytes) -> None:
        if was_wrong(response):
            self._wrong[taken.reference] = self._wrong.get(taken.reference, 0) + 1
            self._count_wrong(caller.principal)
        elif response == _SUCCESS:
            self._wrong.pop(taken.reference, None)
            self._host.wrong_pins.right(caller.principal)

    def _count_wrong(self, principal: Principal) -> bool:
        """It has given a wrong PIN; whether it must wait from now on."""
        self._host.counts.of(self._reader.name).of(str(principal)).pin_failures += 1
        waits = self._host.wrong_pins.count(principal)
        if waits:
            log.warning("%s has given wrong PINs and must wait: cardferry guests forgive %s lets it try again",
                        principal, principal)  # fmt: skip
        return waits

    # what is written down

    def _said(self, event: str, meaning: Meaning, what: str, rule: str) -> Entry:
        """What happens to the card that is in now."""
        return Entry(
            time.time(),
            event,
            reader=self._reader.name,
            card=self._reader.atr.hex(),
            operation=operation_text(meaning),
            what=what,
            rule=rule,
        )

    def _new_act(self, caller: Caller, action: Action, decision: Decision) -> Act:
        return Act(caller, action, decision, self._reader, self._cards.identity(self._reader.name))

    def _subject(self, action: Action) -> str:
        """Whom the certificate of the key is about."""
        return self._cards.identity(self._reader.name).subjects.get(action.object or "", "")

    def _refused(self, caller: Caller, action: Action, why: str, answer: bytes) -> bytes:
        entry = self._new_act(caller, action, Decision(Verdict.DENY, None, why)).entry()
        entry.event, entry.rule, entry.outcome = "denied", why, f"answered {answer.hex(' ').upper()}"
        self._host.note_denial(caller, entry)
        return answer

    # commands to the reader

    async def control(self, caller: Caller, code: int, data: bytes, max_response: int) -> bytes:
        """Send a control code, if the rules allow what it does."""
        self._host.rulebook.look()
        pin_rule = self._host.rulebook.pin_rule(caller.principal, self._names)
        pinpad = pin_rule is not None and pin_rule.pin is not Pin.TICKET
        if pinpad and pin_rule is not None and code in _PINPAD_CODES:
            return await self._pinpad(caller, pin_rule, code, data, max_response)
        if self._features.describes(code):
            self._check(caller, Meaning(Operation.READ))
            answer = await self._reader.send_control(code, data, max_response)
            self._features.learn(code, answer)
            return answer
        protocol = self._reader.protocol
        await self._enter(caller.principal, protocol)
        command = self._features.command(code, data)
        if command is None:
            return await self._controlled(caller, _CONTROL, code, data, max_response)
        action = self._tracker.judge(command)
        if action.operation not in (Operation.VERIFY, Operation.MANAGE_PIN):
            return await self._controlled(caller, UNCERTAIN, code, data, max_response)
        taken = try_of(action, command) if self._host.spares_tries_of(caller.principal) else None
        if taken is not None and (refusal := await self._refusal(caller, action, taken, protocol)):
            return refusal
        answer = await self._controlled(caller, action.meaning, code, data, max_response)
        if taken is not None:
            self._count(caller, taken, answer)
        return answer

    async def _pinpad(self, caller: Caller, rule: Rule, code: int, data: bytes, max_response: int) -> bytes:
        """A control code of the pinpad that the reader seems to have for this principal."""
        typed = rule.pin is Pin.PINPAD  # a PIN that is kept here must not be another one at the card
        if code == PROPERTIES_CODE:
            return PROPERTIES
        if code == VERIFY_CODE or (code == MODIFY_CODE and typed):
            return await self._pin_entry(caller, rule, data, changes=code == MODIFY_CODE)
        if code == MODIFY_CODE:
            raise PcscError(ReturnCode.E_UNSUPPORTED_FEATURE, "the PIN is kept at the host")
        try:
            features = await self._reader.send_control(code, data, max_response)
        except PcscError:
            features = b""  # it has none itself
        self._features.learn(code, features)
        return with_pinpad(features, changes=typed)[:max_response]

    async def _pin_entry(self, caller: Caller, rule: Rule, data: bytes, *, changes: bool) -> bytes:
        """The program asks for PINs to be typed; the answer is the card's, or one of a pinpad."""
        protocol = self._reader.protocol
        await self._enter(caller.principal, protocol)
        try:
            entry = PinEntry.parse(data, changes=changes)
            sample = bytearray(b"0" * max(entry.least, 1))
            apdu = entry.command(sample, sample)
        except ValueError:
            return INVALID
        action = self._tracker.judge(apdu)
        wanted = Operation.MANAGE_PIN if changes else Operation.VERIFY
        if action.operation is not wanted or not action.complete or self._tracker.chain_open:
            return self._refused(caller, action, "what a PIN was asked for is something else", DENIED)
        decision = Decision(Verdict.ALLOW, rule, f"{rule} gives the PIN")
        if changes:
            decision = self._decide(caller, action.meaning)
        if not decision.allowed or not (changes or carries_user_pin(action)):
            why = "its PIN is not the administrator's" if decision.allowed else decision.why
            return self._refused(caller, action, why, DENIED)
        taken = try_of(action, apdu) if self._host.spares_tries_of(caller.principal) else None
        if taken is not None and (refusal := await self._refusal(caller, action, taken, protocol)):
            return refusal
        if not await self._consents(caller, action, decision):
            return self._refused(caller, action, "the person at the host has not allowed it", CANCELLED)
        command, why = await typed_command(partial(self._host.pin, caller, self._called, rule), entry)
        if why:
            return self._refused(caller, action, why, command)
        action = self._tracker.judge(command)
        if action.operation is not wanted:
            return INVALID
        return await self._act(caller, action, decision, command, protocol)

    def _check(self, caller: Caller, meaning: Meaning) -> Decision:
        decision = self._decide(caller, meaning)
        if decision.verdict is not Verdict.ALLOW:
            entry = self._said("denied", meaning, "a command to the reader", decision.why)
            self._host.note_denial(caller, entry)
            raise PcscError(ReturnCode.W_SECURITY_VIOLATION, decision.why)
        return decision

    async def _controlled(self, caller: Caller, meaning: Meaning, code: int, data: bytes, max_response: int) -> bytes:
        """Send a control code that may do something to the card, if the rules allow that."""
        decision = self._check(caller, meaning)
        entry = self._said("asked", meaning, f"sent command {code:#x} to the reader", str(decision.rule or ""))
        if self._host.must_audit and not self._host.note_now(caller, entry):
            raise PcscError(ReturnCode.W_SECURITY_VIOLATION, "it cannot be written down")
        try:
            return await self._reader.send_control(code, data, max_response)
        finally:
            self._tracker.interrupted()
            self._unlocked.doubt()
            if self._host.audits:
                entry.at, entry.event = time.time(), "done"
                self._host.note(caller, entry)

    async def set_attribute(self, caller: Caller, attribute: int) -> None:
        """Whether the rules allow it."""
        del attribute
        self._check(caller, _CONTROL)


def _limit(decision: Decision) -> str:
    rule = decision.rule
    return "" if rule is None else f"the limit {rule.text_limit} is reached"
