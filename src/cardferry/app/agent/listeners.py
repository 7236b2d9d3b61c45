"""Where guests come in without ssh: Unix sockets and vsock ports at which the agent takes links.

A caller is known by what the kernel says of it, and becomes a pipe once it has said hello. Until then it costs a
descriptor for a few seconds, and there are not many such: when one more comes, the one that has been silent for longest
has to go. So those who say nothing keep nobody else out.

The one who dials is `cardferry.app.hosts.direct_link`.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from cardferry.app.agent.accepting import accept
from cardferry.app.hosts.address import HostSyntaxError, socket_path
from cardferry.pcsc.caller import Principal, PrincipalKind, Program
from cardferry.system.peers import peer_credentials, process_name, user_name
from cardferry.transports import unix, vsock
from cardferry.transports.base import Pipe
from cardferry.transports.listening import Access, ListeningSocket, public_path
from cardferry.transports.vsock import ANY, MakeSocket, VsockAddress, vsock_socket
from cardferry.wire.errors import WireError
from cardferry.wire.link.frames import FrameReader, Kind, encode
from cardferry.wire.link.greeting import Bye, Reason

log = logging.getLogger(__name__)

#: s that a caller gets to say hello.
_GREETING_TIME: Final = 5.0
#: Callers that have not said hello yet, over all doors.
_MOST_SILENT: Final = 64
#: Bytes within which a hello ends.
_MOST_HELLO: Final = 4096
_NOT_WELCOME: Final = encode(Kind.BYE, 0, 0, Bye(Reason.REFUSED, "the host is not for this machine").encode())
_OPTION: Final = "--listen"
_VSOCK: Final = re.compile(r"vsock:(?://)?(?P<cid>[^:]*):(?P<port>[0-9]+)")

#: Serves the guest at the other end of a pipe until the pipe is lost, given who it is and what to call it.
Serve = Callable[[Pipe, Principal, str], Awaitable[None]]


class Known(NamedTuple):
    """Who has come: as it was proved, and in words."""

    principal: Principal
    words: str


@dataclass(frozen=True, slots=True)
class UnixDoor:
    """A socket on this computer, for whoever may write to its path."""

    path: Path


@dataclass(frozen=True, slots=True)
class VsockDoor:
    """A vsock port.

    Attributes:
        port: 0 to 4294967294; below 1024 for root.
        cid: of the only machine that may call, None for all.
    """

    port: int
    cid: int | None = None


Door = UnixDoor | VsockDoor


def parse_door(text: str) -> Door:
    """Parse what ``--listen`` is given: ``unix:PATH`` or just the path, ``vsock::PORT``, ``vsock:CID:PORT``.

    Raises:
        HostSyntaxError: it is nothing of that.
    """
    if text.startswith("/"):
        return UnixDoor(Path(text))
    if text.startswith("unix:"):
        return UnixDoor(socket_path(text.removeprefix("unix:"), text, "unix:/run/cards/link"))
    if (match := _VSOCK.fullmatch(text)) is not None:
        try:
            address = VsockAddress.parse(f"{match['cid'] or 'any'}:{match['port']}")
        except ValueError:
            pass
        else:
            return VsockDoor(address.port, None if address.cid == ANY else address.cid)
    raise HostSyntaxError(
        f"nowhere to listen: {text!r}",
        "unix:PATH, vsock::PORT for all machines, or vsock:CID:PORT for the one with that CID",
    )


@dataclass(frozen=True, slots=True)
class Entrance:
    """A door that is open.

    Attributes:
        name: as a person writes it.
        listening: where callers come.
        caller: who has come, as the kernel says, from the connection and the address that ``accept`` gives; None for
            who must not.
    """

    name: str
    listening: socket.socket
    caller: Callable[[socket.socket, Any], Known | None]


@contextmanager
def entrance(door: Door, access: Access, make_socket: MakeSocket = vsock_socket) -> Iterator[Entrance]:
    """Listen at a door for the block.

    Args:
        access: who may connect to a Unix socket.
        make_socket: makes an unconnected vsock socket.

    Raises:
        SocketInUseError: another process listens there, or it is not a socket.
        UserError: it cannot be listened at.
    """
    match door:
        case UnixDoor(path):
            path = public_path(path, access, _OPTION)
            elsewhere = f"choose another place with {_OPTION} unix:PATH"
            with ListeningSocket(path, access.mode, access.group, elsewhere) as listening:
                yield Entrance(f"unix:{path}", listening.socket, _program)
        case VsockDoor(port, cid):
            with vsock.bound(VsockAddress(ANY, port), make_socket) as listening_socket:
                listening_socket.setblocking(False)
                yield Entrance(f"vsock:{'' if cid is None else cid}:{port}", listening_socket, _machine(cid))


def _program(connection: socket.socket, _address: object) -> Known:
    pid, uid = peer_credentials(connection)
    program = Program(process_name(pid), pid, uid, proved=True)
    return Known(Principal(PrincipalKind.UNIX, user_name(uid)), str(program))


def _machine(allowed: int | None) -> Callable[[socket.socket, Any], Known | None]:
    def caller(_connection: socket.socket, address: Any) -> Known | None:
        cid = address[0] if isinstance(address, tuple) else None
        if allowed is not None and cid != allowed:
            log.warning("machine %s must not come in: turned away", cid)
            return None
        name = "unknown" if cid is None else str(cid)
        return Known(Principal(PrincipalKind.VSOCK, name), f"machine {name}")

    return caller


class Doors:
    """Takes callers at entrances; an asynchronous context manager, to be around that of who serves them.

    So that who serves says good-bye to guests before their pipes are closed here.

    Args:
        entrances: they stay the caller's to close.
    """

    def __init__(self, entrances: Sequence[Entrance]) -> None:
        self._entrances = entrances
        self._tasks = asyncio.TaskGroup()
        self._accepting: list[asyncio.Task[None]] = []
        #: Those who have not said hello, who came first in front.
        self._silent: dict[asyncio.Task[Any] | None, None] = {}

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._accepting:
            task.cancel()
        self._dismiss(0)
        await self._tasks.__aexit__(kind, error, trace)

    def open(self, serve: Serve) -> None:
        """Take callers from now on.

        Args:
            serve: gets the pipe of each, and who it is.
        """
        self._accepting = [self._tasks.create_task(self._accept(one, serve), name=one.name) for one in self._entrances]

    async def _accept(self, at: Entrance, serve: Serve) -> None:
        def take(connection: socket.socket, address: object) -> None:
            visit = self._tasks.create_task(self._visit(vsock.as_unix(connection), address, at, serve))
            self._silent[visit] = None
            self._dismiss(_MOST_SILENT)

        await accept(at.listening, at.name, take, lambda: self._dismiss(0))

    def _dismiss(self, most: int) -> None:
        """Let go of those who have been silent for longest, until there are ``most`` of them."""
        while len(self._silent) > most:
            oldest = next(iter(self._silent))
            del self._silent[oldest]
            if oldest is not None:
                oldest.cancel()

    async def _visit(self, connection: socket.socket, address: object, at: Entrance, serve: Serve) -> None:
        came: tuple[Pipe, Principal, str] | None = None
        try:
            try:
                came = await _let_in(connection, address, at)
            finally:
                self._silent.pop(asyncio.current_task(), None)
            if came is not None:
                await serve(*came)
        except Exception:  # a bug behind one caller is nobody else's
            log.exception("%s: a bug behind a caller", at.name)
            if came is not None:
                came[0].abort()
            else:
                connection.close()


async def _let_in(connection: socket.socket, address: object, at: Entrance) -> tuple[Pipe, Principal, str] | None:
    """A pipe to a caller, and who it is, once it has said something; None when it is nobody to talk to."""
    with ExitStack() as stack:
        stack.enter_context(connection)
        who = at.caller(connection, address)
        if who is None:
            with suppress(OSError):  # it may have gone
                connection.send(_NOT_WELCOME)
            return None
        try:
            async with asyncio.timeout(_GREETING_TIME):
                said = await _first_words(connection)
        except OSError as error:
            log.debug("%s at %s has gone, or has said nothing: %s", who.words, at.name, error)
            return None
        if not said:
            return None
        pipe = await unix.adopt(connection, f"{who.words} at {at.name}", said)
        stack.pop_all()  # it is the pipe's now
        return pipe, who.principal, who.words


async def _first_words(connection: socket.socket) -> bytes:
    """What a caller says up to the end of its first frame; empty when there is no such end.

    What is no frame is given back as well: who serves says what is wrong with it.
    """
    loop = asyncio.get_running_loop()
    reader = FrameReader()
    said = b""
    while len(said) <= _MOST_HELLO and (data := await loop.sock_recv(connection, _MOST_HELLO)):
        said += data
        try:
            if reader.receive(data):
                return said
        except WireError:
            return said
    return b""
