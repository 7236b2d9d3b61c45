"""Asks on the terminal of a command that runs in the foreground: `cardferry host`, or `cardferry share`."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from cardferry.pcsc.reply import within
from cardferry.pcsc.text import shown
from cardferry.policy.pin.person import CANCELLED, NO_ANSWER, Question, Said
from cardferry.system.terminal import in_foreground, typed

log = logging.getLogger(__name__)


class Terminal:
    """The terminal of this process; see `cardferry.policy.pin.person.Way`."""

    name = "this terminal"

    def fits(self, question: Question) -> bool:
        """Whether this process has its terminal."""
        return in_foreground()

    async def ask(self, question: Question) -> Said | None:
        """Ask; None when the terminal is somebody else's now."""
        until = asyncio.get_running_loop().time() + question.patience
        try:
            answer = await typed(_wording(question), bool(question.prompt), partial(_wait, until))
        except TimeoutError:
            return NO_ANSWER
        except OSError as error:
            log.warning("nobody can be asked on the terminal: %s", error)
            return None
        if question.prompt:
            return Said(yes=True, pin=answer) if answer else CANCELLED
        word = answer.decode(errors="replace").strip().casefold()
        if question.lasting and word in ("t", "ten", "10"):
            return Said(yes=True, lasting=True)
        return Said(yes=True) if word in ("y", "yes") else CANCELLED


def _wording(question: Question) -> str:
    if question.prompt:
        answers = f"{question.prompt} (Enter alone: no)"
    else:
        answers = "yes, no, or ten for the next 10 minutes" if question.lasting else "yes or no"
    return f"{shown(question.text, 600)}\n{answers}: "


async def _wait(until: float, line: asyncio.Future[bytes]) -> bytes:
    async def whole() -> bytes:
        return await line

    return await within(whole(), until)
