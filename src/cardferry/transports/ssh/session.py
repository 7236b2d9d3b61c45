"""A command on the other side as a byte pipe: its standard streams, and what it complains of.

`open_session` goes through the connection that is open already: the session is a second ``ssh`` that hands its
streams to the master over the control socket, so the bytes go from our socket straight to the process that encrypts
them. `open_alone` makes a connection for this one command: for keys that may do nothing else (``command=``).
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

from cardferry.transports.base import Pipe
from cardferry.transports.lines import last_words
from cardferry.transports.program import Program, ProgramPipe
from cardferry.transports.ssh.command import SshCommand, environment, identify
from cardferry.transports.ssh.connection import SshConnection
from cardferry.transports.ssh.errors import SSH_FAILED, SshError, before_login
from cardferry.transports.unix import adopt

log = logging.getLogger("cardferry.ssh")


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


class _Command(Program):
    """What ssh runs, and ssh itself."""

    def __init__(self, destination: str, heard: Callable[[str], None]) -> None:
        super().__init__()
        self._destination = destination
        self._heard = heard

    def said(self, line: str) -> None:
        """Whoever started it may want to hear."""
        log.debug("%s: %s", self._destination, line)
        self._heard(line)

    def error(self) -> SshError | None:
        """Why it has ended; None when nothing is known to be wrong."""
        status = self.status
        if told := self.told(self._destination, hint="over there, see what `cardferry doctor` says"):
            return SessionError(*told, status or 1, told=True)
        if not status or status < 0:  # it was ended by us, or by a signal: that says nothing about the other side
            return None
        if status == SSH_FAILED:
            return before_login(self.complaints, status, self._destination)
        words = last_words(self.complaints) or f"exit status {status}"
        return SessionError(
            f"cardferry on {self._destination} does not work: {words}", "try it there: cardferry --version",
            status, told=False,
        )  # fmt: skip


class SessionPipe(ProgramPipe):
    """The command's standard streams as a pipe; when it is lost, it knows why.

    Args:
        pipe: our end of them.
        command: what is at the other end.
    """

    def __init__(self, pipe: Pipe, command: _Command) -> None:
        super().__init__(pipe, command)
        self._command = command

    async def ended(self) -> SshError | None:
        """Wait a moment for the command's end, then be done with it; return why it has ended."""
        await self._command.wait()
        return self._command.error()


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
        await self._command.wait()
        self.near.close()
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
    command = _Command(destination, heard)
    try:
        await command.start(words, far.fileno(), far.fileno(), environment())
    except OSError:
        near.close()
        raise
    finally:
        far.close()
    return near, command
