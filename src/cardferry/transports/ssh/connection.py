"""One authenticated OpenSSH connection, shared by everything that goes to one host.

`connect` starts ``ssh -M`` as a child with pipes. Its session runs the guard (``guard.sh``); forwardings are added to
it through its control socket (``ssh -O forward``), so a password is asked for once, on the terminal, as ssh does. The
child is ended when the block ends, and dies with us.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, cast

from cardferry.system.processes import dies_with_parent
from cardferry.transports.lines import LineSplitter, last_words
from cardferry.transports.program import deaf_to_interrupts
from cardferry.transports.sockets import PATH_LIMIT, PathUnusableError, unfit
from cardferry.transports.ssh import guard
from cardferry.transports.ssh.command import SshCommand, environment, identify, run
from cardferry.transports.ssh.errors import (
    FORWARDING_SYMPTOMS,
    SSH_FAILED,
    SYMPTOMS,
    ConnectionLostError,
    SshError,
    before_login,
    find,
)

log = logging.getLogger("cardferry.ssh")

#: Bytes that ssh adds to the name of its control socket until it listens (``mux.c``: a dot and 16 letters).
_CONTROL_ENDING: Final = 17
#: Lines of ssh's complaints that are kept to tell what went wrong.
_KEPT_LINES: Final = 60
#: What ssh says when the server could not, or would not, connect to the socket it was asked for.
_OPEN_FAILED: Final = "open failed:"
#: What ssh says when the server gives no terminal to a session that insists on one; it ends then.
_NO_TERMINAL: Final = "PTY allocation request failed"
#: What ssh says when a session ends as it should, and when a forwarded connection was refused.
_FAREWELL: Final = re.compile(rf"^(Shared )?[Cc]onnection to .* closed|{_OPEN_FAILED}")
#: Seconds that the other side gets to answer a request, to say good-bye, and ssh to end when told.
_ANSWER_TIMEOUT: Final = 15.0
_QUIT_TIMEOUT: Final = 2.0
_END_TIMEOUT: Final = 2.0
#: Seconds in which what ssh said last must have arrived after its end.
_LAST_WORDS_TIME: Final = 0.5
#: So often the distance is measured; the least counts.
_MEASUREMENTS: Final = 2


class _Master(asyncio.SubprocessProtocol):
    """Reads what the ssh child writes, and knows when it is up and when it is gone.

    Args:
        destination: as for ssh.
        again: the server has given no terminal at the first attempt, so the key may be for one command only: until it
            is known that this is not so, what ssh and that command say is kept back.
    """

    def __init__(self, destination: str, *, again: bool = False) -> None:
        loop = asyncio.get_running_loop()
        self.mark = guard.new_mark()
        self._word = guard.new_word()
        self._booted = False
        self.facts = guard.Facts()
        self.complaints: deque[str] = deque(maxlen=_KEPT_LINES)
        self.complained = 0
        self.ready: asyncio.Future[None] = loop.create_future()
        self.gone: asyncio.Future[int | None] = loop.create_future()
        self.farewell: asyncio.Future[None] = loop.create_future()
        self._destination = destination
        self._kept_back: list[str] | None = [] if again else None
        self._output = LineSplitter()
        self._errors = LineSplitter()
        self._replies: dict[int, tuple[guard.Reply, asyncio.Future[guard.Reply]]] = {}
        self._requests = 0
        self._heartbeat: asyncio.TimerHandle | None = None
        self._process: asyncio.SubprocessTransport | None = None

    # What asyncio tells us

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._process = cast(asyncio.SubprocessTransport, transport)

    def pipe_data_received(self, fd: int, data: bytes | str) -> None:
        data = cast(bytes, data)
        if fd == 1:
            for line in self._output.feed(data):
                self._line(line)
        else:
            for line in self._errors.feed(data):
                self._complaint(line)

    def process_exited(self) -> None:
        """The child has ended. A child of its own, such as a ``ProxyCommand``, may keep its pipes open."""
        asyncio.get_running_loop().call_later(_LAST_WORDS_TIME, self._ended)

    def connection_lost(self, exc: Exception | None) -> None:
        """The child has ended and its pipes are read to their end."""
        self._ended()

    def _ended(self) -> None:
        if self.gone.done():
            return
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        if not self.ready.done() and self.process.get_returncode() == SSH_FAILED:
            self._tell_what_was_kept_back()
        self.gone.set_result(self.process.get_returncode())
        for _, answered in self._replies.values():
            if not answered.done():
                answered.set_exception(self.why())
        self._replies.clear()

    @property
    def process(self) -> asyncio.SubprocessTransport:
        """The child, from its start on."""
        if self._process is None:
            raise RuntimeError("ssh has not been started")
        return self._process

    # The guard's side

    def _line(self, line: str) -> None:
        if not self._booted and f"{self.mark} boot" in line:
            self._booted = True
            self.send(guard.program(self.mark, self._word))
            return
        _, found, text = line.partition(self._word + " ")
        if not found:
            if line.strip():
                log.debug("%s printed: %s", self._destination, line[:200])
            return
        word, _, rest = text.partition(" ")
        if (answered := guard.number(word)) is not None:
            self._answer(answered, rest)
        elif word == "fact":
            key, _, value = rest.partition(" ")
            self.facts.learn(key, value)
        elif word == "ready" and not self.ready.done():
            self.ready.set_result(None)
            self._tell_what_was_kept_back()
            self._beat()
        elif word == "bye" and not self.farewell.done():
            self.farewell.set_result(None)

    def _answer(self, number: int, text: str) -> None:
        waiting = self._replies.get(number)
        if waiting is None:
            return
        reply, answered = waiting
        key, _, value = text.partition(" ")
        if key not in ("done", "fail"):
            reply.learn(key, value)
            return
        reply.failure = value if key == "fail" else ""
        del self._replies[number]
        if not answered.done():
            answered.set_result(reply)

    def _beat(self) -> None:
        self.send(guard.HEARTBEAT)
        self._heartbeat = asyncio.get_running_loop().call_later(guard.HEARTBEAT_INTERVAL, self._beat)

    def send(self, data: bytes) -> None:
        """Write to the guard; when ssh is gone that is seen elsewhere."""
        pipe = cast(asyncio.WriteTransport, self.process.get_pipe_transport(0))
        if not pipe.is_closing():
            pipe.write(data)

    async def ask(self, verb: str, *arguments: str) -> guard.Reply:
        """Ask the guard and wait for its answer."""
        if self.gone.done():
            raise self.why()
        self._requests += 1
        number = self._requests
        answered: asyncio.Future[guard.Reply] = asyncio.get_running_loop().create_future()
        self._replies[number] = (guard.Reply(), answered)
        self.send(guard.request(number, verb, *arguments))
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT):
                return await answered
        except TimeoutError:
            raise ConnectionLostError(
                f"{self._destination} does not answer",
                f"`ssh {self._destination} uptime` shows whether it is overloaded",
            ) from None
        finally:
            self._replies.pop(number, None)

    # ssh's own words

    def _complaint(self, line: str) -> None:
        self.complaints.append(line)
        self.complained += 1
        if self._kept_back is not None:
            self._kept_back.append(line)
        else:
            self._tell(line)

    def _tell(self, line: str) -> None:
        if line.strip():
            told = _FAREWELL.search(line) or find(SYMPTOMS + FORWARDING_SYMPTOMS, [line], self._destination)
            quiet = told is not None or _NO_TERMINAL in line
            log.log(logging.DEBUG if quiet else logging.INFO, "ssh: %s", line)

    def _tell_what_was_kept_back(self) -> None:
        lines, self._kept_back = self._kept_back or [], None
        for line in lines:
            self._tell(line)

    def complaints_since(self, count: int) -> list[str]:
        """What ssh said after ``complained`` was ``count``."""
        fresh = self.complained - count
        return list(self.complaints)[-fresh:] if fresh > 0 else []

    def why(self) -> SshError:
        """Why the child is gone."""
        if not self.ready.done():
            return before_login(list(self.complaints), self.gone.result(), self._destination)
        status = self.gone.result()
        said = last_words([line for line in self.complaints if _OPEN_FAILED not in line]) or (
            f"ssh was ended by signal {-status}" if status is not None and status < 0 else f"ssh ended, status {status}"
        )
        return ConnectionLostError(f"lost {self._destination}: {said}", "is that computer on and the network up?")

    async def end(self) -> None:
        """Say good-bye, so that the other side cleans up, and see the child end."""
        if self._process is None:
            return
        if self.ready.done() and not self.gone.done():
            self.send(guard.QUIT)
            await _first(self.farewell, self.gone, timeout=_QUIT_TIMEOUT)
        for end in (self.process.terminate, self.process.kill):
            if not self.gone.done():
                with suppress(ProcessLookupError):  # it has ended, and its pipes are being read to their end
                    end()
                await _first(self.gone, timeout=_END_TIMEOUT)
        self.process.close()


class SshConnection:
    """A connection that is up: the account over there is known and forwardings can be added."""

    def __init__(self, destination: str, command: SshCommand, control: str, master: _Master) -> None:
        self.destination = destination
        self._command = command
        self._control = control
        self._master = master
        self._made: set[Path] = set()

    @property
    def mark(self) -> str:
        """The word that proves which socket over there is this connection's."""
        return self._master.mark

    @property
    def facts(self) -> guard.Facts:
        """What is known about the other side."""
        return self._master.facts

    @property
    def pid(self) -> int:
        """Process id of the ssh child."""
        return self._master.process.get_pid()

    @property
    def up(self) -> bool:
        """Whether the connection stands, as far as ssh knows."""
        return not self._master.gone.done()

    def session_command(self, remote_command: str) -> list[str]:
        """What runs a command on the other side, through this connection."""
        return self._command.session(self.destination, self._control, remote_command)

    async def lost(self) -> SshError:
        """Wait until the connection has ended; return why."""
        await _first(self._master.gone)
        return self._master.why()

    async def ask(self, verb: str, *arguments: str) -> guard.Reply:
        """Ask the guard over there; raises `SshError` when the connection ends meanwhile."""
        return await self._master.ask(verb, *arguments)

    async def round_trip(self) -> float:
        """s to the other side and back, with the least that has to be done there; raises `SshError`."""
        loop = asyncio.get_running_loop()
        times = []
        for _ in range(_MEASUREMENTS):
            began = loop.time()
            await self.ask("echo")
            times.append(loop.time() - began)
        return min(times)

    async def forward_to_remote(self, local: Path, remote: str) -> None:
        """Listen at ``local`` here; each connection goes to the socket ``remote`` over there (``ssh -L``)."""
        _remove(local)
        self._made.add(local)
        await self._order("forward", "-L", f"{_escaped(str(local))}:{_escaped(remote)}")

    async def forward_to_local(self, remote: str, local: Path) -> None:
        """Listen at ``remote`` over there; each connection goes to the socket ``local`` here (``ssh -R``)."""
        await self._order("forward", "-R", f"{_escaped(remote)}:{_escaped(str(local))}")

    async def cancel_to_remote(self, local: Path, remote: str) -> None:
        """End what `forward_to_remote` began; connections that stand go on."""
        await self._order("cancel", "-L", f"{_escaped(str(local))}:{_escaped(remote)}")
        _remove(local)
        self._made.discard(local)

    def clear_away(self) -> None:
        """Remove the sockets that ssh made here and leaves when it ends."""
        for local in self._made:
            _remove(local)

    def complaint_count(self) -> int:
        """How many lines ssh has complained so far; a mark for `refused_since`."""
        return self._master.complained

    async def refused_since(self, count: int) -> bool:
        """Whether the server refused to open a forwarded connection since `complaint_count` was ``count``.

        ssh says so before it closes that connection, but on another pipe: an answer to something asked afterwards
        comes after it.
        """
        await self._order("check")
        return any(_OPEN_FAILED in line for line in self._master.complaints_since(count))

    async def _order(self, order: str, *arguments: str) -> None:
        command = self._command.control(self.destination, self._control, order, *arguments)
        status, _, said = await run(command)
        if status == 0:
            return
        lines = said.splitlines()
        if self._master.gone.done():
            raise self._master.why()
        raise find(FORWARDING_SYMPTOMS, lines, self.destination) or SshError(
            f"ssh could not {order} a socket: {last_words(lines)}", f"`ssh -v {self.destination}` says more"
        )


