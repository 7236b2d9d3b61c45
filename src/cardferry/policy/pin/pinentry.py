"""Asks with pinentry, the program of GnuPG that does nothing else; there are some for each desktop, and for terminals.

It is started for each question, and killed when its time is over. It has one button for yes and one for no: whether a
yes is to hold for ten minutes is a second question. (A third button there is, ``SETNOTOK``. But some pinentries say the
same when that is pressed and when the window is closed.)

The protocol is `cardferry.wire.assuan`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from cardferry.pcsc.reply import within
from cardferry.pcsc.text import shown
from cardferry.policy.pin.person import CANCELLED, NO_ANSWER, Question, Said
from cardferry.policy.pin.program import Program, started
from cardferry.system.terminal import in_foreground
from cardferry.wire.assuan import CANCELED, NOT_CONFIRMED, TIMEOUT, Answer, Conversation, request
from cardferry.wire.errors import WireError

log = logging.getLogger(__name__)

#: s more until the program is killed that should have noticed this itself.
_GRACE: Final = 5
_NO: Final = frozenset({CANCELED, NOT_CONFIRMED})
_BUTTONS: Final = [("SETOK", "Allow"), ("SETCANCEL", "Deny")]
_LASTING_BUTTONS: Final = [("SETOK", "10 minutes"), ("SETCANCEL", "Only this once")]
_LASTING: Final = "Shall the same be allowed for the next 10 minutes, without a question?"


class Pinentry:
    """A way to ask; see `cardferry.policy.pin.person.Way`.

    Args:
        command: the program, with its arguments as for a shell.
        environ: the environment, for the terminal.
    """

    def __init__(self, command: str, environ: Mapping[str, str] = os.environ) -> None:
        self.name = f"pinentry ({command})" if command != "pinentry" else command
        self._words = shlex.split(command) or [command]
        self._environ = environ

    def fits(self, question: Question) -> bool:
        """Whether the program is there."""
        return shutil.which(self._words[0]) is not None

    async def ask(self, question: Question) -> Said | None:
        """Ask; None when the program could not."""
        try:
            async with started(self._words) as program:
                return await self._talk(_Talk(program), question)
        except TimeoutError:
            return NO_ANSWER
        except (OSError, ValueError, WireError) as error:
            log.warning("%s could not ask: %s", self.name, error)
            return None

    async def _talk(self, talk: _Talk, question: Question) -> Said | None:
        await talk.begin(question.patience)
        settings = [("OPTION", each) for each in self._options()]
        settings += [("SETTIMEOUT", f"{question.patience:.0f}"), ("SETTITLE", "cardferry")]
        settings += [("SETPROMPT", f"{question.prompt}:")] if question.prompt else _BUTTONS
        answer = await talk.ask(settings, question.text, "GETPIN" if question.prompt else "CONFIRM")
        if answer.code == TIMEOUT:
            return NO_ANSWER
        if answer.code in _NO:
            return CANCELLED
        if answer.code:
            log.warning("%s could not ask: error %d", self.name, answer.code)
            return None
        if question.prompt:
            return Said(yes=True, pin=answer.data)
        return Said(yes=True, lasting=question.lasting and await self._lasts(talk, question.patience))

    async def _lasts(self, talk: _Talk, patience: float) -> bool:
        talk.until = asyncio.get_running_loop().time() + patience
        try:
            return (await talk.ask(_LASTING_BUTTONS, _LASTING, "CONFIRM")).code == 0
        except (TimeoutError, WireError):
            return False

    def _options(self) -> list[str]:
        """On which terminal it may show itself, where there is no desktop."""
        with suppress(OSError):
            if in_foreground():
                return [f"ttyname={os.ttyname(0)}", f"ttytype={self._environ.get('TERM', 'dumb')}"]
        return []


class _Talk:
    """A conversation with the program, which must end in time."""

    def __init__(self, program: Program) -> None:
        self.until = 0.0
        self._program = program
        self._conversation = Conversation()

    async def begin(self, patience: float) -> None:
        """Hear its greeting."""
        self.until = asyncio.get_running_loop().time() + patience + _GRACE
        await within(self._answer(), self.until)

    async def ask(self, settings: Sequence[tuple[str, str]], text: str, question: str) -> Answer:
        """Ask something; a pinentry need not know all the settings."""
        for command, value in (*settings, ("SETDESC", shown(text, 600)), (question, "")):
            self._program.send(request(command, value))
            answer = await within(self._answer(), self.until)
        return answer

    async def _answer(self) -> Answer:
        while True:
            line = await self._program.line()
            answer = self._conversation.receive(bytes(line))
            line[:] = bytes(len(line))
            if answer is not None:
                return answer
