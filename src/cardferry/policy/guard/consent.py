"""Whether the person at the host allows something: each question once, and no more often than its answer says.

What is the same for two programs of a principal is asked once: who comes while the question is open gets its answer.
A yes can be for the next 10 minutes. A no holds for a moment, for the program that tries again at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from cardferry.pcsc.caller import Principal
from cardferry.policy.operations import Meaning
from cardferry.policy.pin.person import Question, Said

#: s for which a yes holds when the person says so, and a no.
LASTING: Final = 600.0
_NO_AGAIN: Final = 2.0


class Matter(NamedTuple):
    """What is asked about: two questions about the same are one."""

    who: Principal
    card: str
    meaning: Meaning


class Consents:
    """What the person has said.

    Args:
        ask: asks a question.
    """

    def __init__(self, ask: Callable[[Question], Awaitable[Said]]) -> None:
        self._ask = ask
        #: What holds, and until when, on the event loop's clock.
        self._said: dict[Matter, tuple[Said, float]] = {}
        self._open: dict[Matter, asyncio.Future[Said]] = {}

    async def get(self, matter: Matter, question: Question) -> Said:
        """What the person says to that, asked if need be."""
        loop = asyncio.get_running_loop()
        while (same := self._open.get(matter)) is not None:
            await asyncio.wait((same,))
            if not same.cancelled():
                return same.result()
        now = loop.time()
        self._said = {each: known for each, known in self._said.items() if now < known[1]}
        known, _ = self._said.get(matter, (None, 0.0))
        if known is not None and (question.lasting or not known.yes):
            return known
        answer = self._open[matter] = loop.create_future()
        try:
            said = await self._ask(question)
            answer.set_result(said)
        finally:
            del self._open[matter]
            answer.cancel()  # who waits for it asks by itself, if it is not there
        if said.lasting or not said.yes:
            self._said[matter] = said, loop.time() + (LASTING if said.yes else _NO_AGAIN)
        return said
