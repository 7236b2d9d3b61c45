"""A command on the other side as a byte pipe: its standard streams, and what it complains of.

`open_session` goes through the connection that is open already: the session is a second ``ssh`` that hands its
streams to the master over the control socket, so the bytes go from our socket straight to the process that encrypts
them. `open_alone` makes a connection for this one command: for keys that may do nothing else (``command=``).
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Callable
from typing import Final, cast

from cardferry.system.processes import dies_with_parent
from cardferry.transports.base import Pipe
from cardferry.transports.passed import PassedPipe
from cardferry.transports.ssh.command import SshCommand, deaf_to_interrupts, environment, identify
from cardferry.transports.ssh.connection import SshConnection
from cardferry.transports.ssh.errors import SSH_FAILED, SshError, before_login, last_words
from cardferry.transports.ssh.guard import LineSplitter
from cardferry.transports.unix import adopt

log = logging.getLogger("cardferry.ssh")

#: s that the end of the command may come later than the end of its output.
_LAST_WORDS_TIME: Final = 1.0
_KEPT_LINES: Final = 20
#: What lines begin with that are no complaints.
NEWS: Final = "cardferry is "
_ERROR: Final = re.compile(r"^error: (.+)")
_HINT: Final = re.compile(r"^hint: (.+)")


class SessionError(SshError):
    """The command on the other side has ended.

    Attributes:
        status: its exit status; 255 is ssh's own.
        told: whether it has said what is wrong, in words that are for people.
    """

    def __init__(self, message: str, hint: str, status: int, *, told: bool) -> None:
        super().__init__(message, hint)
        self.status = status
        self.told = told


class _Command(asyncio.SubprocessProtocol):
    """Notes what the command complains of and how it ends; the event loop reaps it."""

    def __init__(self, destination: str, heard: Callable[[str], None]) -> None:
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.complaints: list[str] = []
        self._destination = destination
        self._heard = heard
        self._lines = LineSplitter()
        self._process: asyncio.SubprocessTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._process = cast("asyncio.SubprocessTransport", transport)

    def pipe_data_received(self, fd: int, data: bytes | str) -> None:
        for line in self._lines.feed(cast("bytes", data)):
            if line.strip():
                log.debug("%s: %s", self._destination, line)
                self._heard(line)
                if not line.startswith(NEWS):
                    self.complaints = [*self.complaints[-_KEPT_LINES:], line]

    def connection_lost(self, exc: Exception | None) -> None:
        """The command has ended, and all that it said was read."""
        if not self.gone.done():
            self.gone.set_result(None)

    def end(self) -> None:
        """It has no pipe any more: it shall end, too."""
        if self._process is not None:
            self._process.close()

    def error(self) -> SshError | None:
        """Why it has ended; None when nothing is known to be wrong."""
        status = self._process.get_returncode() if self._process is not None else None
        said = [match[1] for line in self.complaints if (match := _ERROR.search(line))]
        hints = [match[1] for line in self.complaints if (match := _HINT.search(line))]
        if said:
            # Its own words, and marked as such: a hint that we give is one that people follow.
            hint = f"{self._destination} says: {hints[-1]}" if hints else "over there, see what `cardferry doctor` says"
            return SessionError(f"{self._destination} says: {said[-1]}", hint, status or 1, told=True)
        if not status or status < 0:  # it was ended by us, or by a signal: that says nothing about the other side
            return None
        if status == SSH_FAILED:
            return before_login(self.complaints, status, self._destination)
        words = last_words(self.complaints) or f"exit status {status}"
        return SessionError(
            f"cardferry on {self._destination} does not work: {words}", "try it there: cardferry --version",
            status, told=False,
        )  # fmt: skip


class SessionPipe(PassedPipe):
    """The command's standard streams as a pipe; when it is lost, it knows why.

    Args:
        pipe: our end of them.
        command: what is at the other end.
    """

    def __init__(self, pipe: Pipe, command: _Command) -> None:
        super().__init__(pipe)
        self._command = command

    def end(self) -> None:
        """Be done with the command, whatever it has to say."""
        self._command.end()

    async def ended(self) -> SshError | None:
        """Wait a moment for the command's end, then be done with it; return why it has ended."""
        await asyncio.wait({self._command.gone}, timeout=_LAST_WORDS_TIME)
        self._command.end()
        return self._command.error()

    def lost(self, error: Exception | None) -> None:
        """The streams have ended: hear what the command has to say about that.

        It knows better: who ends without reading what was written to it resets its streams.
        """
        if self._command.gone.done():
            super().lost(self._command.error() or error)
            return
        loop = asyncio.get_running_loop()
        waiting = loop.call_later(_LAST_WORDS_TIME, self._command.end)

        def ended(_: object) -> None:
            waiting.cancel()
            super(SessionPipe, self).lost(self._command.error() or error)

        self._command.gone.add_done_callback(ended)


def _nothing(line: str) -> None:
    """Nobody wants to hear."""


async def open_session(
    connection: SshConnection, command: str, heard: Callable[[str], None] = _nothing
) -> SessionPipe:  # fmt: skip
    """Run ``command`` on the other side; its standard input and output are the pipe.

    The command ends when the pipe ends, and the pipe is lost when the command ends, for whatever reason: `SessionError`
    if it has said one.

    Args:
        heard: gets each line that the command writes to its standard error.
    """
    return await _run(connection.session_command(command), connection.destination, heard)


async def open_alone(
    destination: str, ssh: SshCommand, command: str, heard: Callable[[str], None] = _nothing
) -> SessionPipe:
    """Likewise, with a connection of its own that carries nothing else."""
    ssh = await identify(ssh)
    return await _run(ssh.alone(destination, command), destination, heard)


class SessionStreams:
    """The command's standard streams, for whoever gives our end of them away: nothing is read from them here.

    Attributes:
        near: our end.
    """

    def __init__(self, near: socket.socket, command: _Command) -> None:
        self.near = near
        self._command = command

    def write(self, data: bytes) -> None:
        """Send a few bytes; they have room in the socket."""
        self.near.send(data)

    def end(self) -> None:
        """Be done with the command, whatever it has to say."""
        self.near.close()
        self._command.end()

    async def ended(self) -> SshError | None:
        """Wait a moment for the command's end, then be done with it; return why it has ended."""
        await asyncio.wait({self._command.gone}, timeout=_LAST_WORDS_TIME)
        self.end()
        return self._command.error()


async def open_session_streams(connection: SshConnection, command: str, heard: Callable[[str], None]) -> SessionStreams:
    """Like `open_session`, for whoever gives the streams away."""
    near, running = await _start(connection.session_command(command), connection.destination, heard)
    return SessionStreams(near, running)


async def _run(words: list[str], destination: str, heard: Callable[[str], None]) -> SessionPipe:
    near, command = await _start(words, destination, heard)
    return SessionPipe(await adopt(near, f"ssh://{destination}"), command)


async def _start(words: list[str], destination: str, heard: Callable[[str], None]) -> tuple[socket.socket, _Command]:
    near, far = socket.socketpair()
    try:
        _, command = await asyncio.get_running_loop().subprocess_exec(
            lambda: _Command(destination, heard),
            *deaf_to_interrupts(words),
            stdin=far.fileno(),
            stdout=far.fileno(),
            stderr=asyncio.subprocess.PIPE,
            env=environment(),
            preexec_fn=dies_with_parent(),
        )
    except OSError:
        near.close()
        raise
    finally:
        far.close()
    return near, command
