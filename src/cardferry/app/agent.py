"""The host's agent: the one resource manager of a user, which all guests that come over a link share.

``ssh HOST cardferry host --stdio`` finds the agent, or starts it, and hands its own standard streams over, as
descriptors: no byte of the link passes through it afterwards. The agent leaves when no guest has come for a while.

Host( LocalManager( pcscd ) )
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import logging
import os
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from cardferry import __version__
from cardferry.app import limits
from cardferry.app.control import Link, Running, controllable
from cardferry.app.host import Host as Readers
from cardferry.app.host import spelled
from cardferry.app.origin import opened
from cardferry.app.paths import runtime_folder, scratch
from cardferry.app.serving import Service, recorded
from cardferry.app.share import LOCAL_PCSCD
from cardferry.frontends.listening import ListeningSocket, SocketInUseError
from cardferry.link import Host, Timing
from cardferry.manager import LocalManager
from cardferry.pcsc.errors import UserError
from cardferry.transports.ssh import SshCommand
from cardferry.transports.stdio import open_pipe

log = logging.getLogger(__name__)

SOFTWARE: Final = f"cardferry {__version__}"
#: Seconds without a guest until an agent that was started by one leaves.
IDLE: Final = 60.0
_NAME: Final = "agent"
_MAX_GREETING: Final = 4096


class AgentError(UserError):
    """The agent cannot be started or reached."""

    exit_code = 52


class Guest(msgspec.Struct, frozen=True):
    """What a guest's session tells the agent when it hands over its streams.

    Attributes:
        name: who comes, for people.
    """

    name: str


@dataclass(frozen=True, slots=True)
class Agency:
    """What an agent serves, and how.

    Attributes:
        readers: where the readers are.
        service: bounds of the resource manager.
        accelerate: whether to run ahead.
        grace: s that a guest that is out of reach keeps what it holds.
        idle: s without a guest until it leaves, None to stay.
    """

    readers: Readers = LOCAL_PCSCD
    service: Service = field(default_factory=Service)
    accelerate: bool = True
    grace: float = Timing().grace
    idle: float | None = None


def agent_path() -> Path:
    """Where the user's agent listens."""
    return runtime_folder() / _NAME


async def serve(agency: Agency, ready: int | None = None) -> None:
    """Be the agent until cancelled, or until nobody has come for a while.

    Args:
        ready: a descriptor that gets a byte when guests can come, and is closed.

    Raises:
        SocketInUseError: there is one already.
    """
    limits.raise_open_files()
    folder = runtime_folder()
    since = time.time()
    with ListeningSocket(agent_path()) as listening, scratch(folder) as parts:
        async with (
            opened(agency.readers, SshCommand(), parts, patient=True) as origin,
            LocalManager([origin.source], agency.service.settings) as manager,
            Host(
                recorded(manager, agency.service),
                timing=Timing(grace=agency.grace),
                accelerate=agency.accelerate,
                software=SOFTWARE,
            ) as host,
        ):

            def describe() -> Running:
                status = manager.status
                links = [
                    Link(one.guest, "up" if one.connected else "out of reach", str(listening.path), "link", guest=one)
                    for one in host.status.guests
                ] or [Link(spelled(agency.readers), origin.states()[0], str(listening.path))]
                return Running("host", os.getpid(), since, links, status.contexts, status.readers)

            async with controllable(folder, describe):
                if ready is not None:
                    os.write(ready, b"+")
                    os.close(ready)
                await _Reception(host, agency.idle).run(listening.socket)


