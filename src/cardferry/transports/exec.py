"""Pipes over the standard streams of any command (``exec:COMMAND``) that runs ``cardferry host --stdio`` somewhere.

``docker exec -i``, ``kubectl exec -i``, ``nsenter``, ``sudo``, ``wsl.exe``: whatever starts a program and carries its
standard input and output is a way to a host. The command is split into words as a shell does it, and started without a
shell. Who may connect, and who encrypts, is its business. What it writes to its standard error is shown.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import ClassVar, Final, Self

from cardferry.transports.base import Address
from cardferry.transports.errors import AddressSyntaxError, NoHostError, NotCardferryError, TransportError
from cardferry.transports.lines import last_words
from cardferry.transports.program import LAST_WORDS_TIME, Program, ProgramPipe
from cardferry.transports.stdio import open_pipe

log = logging.getLogger(__name__)

#: Lines that are remembered, and not shown again while they are.
_KNOWN_LINES: Final = 20


class ExecError(TransportError):
    """The command has ended, and should not have."""

    exit_code = 36


class ExecNotStartedError(ExecError):
    """There is no such program, or it cannot be started."""

    heals = False


class _Command(Program):
    """The command of an address, started once."""

    def __init__(self, address: ExecAddress) -> None:
        super().__init__()
        self._address = address
        self._ended = False

    def said(self, line: str) -> None:
        """Show it, once: a command that is started anew every few seconds says the same each time."""
        known = self._address.known
        log.log(logging.DEBUG if line in known else logging.INFO, "%s: %s", self._address.program, line)
        known[:] = [*known[-_KNOWN_LINES:], line]

    def error(self) -> ExecError | None:
        """Why it has ended; None when it says that all is well, or was ended by us."""
        command, status = self._address.command, self.status
        if told := self.told(self._address.program, hint=self._address.by_itself):
            return ExecError(*told)
        if self._ended or not status:
            return None
        how = f"was ended by signal {-status}" if status < 0 else f"has ended with exit status {status}"
        words = last_words(self.complaints)
        return ExecError(f"`{command}` {how}{': ' + words if words else ''}", self._address.by_itself)

    def end(self) -> None:
        """Ask it to end, so that it can clean up; end it when it does not."""
        self._ended = True
        if self._process is not None and not self.gone.done():
            with suppress(ProcessLookupError):
                self._process.terminate()
            asyncio.get_running_loop().call_later(LAST_WORDS_TIME, self._process.close)


@dataclass(frozen=True, slots=True)
class ExecAddress(Address):
    """A command whose standard streams lead to a host.

    Attributes:
        words: the program and its arguments.
        known: the last lines that it wrote to its standard error; not part of the address.
    """

    FORM: ClassVar[str] = "exec:COMMAND"
    #: It may have to ask for a password first.
    GREETING: ClassVar[float] = 30.0

    words: tuple[str, ...]
    known: list[str] = field(default_factory=list, compare=False, repr=False)

    @classmethod
    def parse(cls, rest: str, text: str) -> Self:
        """Split the command as a shell does."""
        hint = "write it as for a shell, in quotes: 'exec:docker exec -i box cardferry host --stdio'"
        try:
            words = tuple(shlex.split(rest))
        except ValueError as error:
            raise AddressSyntaxError(f"not a command: {text!r} ({error})", hint) from None
        if not words or not words[0] or "\0" in rest:
            raise AddressSyntaxError(f"not a command: {text!r}", hint)
        return cls(words)

    def __str__(self) -> str:
        return f"exec:{self.command}"

    @property
    def command(self) -> str:
        """As it is written for a shell."""
        return shlex.join(self.words)

    @property
    def program(self) -> str:
        """The program's name."""
        return PurePath(self.words[0]).name or self.words[0]

    @property
    def by_itself(self) -> str:
        """The hint that helps to see what is wrong with the command."""
        return f"try it by itself: {self.command}; it must run `cardferry host --stdio` where the reader is"

    async def dial(self) -> ProgramPipe:
        """Start the command; raises `ExecNotStartedError`."""
        if shutil.which(self.words[0]) is None:
            raise ExecNotStartedError(
                f"there is no program {self.words[0]!r} here",
                "check how it is spelled; for what only a shell knows: exec:sh -c '...'",
            )
        command = _Command(self)
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        try:
            await command.start(self.words, theirs_in, theirs_out)
        except (OSError, asyncio.CancelledError):
            os.close(ours_in)
            os.close(ours_out)
            raise
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        return ProgramPipe(await open_pipe(ours_in, ours_out, str(self)), command)

    def who(self) -> str:
        """The command."""
        return f"`{self.command}`"

    def silent(self) -> TransportError:
        """It may wait for somebody who types something."""
        return NoHostError(f"{self.who()} does not say hello", self.by_itself)

    async def stranger(self) -> TransportError:
        """It prints something else, or nothing at all."""
        return NotCardferryError(
            f"what {self.who()} prints is not the protocol of links",
            "it must run `cardferry host --stdio`, print nothing else, and have no terminal in between (no -t)",
        )
