"""What a card has answered to reading commands, and in which state. Pure; ``docs/memory.md`` has the rules in words.

`CardMemory` is told everything that passes between this computer and one card, in order (`CardWatcher`), and tells a
`Listener` what it has learnt and what is not to be believed any more.

States have numbers that are never used twice. So an answer is found by a number and the command's bytes, by whoever
knows the number of the present state: that is all that a guest has to know. Zero is no state.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final
from typing import Protocol as Interface

from cardferry.link.digest import digest_of
from cardferry.link.memory_state import (
    REFUSING,
    RESET,
    UNSURE,
    Effect,
    State,
    after_proof,
    after_reading,
    after_setting,
    effect_of,
    kind_of,
    only_of,
    says_what_is_selected,
    selects_by_name,
)
from cardferry.pcsc.apdu import CommandApdu, ResponseApdu
from cardferry.pcsc.applications import ANY, Applications, selected_after
from cardferry.pcsc.caller import Principal

#: Bytes of answers and commands that are remembered of one card; what each costs besides.
MOST: Final = 256 * 1024
OVERHEAD: Final = 128
#: s after which a card that nobody uses has lost its power: pcscd takes it after 5 (``eventhandler.c``).
_UNPOWERED: Final = 10.0
#: Commands whose answers change by themselves; a card that has more of them is not worth remembering.
_MOST_FICKLE: Final = 256
#: States of one card that have a number.
_MOST_STATES: Final = 4096
#: Answers that are kept while it is not decided in which of two states the card is.
_MOST_UNDECIDED: Final = 256
_CHAINED: Final = 0x10
_MORE_DATA: Final = 0x61
_SUCCESS: Final = b"\x90\x00"
_numbers = itertools.count(1)


def key_of(fetching: bytes, apdu: bytes) -> bytes:
    """What an answer is kept under, beside the state.

    Args:
        fetching: the key of the command whose answer is being fetched, see `fetching_after`.
        apdu: the command.
    """
    if fetching and apdu[1:2] == b"\xc0":
        return digest_of(fetching) + apdu
    return apdu


def fetching_after(key: bytes, response: bytes) -> bytes:
    """The key, when the card has more of the answer (``61xx``); empty otherwise."""
    return key if len(response) >= 2 and response[-2] == _MORE_DATA else b""


@dataclass(slots=True, eq=False)
class Recollection:
    """An answer.

    Attributes:
        number: its own.
        where: the number of the state in which it was given.
        key: see `key_of`.
        command: the command.
        applications: of which one was selected.
        answer: what the card said.
        after: the state after it, None when it has stayed the same.
        next: that state's number, 0 when it has stayed the same.
        bound: the principal whose guests may know it; None: all.
        experience: of the same command with other PINs verified.
        tells: whether it says what is selected.
        doubts: kinds of operations since, after which it may be another one.
        changed: kinds of operations after which it was another one.
        selected: what might be selected before it the last time, and after it.
    """

    number: int
    where: int
    key: bytes
    command: bytes
    applications: Applications
    answer: bytes
    after: State | None
    next: int
    bound: Principal | None
    experience: _Experience
    tells: bool
    doubts: set[bytes] = field(default_factory=set)
    changed: set[bytes] = field(default_factory=set)
    selected: tuple[Applications, Applications] | None = None

    @property
    def size(self) -> int:
        """Bytes that it costs."""
        return OVERHEAD + len(self.key) + len(self.answer)


@dataclass(slots=True, eq=False)
class _Experience:
    """What operations have done to the answers of one command in one place, whatever PINs were verified.

    Attributes:
        place: the state without PINs, and the command's key.
        answer: the last one.
        since: kinds of operations since then.
        survived: kinds of operations before and after which it was the same.
        recollections: the answers, one for each security status and principal.
    """

    place: tuple[State, bytes]
    answer: bytes
    since: set[bytes] = field(default_factory=set)
    survived: set[bytes] = field(default_factory=set)
    recollections: list[Recollection] = field(default_factory=list)

    def seen(self, answer: bytes) -> None:
        """The card has answered now."""
        if answer == self.answer:
            self.survived |= self.since
        self.answer = answer
        self.since.clear()


@dataclass(frozen=True, slots=True)
class _Said:
    """A reading command and its answer, and the two states in which the card may have been."""

    principal: Principal
    apdu: bytes
    applications: Applications
    key: bytes
    response: bytes
    before: tuple[State, State]
    after: tuple[State, State]


class Listener(Interface):
    """Who copies a memory."""

    def learnt(self, reader: str, what: Recollection) -> None:
        """This can be believed."""
        ...

    def forgotten(self, reader: str, numbers: list[int] | None) -> None:
        """These cannot be believed any more; None: nothing can."""
        ...


class CardMemory:
    """What is remembered of the card in one reader; see `cardferry.pcsc.card_watcher.CardWatcher`.

    Args:
        reader: the reader's name.
        listener: who copies it.
        most: bytes.

    Attributes:
        state: the number of the card's present state; 0 when it is not known.
        level: the number of its security status alone, likewise.
        size: bytes that are remembered.
    """

    __slots__ = (
        "_applications",
        "_chained",
        "_either",
        "_experience",
        "_fetching",
        "_fickle",
        "_found",
        "_full",
        "_known",
        "_listener",
        "_most",
        "_numbered",
        "_others",
        "_owner",
        "_reader",
        "_states",
        "_undecided",
        "level",
        "size",
        "state",
    )

    def __init__(self, reader: str, listener: Listener, most: int = MOST) -> None:
        self._reader = reader
        self._listener = listener
        self._most = most
        self._known: OrderedDict[tuple[Principal | None, int, bytes], Recollection] = OrderedDict()
        self._experience: dict[tuple[State, bytes], _Experience] = {}
        self._states: dict[State, int] = {}
        self._fickle: set[bytes] = set()
        #: PINs of which all tries are left, for certain: they were verified, and no try has failed since.
        self._full: set[int] = set()
        self._others = False
        self.size = 0
        self._found = State()
        #: What may be selected, see `cardferry.pcsc.applications`.
        self._applications = ANY
        #: Who has verified the PINs; None when none is, or nobody knows who.
        self._owner: Principal | None = None
        self.state = self.level = 0
        self._chained = False
        self._fetching = b""
        #: The card was let go: as it was left, or as after a reset. What follows decides it.
        self._either: tuple[State, State] | None = None
        #: What it has said since, to be learnt when it is decided.
        self._undecided: list[_Said] = []
        self._place(State())

    @property
    def either(self) -> list[int]:
        """When it is known of two states that it is one of them: their numbers, as in ``state`` and ``level``."""
        return [self._number(each) for state in self._either or () for each in (state, state.level)]

    def unlocked_by_another(self, principal: Principal) -> bool:
        """Whether it is known that somebody else has verified PINs, which may still be so."""
        pins = any(state.pins for state in self._either or (self._found,))
        return pins and self._owner not in (None, principal)

    def recollections(self) -> Iterator[Recollection]:
        """All that can be believed."""
        return (each for each in self._known.values() if not each.doubts)

    # CardWatcher

    def answered(self, principal: Principal, apdu: bytes, response: bytes | None) -> None:
        """The card has answered a command; None: it was sent, and nobody knows what the card said."""
        if self._others:
            return
        if response is None or len(response) < 2:
            self._lost(principal, apdu)
            return
        key = key_of(self._fetching, apdu)
        if self._either is not None:
            self._narrow(self._either, principal, apdu, key, response)
        if self._either is None:
            self._answered(principal, apdu, key, response)
            return
        before, effect = self._either, self._effect(apdu)
        self._answered(principal, apdu, key, response)
        after = self._follow_both(effect, apdu, response)
        if effect is not Effect.READS:
            self._undecided.clear()
        elif after is not None and len(self._undecided) < _MOST_UNDECIDED:
            self._undecided.append(_Said(principal, apdu, self._applications, key, response, before, after))

    def _answered(self, principal: Principal, apdu: bytes, key: bytes, response: bytes) -> None:
        where = self.level if selects_by_name(apdu) else self.state
        known = self._known.get((principal if self._found.pins else None, where, key)) if where else None
        if known is not None and known.answer == response and not known.doubts:
            self._fetching = fetching_after(key, response)
            if known.tells:
                self._select_again(known)
            if known.after is not None:
                self._place(known.after, known.next)
            return
        self._follow(principal, apdu, key, response)

    def reset(self) -> None:
        """The card was reset, by us."""
        self._owner, self._chained, self._fetching = None, False, b""
        self._applications = ANY
        self._either = None
        self._place(State(name=RESET))

    def opened(self, away: float | None) -> None:
        """The reader was opened again, after it was let go for so many s; None: for the first time."""
        if away is not None and away > _UNPOWERED:
            self.reset()
            return
        left, known = self._found, bool(self.state)
        self._lose(unsure=bool(left.pins))
        self._undecided.clear()
        if away is not None and known and not any(pin.startswith(UNSURE) for pin in left.pins):
            self._either = left, State(name=RESET)

    def others(self, present: bool) -> None:
        """Others have had the card; whether they are there now."""
        self._forget_all()
        self._others = present
        self._unknown(None)

    def touched(self) -> None:
        """Something was done with the reader that may have done anything to the card."""
        self._forget_all()
        self._unknown(None)

    def gone(self) -> None:
        """There is another card, or none."""
        self._forget_all()
        self._fickle.clear()
        self._states.clear()
        self._full.clear()
        self._owner, self._found = None, State()
        self.state = self.level = 0
        self._lose(unsure=False)

    # following the card

    @property
    def _forgotten(self) -> bool:
        """Whether it is known of nothing what it is: neither what is selected nor whether a PIN is verified."""
        return self._found.name is None and any(pin.startswith(UNSURE) for pin in self._found.pins) and not self._full

    def _place(self, state: State, number: int = 0) -> None:
        before, self._found = self._found, state
        if self._chained or self._others or len(self._fickle) > _MOST_FICKLE:
            self.state = self.level = 0
            return
        # Looking a number up takes longer than everything else that is done for most commands.
        if state is not before or not self.state:
            self.state = number or self._number(state)
        if not self.level or state.pins != before.pins:
            self.level = self._number(state.level)

    def _number(self, state: State) -> int:
        number = self._states.get(state)
        if number is None:
            if len(self._states) >= _MOST_STATES:
                self._states.clear()
                self._forget_all()
            number = self._states[state] = next(_numbers)
        return number

    def _lose(self, *, unsure: bool) -> None:
        """What is selected is not known any more, nor (``unsure``) which PINs are verified."""
        self._chained, self._fetching = False, b""
        self._applications = ANY
        self._either = None
        # never twice the same: nobody knows whether it is as it was the last time
        self._place(State(frozenset({f"{UNSURE}{next(_numbers)}"}) if unsure else self._found.pins))

    def _unknown(self, owner: Principal | None) -> None:
        """Nothing is known of the state; the PINs may be verified, by ``owner``."""
        self._owns(owner)
        self._full.clear()
        self._lose(unsure=True)

    def _owns(self, principal: Principal | None) -> None:
        """From now on PINs are, or may be, verified by that principal; None: it is not known by whom."""
        self._owner = principal if not self._found.pins or self._owner == principal else None

    def _effect(self, apdu: bytes) -> Effect:
        application = only_of(self._applications)
        return effect_of(apdu, self._found, application, fetching=bool(self._fetching), chained=self._chained)

    def _select(self, apdu: bytes, response: bytes) -> None:
        command, answer = CommandApdu.parse(apdu), ResponseApdu.parse(response)
        self._applications = selected_after(self._applications, command, answer)

    def _select_again(self, known: Recollection) -> None:
        """Likewise, for an answer that was given before; mostly when the same may be selected as the last time."""
        before = self._applications
        if known.selected is None or known.selected[0] is not before:
            self._select(known.command, known.answer)
            if self._applications == before:
                self._applications = before
            known.selected = before, self._applications
        self._applications = known.selected[1]

    def _lost(self, principal: Principal, apdu: bytes) -> None:
        effect = self._effect(apdu)
        if effect in (Effect.READS, Effect.MOVES, Effect.PASSES):
            self._lose(unsure=False)
        else:
            self._forget_all()
            self._unknown(principal)

    def _follow(self, principal: Principal, apdu: bytes, key: bytes, response: bytes) -> None:
        state, success = self._found, response[-2:] == _SUCCESS
        effect = self._effect(apdu)
        self._fetching = b""
        self._chained = bool(apdu[0] & _CHAINED) and apdu[0] & 0x80 == 0 if apdu else False
        match effect:
            case Effect.READS:
                if says_what_is_selected(apdu):
                    self._select(apdu, response)
                after = after_reading(state, apdu, response, self._applications)
                self._learn(principal, apdu, key, response, after, applications=self._applications)
                self._fetching = fetching_after(key, response)
                self._place(after)
            case Effect.PROVES:
                self._proved(principal, apdu, success=success)
            case Effect.SETS_ENVIRONMENT:
                self._place(after_setting(state, apdu) if success else state)
            case Effect.USES_KEY:
                self._doubt(kind_of(apdu))
                self._place(state)
            case Effect.MOVES:
                self._lose(unsure=False)
            case Effect.PASSES:
                self._place(state)
            case Effect.WRITES:
                self._forget_all()
                self._place(state)
            case Effect.UNKNOWN:
                if not self._known and self._forgotten and self._owner == principal:
                    self._place(self._found)
                    return  # once more: nothing was known since
                chained = self._chained
                self._forget_all()
                self._unknown(principal)
                self._chained = chained
                self._place(self._found)

    def _narrow(
        self, either: tuple[State, State], principal: Principal, apdu: bytes, key: bytes, response: bytes
    ) -> None:
        """What the card has answered may tell in which of two states it was."""
        possible = []
        for which, state in enumerate(either):
            where = self._number(state.level if selects_by_name(apdu) else state)
            known = self._known.get((principal if state.pins else None, where, key))
            if known is None or known.doubts or known.answer == response:
                possible.append(which)
        if len(possible) == 1:
            said = self._undecided.copy()
            self._settle(either[possible[0]])
            for each in said:
                self._learn_now(each, possible[0])
            self._place(either[possible[0]])
        elif not possible:
            self._either = None
            self._forget_all()

    def _learn_now(self, said: _Said, which: int) -> None:
        """It is decided in which state the card was."""
        self._place(said.before[which])
        self._learn(
            said.principal, said.apdu, said.key, said.response, said.after[which], applications=said.applications
        )

    def _follow_both(self, effect: Effect, apdu: bytes, response: bytes) -> tuple[State, State] | None:
        """It is still not known in which of two states the card was: in which it may be now, unless that is known."""
        if self._either is None:
            return None
        success = response[-2:] == _SUCCESS
        match effect:
            case Effect.READS:
                first, second = (after_reading(each, apdu, response, self._applications) for each in self._either)
            case Effect.PROVES:
                first, second = (after_proof(each, apdu, success=success) for each in self._either)
            case Effect.SETS_ENVIRONMENT if success:
                first, second = (after_setting(each, apdu) for each in self._either)
            case _:
                first, second = self._either
        self._either = first, second
        if first == second:
            self._settle(first)
        return self._either

    def _settle(self, state: State) -> None:
        """It is known again in which state the card is."""
        self._either = None
        self._undecided.clear()
        if not state.pins:
            self._owner = None
        self._place(state)

    def _proved(self, principal: Principal, apdu: bytes, *, success: bool) -> None:
        pin = apdu[3]
        after = after_proof(self._found, apdu, success=success)
        if not success or pin not in self._full:
            self._doubt(kind_of(apdu))
        if success and apdu[2] == 0:
            self._full.add(pin)
        elif not success:
            self._full.discard(pin)
        if after.pins - self._found.pins:
            self._owns(principal)
        elif not after.pins:
            self._owner = None
        self._place(after)

    # remembering

    def _learn(
        self,
        principal: Principal,
        apdu: bytes,
        key: bytes,
        response: bytes,
        after: State,
        *,
        applications: Applications,
    ) -> None:
        by_name = selects_by_name(apdu)
        where = self.level if by_name else self.state
        secret = bool(self._found.pins)
        if key in self._fickle or not where or (self._found.name is None and not by_name):
            return
        if len(response) > self._most // 4:
            return
        if secret and self._owner is not None and self._owner != principal:
            return
        bound = principal if secret else None
        known = self._known.get((bound, where, key))
        changed: set[bytes] = set()
        if known is not None and known.answer != response:
            if not known.doubts:
                self._fickle.add(key)
                self._forget_all()
                return
            changed = known.changed | known.doubts
        place = (State() if by_name else replace(self._found, pins=frozenset()), key)
        experience = self._experience.get(place)
        if experience is None:
            experience = self._experience[place] = _Experience(place, response)
        experience.seen(response)
        if known is None or changed:
            # a SELECT by name leads to the same wherever it is given
            stays = response[-2] in REFUSING if by_name else after == self._found
            what = Recollection(
                next(_numbers),
                where,
                key,
                apdu,
                applications,
                response,
                None if stays else after,
                0 if stays else self._number(after),
                bound,
                experience,
                says_what_is_selected(apdu),
                changed=changed,
            )
            self._add(what, instead_of=known)
        else:
            known.doubts.clear()
            self._listener.learnt(self._reader, known)
        for each in experience.recollections:
            if each.doubts and not each.doubts - (experience.survived - each.changed):
                each.doubts.clear()
                self._listener.learnt(self._reader, each)

    def _add(self, what: Recollection, instead_of: Recollection | None) -> None:
        what.experience.recollections.append(what)
        if instead_of is not None:
            self._remove(instead_of)
        self._known[what.bound, what.where, what.key] = what
        self.size += what.size
        oldest = []
        while self.size > self._most:
            first = next(iter(self._known.values()))
            self._remove(first)
            oldest.append(first.number)
        if oldest:
            self._listener.forgotten(self._reader, oldest)
        self._listener.learnt(self._reader, what)

    def _remove(self, what: Recollection) -> None:
        del self._known[what.bound, what.where, what.key]
        self.size -= what.size
        experience = what.experience
        experience.recollections.remove(what)
        if not experience.recollections:
            self._experience.pop(experience.place, None)

    def _doubt(self, kind: bytes) -> None:
        """An operation was done after which some answers may be others."""
        doubtful = []
        for experience in self._experience.values():
            if kind not in experience.survived:
                experience.since.add(kind)
            for each in experience.recollections:
                if kind not in experience.survived - each.changed:
                    if not each.doubts:
                        doubtful.append(each.number)
                    each.doubts.add(kind)
        if doubtful:
            self._listener.forgotten(self._reader, doubtful)

    def _forget_all(self) -> None:
        if self._known:
            self._known.clear()
            self._experience.clear()
            self.size = 0
            self._listener.forgotten(self._reader, None)
