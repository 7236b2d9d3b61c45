"""The guest's copy of what cards have said before, and where each card stands.

The host has given every state of a card a number, and says of each answer in which state it was given, and which one
comes after it (`cardferry.link.memory`). So nothing about cards is understood here: an answer is looked up by the
number of the present state and the command's bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from typing import Protocol as Interface

from cardferry.link import messages as m
from cardferry.link.memory import OVERHEAD, fetching_after, key_of
from cardferry.link.memory_state import selects_by_name
from cardferry.wire.errors import WireError

#: Commands of a guest that it may have believed, and that the host has not carried out yet.
MOST_BELIEVED: Final = 128
#: Numbers of two states, see `CardCopy.either`.
_BOTH: Final = 4
#: Bytes that are kept of all cards together, whatever a host says; it says up to 256 KiB for each.
_MOST: Final = 32 << 20


class Counted(Interface):
    """Where it is counted what became of what was believed."""

    confirmed: int
    refuted: int


class CardCopy:
    """What is known of the card in one reader. The state is the card's: all handles of the guest share it.

    Attributes:
        state, level: numbers as in `cardferry.link.memory.CardMemory`; 0 when it is not known where the card stands.
        either: likewise: both numbers of the two states of which it is one, or nothing.
        handles: of the guest on this reader.
        size: bytes that are held.
    """

    __slots__ = ("_answers", "_fetching", "_found", "either", "handles", "level", "size", "state")

    def __init__(self) -> None:
        self._answers: dict[tuple[int, bytes], m.Recollected] = {}
        self._found: dict[int, m.Recollected] = {}
        self._fetching = b""
        self.state = self.level = 0
        self.either: Sequence[int] = ()
        self.handles = 0
        self.size = 0

    # the state

    def stands(self, answer: m.Answer) -> None:
        """The host says where the card stands."""
        self.state, self.level = answer.state, answer.level
        self.either = answer.either if len(answer.either) == _BOTH else ()
        self._fetching = b""

    def lose(self) -> None:
        """It is not known any more where the card stands."""
        self.state = self.level = 0
        self.either = ()
        self._fetching = b""

    def answered(self, apdu: bytes, response: bytes) -> None:
        """A command was answered by the card, and the state is as it was told, or as before."""
        self._fetching = fetching_after(key_of(self._fetching, apdu), response)

    # answers

    def find(self, apdu: bytes) -> m.Recollected | None:
        """What the card says to this command, as far as it is known."""
        if not self.level:
            return None
        key, by_name = key_of(self._fetching, apdu), selects_by_name(apdu)
        known = self._answers.get((self.level if by_name else self.state, key))
        if known is None and self.either:
            known, other = self._in_both(key, by_name=by_name)
            if other is None or known is None or other.answer != known.answer:
                return None
        return known

    def believe(self, apdu: bytes, what: m.Recollected) -> None:
        """The command was answered so."""
        by_name = selects_by_name(apdu)
        known = self._answers.get((self.level if by_name else self.state, what.key))
        self.state = 0 if known is None else known.next or self.state
        if self.either:
            first, second = self._in_both(what.key, by_name=by_name)
            if first is None or second is None or not first.answer == second.answer == what.answer:
                self.either = ()
            else:
                state, level, other, other_level = self.either
                state, other = first.next or state, second.next or other
                if state == other:
                    self.state, self.level, self.either = state, level, ()
                else:
                    self.either = state, level, other, other_level
        self._fetching = fetching_after(what.key, what.answer)

    def _in_both(self, key: bytes, *, by_name: bool) -> tuple[m.Recollected | None, m.Recollected | None]:
        state, level, other, other_level = self.either
        if by_name:
            state, other = level, other_level
        return self._answers.get((state, key)), self._answers.get((other, key))

    def learn(self, what: m.Recollected) -> None:
        """The host has learnt this."""
        before = self._answers.get((what.where, what.key))
        if before is not None:
            self._forget(before.number)
        self._answers[what.where, what.key] = self._found[what.number] = what
        self.size += _size(what)

    def forget(self, numbers: list[int] | None) -> None:
        """This is not to be believed any more; None: nothing is."""
        if numbers is None:
            self._answers.clear()
            self._found.clear()
            self.size = 0
        else:
            for number in numbers:
                self._forget(number)

    def _forget(self, number: int) -> None:
        what = self._found.pop(number, None)
        if what is not None:
            del self._answers[what.where, what.key]
            self.size -= _size(what)


class GuestMemory:
    """What the host has told in one session.

    Attributes:
        believed: commands that were answered from here.
        confirmed: how many of them the host is done with.
    """

    def __init__(self) -> None:
        self.believed = self.confirmed = 0
        self._refuted = 0
        self._cards: dict[str, CardCopy] = {}
        self._marks: dict[str, int] = {}

    def card(self, reader: str) -> CardCopy:
        """What is known of the card in that reader."""
        copy = self._cards.get(reader)
        if copy is None:
            copy = self._cards[reader] = CardCopy()
        return copy

    @property
    def size(self) -> int:
        """Bytes that are held."""
        return sum(copy.size for copy in self._cards.values())

    @property
    def may_believe(self) -> bool:
        """Whether the host is not too far behind."""
        return self.believed - self.confirmed < MOST_BELIEVED

    def learnt(self, reader: str, what: list[m.Recollected]) -> None:
        """The host has learnt something."""
        copy = self.card(reader)
        if self.size > _MOST:
            copy.forget(None)
        for each in what:
            copy.learn(each)

    def forgotten(self, reader: str, numbers: list[int] | None) -> None:
        """Something is not to be believed any more."""
        self.card(reader).forget(numbers)

    def news(self, reader: str, marks: int | None, *, shared: bool) -> None:
        """There is news of a reader: how often its handles were marked, and whether others may be using the card."""
        if shared or self._marks.get(reader, marks) != marks:
            self.card(reader).lose()
        if marks is not None:
            self._marks[reader] = marks

    def done(self, message: m.Confirmed, counters: Counted) -> None:
        """The host is done with so many of the commands that were believed."""
        if not self.confirmed <= message.believed <= self.believed:
            raise WireError("the host confirms what was not believed")
        refuted = message.refuted - self._refuted
        counters.refuted += refuted
        counters.confirmed += message.believed - self.confirmed - refuted
        self.confirmed, self._refuted = message.believed, message.refuted

    def only(self, readers: set[str]) -> None:
        """These are all readers that there are."""
        if self._cards.keys() - readers:
            self._cards = {name: copy for name, copy in self._cards.items() if name in readers}
            self._marks = {name: marks for name, marks in self._marks.items() if name in readers}


def _size(what: m.Recollected) -> int:
    return OVERHEAD + len(what.key) + len(what.answer)
