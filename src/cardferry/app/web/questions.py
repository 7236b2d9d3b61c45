"""Asks the person at the host on the page, with buttons; see `cardferry.policy.pin.person.Way`. Not for PINs.

Somebody must be there: a page that is open in front of them (a hidden one closes its stream), or has just been fetched.
Where nobody is any more, the question goes to the next way.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from cardferry.pcsc.text import shown
from cardferry.policy.pin.person import CANCELLED, NO_ANSWER, Question, Said

log = logging.getLogger(__name__)

#: s for which somebody who has fetched the page counts as there, and whose stream has ended: pages are loaded anew.
_FETCHED: Final = 20.0
_RELOADING: Final = 3.0
#: s between two looks whether somebody is still there, while there is a question.
_LOOK: Final = 1.0
_ANSWERS: Final = {"allow": Said(yes=True), "ten": Said(yes=True, lasting=True), "deny": CANCELLED}


@dataclass(frozen=True, slots=True)
class OpenQuestion:
    """A question that waits for its answer.

    Attributes:
        number: which one.
        text: what is asked, on one line.
        lasting: "for 10 minutes" is one of the answers.
        until: when the time is over, on the event loop's clock, in s.
    """

    number: int
    text: str
    lasting: bool
    until: float


class PageQuestions:
    """See the module.

    Attributes:
        open: the question that waits, None for none.
    """

    name = "the web page"

    def __init__(self) -> None:
        self.open: OpenQuestion | None = None
        self._answer: asyncio.Future[Said] | None = None
        self._numbers = itertools.count(1)
        self._watching = 0
        self._seen_until = 0.0

    # who is there

    def fetched(self) -> None:
        """Somebody who has signed in has fetched the page."""
        self._seen(_FETCHED)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Somebody looks at the page for the block."""
        self._watching += 1
        try:
            yield
        finally:
            self._watching -= 1
            if not self._watching:
                self._seen_until = 0.0
                self._seen(_RELOADING)

    def _seen(self, seconds: float) -> None:
        self._seen_until = max(self._seen_until, asyncio.get_running_loop().time() + seconds)

    @property
    def somebody(self) -> bool:
        """Whether somebody is there."""
        return self._watching > 0 or asyncio.get_running_loop().time() < self._seen_until

    # a way to ask

    def fits(self, question: Question) -> bool:
        """Whether it is no PIN that is wanted, and somebody is there."""
        return not question.prompt and self.somebody

    async def ask(self, question: Question) -> Said | None:
        """Ask; None when nobody is there any more."""
        loop = asyncio.get_running_loop()
        until = loop.time() + question.patience
        answer: asyncio.Future[Said] = loop.create_future()
        self._answer = answer
        self.open = OpenQuestion(next(self._numbers), shown(question.text, 600), question.lasting, until)
        try:
            while (left := until - loop.time()) > 0:
                if not self.somebody:
                    log.info("nobody looks at the page any more: the question is asked in another way")
                    return None
                done, _ = await asyncio.wait((answer,), timeout=min(left, _LOOK))
                for one in done:
                    return one.result()
            return NO_ANSWER
        finally:
            self.open = self._answer = None

    def answer(self, number: int, word: str) -> bool:
        """Answer the question of that number with ``allow``, ``ten`` or ``deny``; whether it was still open."""
        said, question = _ANSWERS.get(word), self.open
        if said is None or question is None or question.number != number or self._answer is None:
            return False
        if self._answer.done() or (said.lasting and not question.lasting):
            return False
        self._answer.set_result(said)
        return True
