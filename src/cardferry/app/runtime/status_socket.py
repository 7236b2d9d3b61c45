"""How ``status``, ``readers``, ``run`` and ``env`` find what runs: a control socket for each long-running command.

It lies in the runtime folder as ``PID.ctl``, private like everything there. A connection gets one line, a `Running` in
JSON, and is closed. A control socket that nobody listens on was left by a killed process and is removed by
whoever finds it. The service of the whole computer has one for all accounts (`SYSTEM_STATUS`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from inspect import isawaitable
from pathlib import Path
from typing import Any, Final

import msgspec

from cardferry.app.runtime import ascii_json
from cardferry.app.runtime.paths import SYSTEM_STATUS
from cardferry.app.runtime.silent import silence, silent_hint
from cardferry.app.runtime.system_service import RESTART
from cardferry.link import GuestStatus
from cardferry.link.host_status import HostSessionStatus
from cardferry.manager.status import SlotStatus
from cardferry.pcsc.interface import ResourceManager
from cardferry.transports.folders import locked
from cardferry.transports.listening import ListeningSocket, listener

log = logging.getLogger(__name__)

_SUFFIX: Final = ".ctl"
_SERVING: Final = ("attach", "guest")
#: Seconds that a process of ours gets to answer.
_ANSWER_TIME: Final = 2.0
#: Bytes of the longest answer that is read.
_MAX_ANSWER: Final = 16 << 20


#: The state of a computer whose readers nobody has asked for.
NOT_IN_USE: Final = "not in use"


class Link(msgspec.Struct, frozen=True):
    """A computer that a command is connected to.

    Attributes:
        host: as the user wrote it.
        state: ``up``, `NOT_IN_USE`, or why it is down.
        socket: where applications connect: here for ``attach``, over there for ``share``; empty while there is none.
        way: ``link`` when cardferry is at both ends, ``forwarding`` when only sshd is there, empty for this computer,
            and before it is known.
        link: how the link does, seen from its guest's end; None without one.
        guest: how the link does, seen from its host's end; None without one.
        over: what carries a link to an ssh host now: ``ssh``, or ``direct`` for a connection of its own beside that.
        pool: of which it is a member, empty for none.
        readers: of a member of a pool: its readers that are in it.
    """

    host: str
    state: str
    socket: str
    way: str = ""
    link: GuestStatus | None = None
    guest: HostSessionStatus | None = None
    over: str = ""
    pool: str = ""
    readers: list[SlotStatus] = []


class TroubleStatus(msgspec.Struct, frozen=True):
    """What keeps readers away; see `cardferry.pcsc.trouble.Trouble`.

    Attributes:
        host: the computer at which it is so, empty for this one.
        cause: the name of a `Cause`, in lower case.
        says: what is wrong.
        hint: what to do about it, empty when that is not known.
    """

    host: str
    cause: str
    says: str
    hint: str


def troubles_of(manager: ResourceManager) -> list[TroubleStatus]:
    """What keeps readers away from those whom a manager serves."""
    return [
        TroubleStatus(trouble.host, trouble.cause.name.lower(), str(trouble), trouble.hint)
        for trouble in manager.snapshot.troubles
    ]


class Running(msgspec.Struct, frozen=True):
    """What one long-running command tells about itself.

    Attributes:
        command: ``attach``, ``share``, ``host`` (the agent), ``guest`` (the far end of somebody's share), or ``system``
            (the service of the whole computer).
        pid: process id.
        since: when it started, in s since 1970.
        links: the computers it is connected to.
        contexts: how many PC/SC contexts applications have open.
        readers: each reader, its card and who uses it.
        agent: process id of the agent that serves the readers, 0 where they are served by the command itself. What two
            commands with the same agent tell of a reader is one and the same.
        troubles: why there are no readers, or not those of some host.
        remembered: bytes of what the readers' cards have said before, for guests.
        listens: where guests come in besides, as after ``--listen``.
        asks: how the person at this computer is asked for PINs and permission now, the first way first; empty where no
            rule wants that.
    """

    command: str
    pid: int
    since: float
    links: list[Link]
    contexts: int
    readers: list[SlotStatus]
    agent: int = 0
    troubles: list[TroubleStatus] = []
    remembered: int = 0
    asks: list[str] = []
    listens: list[str] = []

    @property
    def serves(self) -> bool:
        """Whether programs on this computer use readers through it."""
        return self.command in _SERVING

    @property
    def hosts(self) -> str:
        """All hosts, as on the command line."""
        return " ".join(link.host for link in self.links if not link.pool)

    @property
    def socket(self) -> str:
        """Where applications connect, of an ``attach``."""
        return self.links[0].socket


_ANSWER: Final[Any] = Running | None


@asynccontextmanager
async def controllable(
    folder: Path, describe: Callable[[], Running | Awaitable[Running | None] | None]
) -> AsyncIterator[None]:
    """Answer those who ask for the duration of the block.

    Args:
        folder: the runtime folder.
        describe: called for each answer; None when there is nothing to tell of.
    """

    _sweep(folder)
    with ListeningSocket(folder / f"{os.getpid()}{_SUFFIX}") as listening:
        async with answering(listening, lambda connection: describe()):
            yield


@asynccontextmanager
async def answering(
    listening: ListeningSocket, describe: Callable[[socket.socket], Running | Awaitable[Running | None] | None]
) -> AsyncIterator[None]:
    """Likewise, at any socket.

    Args:
        describe: called with each connection.
    """

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        described = describe(writer.get_extra_info("socket"))
        if isawaitable(described):
            described = await described
        writer.write(ascii_json.encode(described).encode() + b"\n")
        try:
            await writer.drain()
        except ConnectionError as error:
            log.debug("somebody asked and went: %s", error)
        finally:
            writer.close()

    server = await asyncio.start_unix_server(answer, sock=listening.socket)
    try:
        yield
    finally:
        server.close()


def _warn(says: str, hint: str) -> None:
    log.warning("%s; %s", says, hint)


def running(folder: Path, silent: Callable[[str, str], None] = _warn) -> list[Running]:
    """Ask everything that runs for this user, oldest first; remove control sockets that are dead.

    Args:
        folder: the runtime folder.
        silent: is told of a process that does not answer, and what to do about it.
    """
    found = [answer for path in sorted(folder.glob("*" + _SUFFIX)) if (answer := _ask(path, silent)) is not None]
    return sorted(found, key=lambda one: (one.since, one.pid))


def all_running(folder: Path, silent: Callable[[str, str], None] = _warn) -> list[Running]:
    """Likewise, and the service of the whole computer, as far as it tells this account."""
    system = system_running(silent)
    return running(folder, silent) + ([] if system is None else [system])


def system_running(silent: Callable[[str, str], None] = _warn, path: Path = SYSTEM_STATUS) -> Running | None:
    """Ask the service of the whole computer (``setup system``); None where there is none."""
    try:
        ours = path.stat().st_uid == 0
    except OSError:
        return None
    return _ask(path, silent) if ours else None


def _ask(path: Path, silent: Callable[[str, str], None]) -> Running | None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_ANSWER_TIME)
        try:
            connection.connect(os.fspath(path))
            answer: Running | None = ascii_json.decode(_read(connection), _ANSWER)
            return answer
        except ConnectionRefusedError:
            _remove_dead(path)
        except (OSError, ValueError) as error:
            pid = int(path.stem) if path.stem.isdecimal() else 0
            if not pid:
                silent(f"the service of this computer does not answer: {error}", RESTART)
                return None
            silent(f"process {path.stem} {silence(pid)}: {error}", silent_hint(pid))
    return None


def _sweep(folder: Path) -> None:
    for path in folder.glob("*" + _SUFFIX):
        _remove_dead(path)


def _remove_dead(path: Path) -> None:
    """Remove a socket that nobody listens on; one that is just being made is under the same lock."""
    with suppress(OSError), locked(path.parent):  # it does no harm where nothing can be changed now
        if path.is_socket() and listener(path) is None:
            path.unlink(missing_ok=True)


def _read(connection: socket.socket) -> bytes:
    deadline = time.monotonic() + _ANSWER_TIME
    answer = bytearray()
    while piece := connection.recv(1 << 16):
        answer += piece
        if len(answer) > _MAX_ANSWER or time.monotonic() > deadline:
            raise OSError("the answer does not end")
    return bytes(answer)
