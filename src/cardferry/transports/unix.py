"""Pipes over Unix sockets (``unix:PATH``), and over any other connected stream socket.

The kernel says who is at the other end of a Unix socket, so access is decided by the rights of the path.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, NoReturn, Self, cast

from cardferry.pcsc.caller import Principal, PrincipalKind, Program
from cardferry.system.peers import peer_credentials, process_name, user_name
from cardferry.transports.accepting import accept
from cardferry.transports.base import HIGH_WATER, Address, Arrival, PipeUser
from cardferry.transports.delivery import Delivery
from cardferry.transports.errors import NoHostError, NotCardferryError, TransportError
from cardferry.transports.listening import ListeningSocket, listener, public_path
from cardferry.transports.probe import speaks_pcsclite
from cardferry.transports.sockets import Access, absolute_path, check_size, connected
from cardferry.wiping import Receiver


class SocketPipe(Receiver):
    """A connected stream socket, as asyncio's protocol on one side and a pipe on the other.

    Args:
        name: where it leads.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._transport: asyncio.Transport
        self._delivery: Delivery

    # what asyncio tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is ready; nothing more is read before there is a user."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        self._delivery = Delivery(self._transport.pause_reading, self._transport.resume_reading)
        self._transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        self._delivery.received(data)

    def pause_writing(self) -> None:
        """The other end does not keep up."""
        self._delivery.congested(True)

    def resume_writing(self) -> None:
        """It has caught up."""
        self._delivery.congested(False)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        if isinstance(exc, OSError):
            self._read_rest()
        self._delivery.lost(exc)

    def _read_rest(self) -> None:
        """A write has failed, perhaps because the other end has gone: its last words are still to be read."""
        with suppress(OSError), socket.socket(fileno=os.dup(self._transport.get_extra_info("socket").fileno())) as rest:
            while size := rest.recv_into(self.get_buffer(-1)):
                self.buffer_updated(size)

    # what the user asks

    def start(self, user: PipeUser) -> None:
        """Give the pipe its user."""
        self._delivery.start(user)

    def write(self, data: bytes) -> None:
        """Send bytes."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def pause_reading(self) -> None:
        """Deliver nothing for now."""
        self._delivery.pause()

    def resume_reading(self) -> None:
        """Deliver again."""
        self._delivery.resume()

    def close(self) -> None:
        """Deliver what was written, then end."""
        self._transport.close()

    def abort(self) -> None:
        """End now."""
        self._transport.abort()


async def dial(path: Path) -> SocketPipe:
    """Connect to the socket at ``path``; raises `OSError` as `connected` does."""
    loop = asyncio.get_running_loop()
    _, pipe = await loop.create_unix_connection(lambda: SocketPipe(f"unix:{path}"), sock=connected(path))
    return pipe


async def adopt(connection: socket.socket, name: str) -> SocketPipe:
    """A pipe over a connected stream socket, which becomes the pipe's.

    Args:
        name: where it leads.
    """
    loop = asyncio.get_running_loop()
    _, pipe = await loop.connect_accepted_socket(lambda: SocketPipe(name), connection)
    return pipe


class Identity(NamedTuple):
    """Who is at the other end of a connection.

    Attributes:
        principal: as this computer has proved it.
        name: likewise, in words.
        refusal: why it must not come in; empty when it may.
    """

    principal: Principal
    name: str
    refusal: str = ""


class SocketListener:
    """Takes the connections of a listening stream socket as pipes.

    Args:
        name: the address.
        listening: bound, listening and non-blocking; it stays the caller's to close.
        identify: who has come, from the connection and the address that ``accept`` gives.
    """

    def __init__(self, name: str, listening: socket.socket, identify: Callable[[socket.socket, Any], Identity]) -> None:
        self.name = name
        self.socket = listening
        self._identify = identify

    async def run(self, take: Callable[[Arrival], None], shortage: Callable[[], None] = lambda: None) -> NoReturn:
        """Take all who come, until cancelled; see `cardferry.transports.base.Listener`."""

        async def taken(connection: socket.socket, address: object) -> None:
            principal, name, refusal = self._identify(connection, address)
            take(Arrival(await adopt(as_unix(connection), f"{name} at {self.name}"), principal, name, refusal))

        await accept(self.socket, self.name, taken, shortage)


def as_unix(connection: socket.socket) -> socket.socket:
    """The same socket, for an event loop that takes only families it knows."""
    connection.setblocking(False)
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, connection.detach())


def _program(connection: socket.socket, _address: object) -> Identity:
    pid, uid = peer_credentials(connection)
    program = Program(process_name(pid), pid, uid, proved=True)
    return Identity(Principal(PrincipalKind.UNIX, user_name(uid)), str(program))


@dataclass(frozen=True, slots=True)
class UnixAddress(Address):
    """A socket in the file system of this computer."""

    FORM: ClassVar[str] = "unix:PATH"
    LISTEN_FORM: ClassVar[str] = "unix:PATH"

    path: Path

    @classmethod
    def parse(cls, rest: str, text: str) -> Self:
        """The absolute path after ``unix:``."""
        return cls(absolute_path(rest, text, "unix:/run/cards/link"))

    def __str__(self) -> str:
        return f"unix:{self.path}"

    async def dial(self) -> SocketPipe:
        """Connect; raises `NoHostError`, or `PathUnusableError`."""
        check_size(
            self.path,
            "where the reader is, choose a shorter one with --listen; here, mount its folder at a shorter one",
        )
        try:
            return await dial(self.path)
        except OSError as error:
            raise self._nobody(error) from error

    def _nobody(self, error: OSError) -> NoHostError:
        path = self.path
        start = f"cardferry host --listen {shlex.quote(str(self))}"
        match error:
            case FileNotFoundError() | NotADirectoryError():
                hint = f"where {path.parent} comes from another system, see that it is mounted"
                return NoHostError(f"there is no socket at {path}", f"where the reader is: {start}; {hint}")
            case PermissionError():
                return NoHostError(
                    f"this account may not use {path}",
                    f"see ls -l {shlex.quote(str(path))}; the host's --mode and --group say who may",
                )
            case BlockingIOError():
                return NoHostError(
                    f"the queue of connections at {path} is full: who listens there takes none",
                    "see whether that process is stopped or very busy, and start it anew if it is",
                )
            case _ if path.exists() and not path.is_socket():
                return NoHostError(f"{path} is not a socket", f"name another path, where the reader is: {start}")
        return NoHostError(f"nobody listens at {path}: {error.strerror or error}", f"where the reader is: {start}")

    @contextmanager
    def listen(self, access: Access) -> Iterator[SocketListener]:
        """Listen for whoever may write to the path."""
        path = public_path(self.path, access, "--listen")
        elsewhere = "choose another place with --listen unix:PATH"
        with ListeningSocket(path, access.mode, access.group, elsewhere) as listening:
            yield UnixAddress(path).listener(listening.socket)

    def listener(self, listening: socket.socket) -> SocketListener:
        """Take who comes to a socket at the path."""
        return SocketListener(str(self), listening, _program)

    def who(self) -> str:
        """The program that listens, as the kernel says."""
        return f"{listener(self.path) or 'who listened'} at {self.path}"

    async def stranger(self) -> TransportError | None:
        """A pcscd, perhaps, which can be used as such."""
        if not await speaks_pcsclite(self.path):
            return None
        return NotCardferryError(
            f"{self.who()} speaks pcsc-lite's protocol, and not that of links",
            f"use it as what it is: pcscd:{self.path}",
        )