@asynccontextmanager
async def connect(destination: str, command: SshCommand, folder: Path) -> AsyncIterator[SshConnection]:
    """Log in to ``destination`` and keep the connection for the block.

    Args:
        destination: as for ssh: ``host``, ``user@host`` or ``ssh://user@host:port``.
        command: the ssh program.
        folder: a private folder (0700, short path) for the control socket.

    Raises:
        PathUnusableError: the folder's path is too long.
        SshError: what went wrong, before the block begins; `SshConnection.lost` tells later ends.
    """
    command = await identify(command)
    control = folder / "ctl"
    _check_room(control)
    master = await _start(destination, command, control)
    if master.gone.done() and any(_NO_TERMINAL in line for line in master.complaints):
        master = await _start(destination, command, control, terminal=False)
        if master.ready.done():
            log.warning("%s gives the account no terminal: without one sshd delays each small message", destination)
    try:
        if master.gone.done():
            raise master.why()
        connection = SshConnection(destination, command, _literal(control), master)
        try:
            yield connection
        finally:
            connection.clear_away()
    finally:
        await master.end()
        _remove(control)


def _check_room(control: Path) -> None:
    """See that ssh can bind its control socket, which it does under a longer name first."""
    if wrong := unfit(str(control)):
        raise PathUnusableError(
            f"the path of ssh's own socket {wrong}: {str(control)!r}", "set XDG_RUNTIME_DIR to a folder of your own"
        )
    most = PATH_LIMIT - _CONTROL_ENDING
    if len(os.fsencode(control)) > most:
        raise PathUnusableError(
            f"ssh's own socket would have too long a path: {control} has more than {most} bytes",
            "set XDG_RUNTIME_DIR to a folder of your own with a shorter path",
        )


