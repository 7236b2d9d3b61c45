"""Asks for a PIN with systemd-ask-password(1): whoever answers systemd's questions on this computer is asked.

That may be a person at its console, or one who runs systemd-tty-ask-password-agent(1). It cannot ask for yes or no.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path
from typing import Final

from cardferry.pcsc.reply import within
from cardferry.pcsc.text import shown
from cardferry.policy.pin.person import CANCELLED, NO_ANSWER, Question, Said
from cardferry.policy.pin.program import Program, started

log = logging.getLogger(__name__)

_PROGRAM: Final = "systemd-ask-password"
#: Where systemd is.
_SYSTEMD: Final = Path("/run/systemd")
#: s more until the program is killed that should have noticed this itself.
_GRACE: Final = 5


class AskPassword:
    """A way to ask for PINs; see `cardferry.policy.pin.person.Way`."""

    name = _PROGRAM

    def fits(self, question: Question) -> bool:
        """Whether it is a PIN that is wanted, and systemd is there."""
        return bool(question.prompt) and _SYSTEMD.is_dir() and shutil.which(_PROGRAM) is not None

    async def ask(self, question: Question) -> Said | None:
        """Ask; None when nobody was asked."""
        text = f"{shown(question.text, 600)} {question.prompt}:"
        words = (_PROGRAM, "--no-tty", f"--timeout={question.patience:.0f}", "--id=cardferry:pin", "--", text)
        try:
            async with started(words, errors=True) as program:
                return await within(_answer(program), asyncio.get_running_loop().time() + question.patience + _GRACE)
        except TimeoutError:
            return NO_ANSWER
        except OSError as error:
            log.warning("%s cannot ask: %s", _PROGRAM, error)
            return None


async def _answer(program: Program) -> Said | None:
    line = await program.line()
    del line[len(line.rstrip(b"\n")) :]
    if await program.process.wait() == 0:
        return Said(yes=True, pin=line) if line else CANCELLED
    why = line.decode(errors="replace")
    if "cancel" in why.casefold():
        return CANCELLED
    if "time" in why.casefold():  # "Timer expired": of the kernel's error ETIME
        return NO_ANSWER
    log.warning("%s could not ask: %s", _PROGRAM, shown(why, 200))
    return None
