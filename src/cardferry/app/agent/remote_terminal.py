"""The terminal of a `share` that has readers lent: the agent has none of its own, and asks the person there."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

from cardferry.app.hosts import lend_messages as m
from cardferry.pcsc.reply import within
from cardferry.policy.pin.person import NO_ANSWER, Question, Said
from cardferry.wiping import wipe_soon

#: s more until a terminal is not waited for that should have noticed this itself.
_GRACE = 5


class RemoteTerminal:
    """See `cardferry.policy.pin.person.Way`.

    Args:
        send: says something to the other process.
    """

    def __init__(self, send: Callable[[m.AskPerson], None]) -> None:
        self.name = "a terminal"
        self._send = send
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Said | None]] = {}

    def fits(self, question: Question) -> bool:
        """It can ask everything."""
        return True

    async def ask(self, question: Question) -> Said | None:
        """Ask; None when the other process has gone, or its terminal is somebody else's now."""
        loop = asyncio.get_running_loop()
        number = next(self._numbers)
        self._asked[number] = loop.create_future()
        self._send(m.AskPerson(number, question.text, question.prompt, question.lasting, question.patience))
        try:
            return await within(self._answer(number), loop.time() + question.patience + _GRACE)
        except TimeoutError:
            return NO_ANSWER
        finally:
            del self._asked[number]

    async def _answer(self, number: int) -> Said | None:
        return await self._asked[number]

    def said(self, message: m.PersonSaid) -> None:
        """The other process has asked."""
        pin = None if message.pin is None else bytearray(message.pin.encode())
        wipe_soon()
        said = Said(message.yes, pin, message.cancelled, message.lasting) if message.asked else None
        if (asked := self._asked.get(message.number)) is not None and not asked.done():
            asked.set_result(said)

    def gone(self) -> None:
        """The other process has gone."""
        for asked in self._asked.values():
            if not asked.done():
                asked.set_result(None)