def _literal(control: Path) -> str:
    """A path as ``-S`` takes it."""
    return str(control).replace("%", "%%")


async def _start(destination: str, command: SshCommand, control: Path, terminal: bool = True) -> _Master:
    """Start ssh and wait until the guard is ready, or ssh has ended."""
    _remove(control)
    master = _Master(destination, again=not terminal)
    words = command.master(destination, _literal(control), guard.bootstrap(master.mark), terminal)
    try:
        await asyncio.get_running_loop().subprocess_exec(
            lambda: master, *deaf_to_interrupts(words), env=environment(), preexec_fn=dies_with_parent()
        )
        await _first(master.ready, master.gone)
    except BaseException:
        await master.end()
        raise
    return master


async def _first(*futures: asyncio.Future[Any], timeout: float | None = None) -> None:
    """Wait until one is done, or ``timeout`` s have passed; cancelling the caller leaves them alone."""
    await asyncio.wait(futures, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _escaped(path: str) -> str:
    r"""A path as ``-L`` and ``-R`` take it: ``\`` and ``:`` are theirs, and ``%`` begins a token (ssh_config(5)).

    Every path that ssh is told comes through here, also those that come from the other side: raises
    `PathUnusableError` for what cannot be told so that ssh takes it literally.
    """
    if wrong := unfit(path):
        raise PathUnusableError(
            f"the path {path!r} {wrong}: ssh cannot be told of it", "set XDG_RUNTIME_DIR to another folder of your own"
        )
    return path.replace(":", "\\:").replace("%", "%%")
