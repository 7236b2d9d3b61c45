"""Asks the person at the host, with pinentry: for a PIN, or whether something may be done.

One question at a time. The program is started for each, and killed when its time is over.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, cast

from cardferry.pcsc.reply import within
from cardferry.pcsc.text import shown
from cardferry.wire.assuan import CANCELED, NOT_CONFIRMED, Answer, Conversation, request
from cardferry.wire.errors import WireError

log = logging.getLogger(__name__)

#: s that a person has to answer.
PATIENCE: Final = 30
#: s more until the program is killed that should have noticed this itself.
_GRACE: Final = 5


@dataclass(frozen=True, slots=True)
class Said:
    """What the person has said.

    Attributes:
        pin: the PIN, or None.
        yes: whether it may be done.
        cancelled: the person has said no; otherwise no answer came.
    """

    yes: bool
    pin: str | None = None
    cancelled: bool = False

    def __repr__(self) -> str:
        return f"Said(yes={self.yes}, cancelled={self.cancelled})"


_NOBODY: Final = Said(yes=False)


class Pinentry:
    """The person at the host.

    Args:
        command: the program, with its arguments as for a shell.
        environ: the environment, for the terminal.

    Attributes:
        command: the program.
    """

    def __init__(self, command: str, environ: Mapping[str, str] = os.environ) -> None:
        self.command = command
        self._words = shlex.split(command) or [command]
        self._environ = environ
        self._lock = asyncio.Lock()

    async def pin(self, text: str) -> Said:
        """Ask for a PIN; the text says who wants what with which card."""
        return await self._ask([("SETPROMPT", "PIN:")], text, "GETPIN")

    async def consent(self, text: str) -> Said:
        """Ask whether something may be done."""
        return await self._ask([("SETOK", "Allow"), ("SETCANCEL", "Deny")], text, "CONFIRM")

    async def _ask(self, settings: list[tuple[str, str]], text: str, question: str) -> Said:
        async with self._lock:
            until = asyncio.get_running_loop().time() + PATIENCE + _GRACE
            try:
                process = await asyncio.create_subprocess_exec(*self._words, stdin=PIPE, stdout=PIPE, stderr=DEVNULL)
            except (OSError, ValueError) as error:
                log.error("nobody can be asked: %s: %s", shlex.join(self._words), error)
                return _NOBODY
            try:
                return await within(self._talk(process, settings, text, question), until)
            except (WireError, ConnectionError, TimeoutError) as error:
                log.warning("nobody was asked: %s: %s", shlex.join(self._words), error or "no answer")
                return _NOBODY
            finally:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    async def _talk(self, process: Process, settings: list[tuple[str, str]], text: str, question: str) -> Said:
        conversation = Conversation()
        await _answer(process, conversation)  # its greeting
        options = [("OPTION", each) for each in self._options()]
        for command, value in [
            *options,
            ("SETTIMEOUT", str(PATIENCE)),
            ("SETTITLE", "cardferry"),
            ("SETDESC", shown(text, 600)),
            *settings,
        ]:
            await _call(process, conversation, request(command, value))  # a pinentry need not know all of them
        answer = await _call(process, conversation, request(question))
        if answer.code:
            return Said(yes=False, cancelled=answer.code in (CANCELED, NOT_CONFIRMED))
        return Said(yes=True, pin=answer.data.decode(errors="replace") if question == "GETPIN" else None)

    def _options(self) -> list[str]:
        """On which terminal it may show itself, where there is no desktop."""
        with suppress(OSError):
            return [f"ttyname={os.ttyname(0)}", f"ttytype={self._environ.get('TERM', 'dumb')}"]
        return []


async def _call(process: Process, conversation: Conversation, line: bytes) -> Answer:
    writer = cast("asyncio.StreamWriter", process.stdin)
    writer.write(line)
    await writer.drain()
    return await _answer(process, conversation)


async def _answer(process: Process, conversation: Conversation) -> Answer:
    reader = cast("asyncio.StreamReader", process.stdout)
    while True:
        line = await reader.readline()
        answer = conversation.receive(line)
        if answer is not None:
            return answer
