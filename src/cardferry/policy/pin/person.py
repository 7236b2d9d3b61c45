"""The person at the host, who is asked for a PIN, or whether something may be done: one question at a time.

There are several ways to ask (`pinentry`, `terminal`, `notification`, `ask_password`). They are tried in an order that
the configuration gives, and the first one that could ask decides; one that could not, for want of a desktop or a
terminal, leaves the question to the next.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from typing import Protocol as Interface

from cardferry.wiping import wipe_soon

log = logging.getLogger(__name__)

#: s that a person has to answer.
PATIENCE: Final = 30.0


@dataclass(frozen=True, slots=True)
class Question:
    """What the person is asked.

    Attributes:
        text: who wants what with which card.
        prompt: what shall be typed, such as ``PIN``; empty for a question that is answered with yes or no.
        lasting: "yes, for the next 10 minutes" is one of the answers.
        patience: s for an answer.
    """

    text: str
    prompt: str = ""
    lasting: bool = False
    patience: float = PATIENCE


@dataclass(frozen=True, slots=True)
class Said:
    """What the person has said.

    Attributes:
        yes: whether it may be done, or there is a PIN.
        pin: the PIN, which whoever has used it wipes.
        cancelled: the person has said no; otherwise no answer came.
        lasting: the same may be done for the next 10 minutes.
    """

    yes: bool
    pin: bytearray | None = None
    cancelled: bool = False
    lasting: bool = False

    def __repr__(self) -> str:
        return f"Said(yes={self.yes}, cancelled={self.cancelled}, lasting={self.lasting})"


def wipe(pin: bytearray) -> None:
    """Overwrite a PIN, and soon what Python has copied of it."""
    pin[:] = bytes(len(pin))
    wipe_soon()


NO_ANSWER: Final = Said(yes=False)
CANCELLED: Final = Said(yes=False, cancelled=True)


class Way(Interface):
    """A way to ask.

    Attributes:
        name: as people know it.
    """

    name: str

    def fits(self, question: Question) -> bool:
        """Whether such a question can be asked in this way now, as far as it is known without trying."""
        ...

    async def ask(self, question: Question) -> Said | None:
        """Ask; None when nobody was asked."""
        ...


class Person:
    """See the module.

    Args:
        ways: says which there are now, the first choice first.
    """

    def __init__(self, ways: Callable[[Sequence[Way]], Sequence[Way]]) -> None:
        self._ways = ways
        self._terminals: list[Way] = []
        self._lock = asyncio.Lock()

    @contextmanager
    def at(self, terminal: Way) -> Iterator[None]:
        """For the block the person can be asked on a terminal; of several, the one that came last is used."""
        self._terminals.append(terminal)
        try:
            yield
        finally:
            self._terminals.remove(terminal)

    def ways(self, question: Question) -> list[Way]:
        """In which ways it would be asked now."""
        return [way for way in self._ways(self._terminals[::-1]) if way.fits(question)]

    async def ask(self, question: Question) -> Said:
        """Ask; the others wait until this question is answered."""
        async with self._lock:
            for way in self.ways(question):
                if (said := await way.ask(question)) is not None:
                    return said
        log.error("nobody could be asked: %s", question.text)
        return NO_ANSWER
