"""A program on this computer as the way to another one: its standard streams as a pipe, and what it complains of.

The program ends when the pipe ends, and the pipe is lost when the program ends, unless it has left its streams to
another one that goes on. Derived classes say what its end means
(`Program.error`): ssh's are in `cardferry.transports.ssh.session`, those of any command in `cardferry.transports.exec`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Final, cast

from cardferry.pcsc.errors import UserError
from cardferry.system.processes import dies_with_parent
from cardferry.transports.base import Pipe
from cardferry.transports.lines import LineSplitter
from cardferry.transports.passed import PassedPipe

#: s that the end of the program may come later than the end of its output.
LAST_WORDS_TIME: Final = 1.0
_KEPT_LINES: Final = 20
#: What lines begin with that are no complaints: a cardferry at the other end tells what it does.
NEWS: Final = "cardferry is "
_ERROR: Final = re.compile(r"^error: (.+)")
_HINT: Final = re.compile(r"^hint: (.+)")


class Program(asyncio.SubprocessProtocol):
    """Notes what a program complains of and how it ends; the event loop reaps it.

    Attributes:
        gone: done when the program has ended, and all that it said was read.
        complaints: the last lines of its standard error.
    """

    def __init__(self) -> None:
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.complaints: list[str] = []
        self._lines = LineSplitter()
        self._process: asyncio.SubprocessTransport | None = None

    async def start(
        self, words: Sequence[str], source: int, sink: int, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start it.

        Args:
            words: the program and its arguments.
            source, sink: descriptors that become its standard input and output; they stay the caller's to close.
            environment: None for ours.

        Raises:
            OSError: it cannot be started.
        """
        await asyncio.get_running_loop().subprocess_exec(
            lambda: self,
            *deaf_to_interrupts(words),
            stdin=source,
            stdout=sink,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            preexec_fn=dies_with_parent(),
        )

    def said(self, line: str) -> None:
        """It wrote a line to its standard error; to be overridden."""

    def error(self) -> UserError | None:
        """Why it has ended; None when nothing is known to be wrong."""
        raise NotImplementedError

    @property
    def status(self) -> int | None:
        """Its exit status; -n when signal n ended it, None while it runs."""
        return self._process.get_returncode() if self._process is not None else None

    @property
    def pid(self) -> int:
        """Its process id; 0 before it has one."""
        return self._process.get_pid() if self._process is not None else 0

    def told(self, name: str, hint: str) -> tuple[str, str] | None:
        """What it says itself is wrong, as cardferry does: message and hint. They are marked as its own.

        Args:
            name: who says so.
            hint: when it gives none; one that we give is one that people follow.
        """
        said = [match[1] for line in self.complaints if (match := _ERROR.search(line))]
        hints = [match[1] for line in self.complaints if (match := _HINT.search(line))]
        if not said:
            return None
        return f"{name} says: {said[-1]}", f"{name} says: {hints[-1]}" if hints else hint

    def end(self) -> None:
        """It has no pipe any more: it shall end, too."""
        if self._process is not None:
            self._process.close()

    async def wait(self) -> None:
        """Wait a moment for its end, then be done with it."""
        await asyncio.wait({self.gone}, timeout=LAST_WORDS_TIME)
        self.end()

    # what asyncio tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It runs."""
        self._process = cast("asyncio.SubprocessTransport", transport)

    def pipe_data_received(self, fd: int, data: bytes | str) -> None:
        """It wrote to its standard error."""
        for line in self._lines.feed(cast("bytes", data)):
            if line.strip():
                self.said(line)
                if not line.startswith(NEWS):
                    self.complaints = [*self.complaints[-_KEPT_LINES:], line]

    def connection_lost(self, exc: Exception | None) -> None:
        """The program has ended, and all that it said was read."""
        if not self.gone.done():
            self.gone.set_result(None)


class ProgramPipe(PassedPipe):
    """The program's standard streams as a pipe; when it is lost, it knows why.

    Args:
        pipe: our end of them.
        program: what is at the other end.
    """

    def __init__(self, pipe: Pipe, program: Program) -> None:
        super().__init__(pipe)
        self._program = program

    @property
    def pid(self) -> int:
        """The program's process id."""
        return self._program.pid

    def end(self) -> None:
        """Be done with the program, whatever it has to say."""
        self._program.end()

    def lost(self, error: Exception | None) -> None:
        """The streams have ended: hear what the program has to say about that.

        It knows better: who ends without reading what was written to it resets its streams.
        """
        if self._program.gone.done():
            super().lost(self._program.error() or error)
            return
        waiting = asyncio.get_running_loop().call_later(LAST_WORDS_TIME, self._program.end)

        def ended(_: object) -> None:
            waiting.cancel()
            super(ProgramPipe, self).lost(self._program.error() or error)

        self._program.gone.add_done_callback(ended)


def deaf_to_interrupts(words: Sequence[str]) -> list[str]:
    """The same command, not ended by the terminal's Ctrl-C: that is ours to act on, in order."""
    return ["/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh", *words]