class _Reception:
    """Takes guests' streams, and knows when the last one left."""

    def __init__(self, host: Host, idle: float | None) -> None:
        self._host = host
        self._idle = idle
        self._left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._here = 0

    async def run(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:

            async def accept() -> None:
                while True:
                    connection, _ = await loop.sock_accept(listening)
                    tasks.create_task(self._guest(connection))

            accepting = tasks.create_task(accept())
            self._watch_idleness()
            await self._left
            accepting.cancel()

    def _watch_idleness(self) -> None:
        if self._idle is not None and not self._here and not self._left.done():
            self._timer = asyncio.get_running_loop().call_later(self._idle, self._leave)

    def _leave(self) -> None:
        if not self._host.status.guests:
            log.info("no guest for %g s: leaving", self._idle)
            self._left.set_result(None)
        else:
            self._watch_idleness()

    async def _guest(self, connection: socket.socket) -> None:
        self._here += 1
        if self._timer is not None:
            self._timer.cancel()
        try:
            with connection:
                await self._serve(connection)
        finally:
            self._here -= 1
            self._watch_idleness()

    async def _serve(self, connection: socket.socket) -> None:
        await _readable(connection)
        greeting, descriptors = _receive(connection)
        if len(descriptors) != 2:
            log.warning("a guest came without its streams")
            for descriptor in descriptors:
                os.close(descriptor)
            return
        try:
            guest = msgspec.json.decode(greeting, type=Guest)
            pipe = await open_pipe(descriptors[0], descriptors[1], guest.name)
        except (msgspec.MsgspecError, OSError) as error:
            log.warning("a guest cannot be served: %s", error)
            return
        log.info("%s comes", guest.name)
        await self._host.serve(pipe, guest.name)
        log.info("%s goes", guest.name)


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()

    def note() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(connection.fileno(), note)
    try:
        await readable
    finally:
        loop.remove_reader(connection.fileno())


def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    size = array.array("i").itemsize
    try:
        data, ancillary, _, _ = connection.recvmsg(_MAX_GREETING, socket.CMSG_LEN(2 * size), socket.MSG_CMSG_CLOEXEC)
    except OSError as error:
        log.debug("a guest went: %s", error)
        return b"", []
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % size])
    return data, list(descriptors)


def hand_over(guest: str, agency_words: list[str]) -> None:
    """Give this process's standard input and output to the agent; returns when the agent is through with them.

    Args:
        guest: who comes, for people.
        agency_words: options for the agent if it has to be started.

    Raises:
        AgentError: there is none, and none can be started.
    """
    with _reach(agency_words) as connection:
        descriptors = array.array("i", (0, 1))
        connection.sendmsg(
            [msgspec.json.encode(Guest(guest))], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors.tobytes())]
        )
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1):
            os.dup2(nothing, descriptor)
        connection.recv(1)


def _reach(agency_words: list[str]) -> socket.socket:
    path = agent_path()
    connection = _connected(path)
    if connection is None:
        _start(agency_words)
        connection = _connected(path)
    if connection is None:
        raise AgentError(f"no agent listens at {path}", "start one by hand to see what is wrong: cardferry host")
    return connection


def _connected(path: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(os.fspath(path))
    except OSError:
        connection.close()
        return None
    return connection


def _start(words: list[str]) -> None:
    """Start the agent as a process that does not end with this one; returns when it is ready or has failed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(OSError):
            os.setsid()
            if os.fork() == 0:
                _become_agent(words, reading, writing)
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as news:
        os.set_blocking(news.fileno(), True)
        news.read(1)  # a byte when it is ready, the end when it is not


def _become_agent(words: list[str], reading: int, writing: int) -> None:
    os.close(reading)
    os.set_inheritable(writing, True)
    nothing = os.open(os.devnull, os.O_RDWR)
    log_file = os.open(runtime_folder() / f"{_NAME}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for descriptor, target in ((nothing, 0), (nothing, 1), (log_file, 2)):
        os.dup2(descriptor, target)
    os.chdir("/")
    command = [sys.executable, "-m", "cardferry", "host", "--idle", f"{IDLE:g}", "--ready", str(writing), *words]
    os.execv(command[0], command)  # noqa: S606 - this very program


def guest_name(environ: dict[str, str]) -> str:
    """Who comes, from what sshd tells: the address of the other side."""
    address = environ.get("SSH_CONNECTION", "").partition(" ")[0]
    return address or "a guest on this computer"


__all__ = ["Agency", "AgentError", "SocketInUseError", "agent_path", "guest_name", "hand_over", "serve"]
