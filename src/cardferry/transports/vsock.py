"""Pipes between a virtual machine and the computer it runs on (``vsock://CID:PORT``, Linux ``vsock(7)``).

No network, no addresses to configure: the hypervisor gives each machine a number, its CID, which no program inside
can change. So a listener knows which machine calls, and `listen` takes those that it is told to take. What the
machine's own users may do is not decided here: whoever can open sockets there can call.

Event loops know nothing of this family of addresses, but a connected stream is a stream: the socket is made and
connected here, and the loop gets its descriptor under the name of a Unix socket.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Self, cast

from cardferry.transports.errors import TransportError
from cardferry.transports.unix import SocketPipe

#: ``VMADDR_CID_ANY``: to listen for all.
ANY: Final = 0xFFFF_FFFF
#: ``VMADDR_CID_LOCAL``: this computer itself, where the kernel has ``vsock_loopback``.
LOOPBACK: Final = 1
#: ``VMADDR_CID_HOST``: the computer that this machine runs on.
HOST: Final = 2
_NAMES: Final = {"any": ANY, "local": LOOPBACK, "host": HOST}
_ADDRESS: Final = re.compile(r"(?P<cid>[a-z]+|[0-9]+):(?P<port>[0-9]+)")
#: Ports and CIDs are 32 bits; the largest number of each means "any".
_LARGEST: Final = 0xFFFF_FFFE
_BACKLOG: Final = 128

_HINTS: Final = {
    errno.EAFNOSUPPORT: "this kernel has no vsock: modprobe vsock",
    errno.ENODEV: "no such machine: see its CID (vhost-vsock-pci,guest-cid= of QEMU); this one is host (2) to it",
    errno.EADDRNOTAVAIL: "this computer has no such CID: to listen, use any",
    errno.ECONNRESET: "nobody listens at this port over there",
    errno.ETIMEDOUT: "nobody answers: is the machine running, and has it this CID?",
    errno.EADDRINUSE: "another program listens at this port",
    errno.EACCES: "ports below 1024 are for root",
}

#: Makes an unconnected socket.
MakeSocket = Callable[[], socket.socket]


class VsockError(TransportError):
    """There is no way through vsock."""

    exit_code = 33


@dataclass(frozen=True, slots=True)
class VsockAddress:
    """A port of a machine.

    Attributes:
        cid: the machine, see `ANY`, `LOOPBACK` and `HOST`.
        port: 0 to 4294967294; below 1024 for root.
    """

    cid: int
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``CID:PORT``; instead of a CID ``host``, ``local`` or ``any``. Raises `ValueError`."""
        match = _ADDRESS.fullmatch(text)
        if match is None:
            raise ValueError(f"not CID:PORT: {text!r}")
        cid = int(match["cid"]) if match["cid"].isdigit() else _NAMES.get(match["cid"])
        port = int(match["port"])
        if cid is None or cid > ANY or port > _LARGEST:
            raise ValueError(f"not CID:PORT: {text!r}")
        return cls(cid, port)

    def __str__(self) -> str:
        return f"vsock://{'any' if self.cid == ANY else self.cid}:{self.port}"


class VsockPipe(SocketPipe):
    """A pipe to another machine.

    Args:
        name: where it leads; empty is taken from the address of the other end.
        connected: called when the socket is ready.
        refused: whether a machine of that CID may not call.

    Attributes:
        cid: of the machine at the other end, where it called us; None otherwise.
    """

    def __init__(
        self,
        name: str = "",
        connected: Callable[[VsockPipe], None] | None = None,
        refused: Callable[[int | None], bool] = lambda _cid: False,
    ) -> None:
        super().__init__(name)
        self.cid: int | None = None
        self._taken = connected
        self._refused = refused

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is ready."""
        super().connection_made(transport)
        if self._taken is None:
            return
        peer: Any = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.cid = peer[0]
            self.name = str(VsockAddress(peer[0], peer[1]))
        if self._refused(self.cid):
            self.abort()
        else:
            self._taken(self)


def vsock_socket() -> socket.socket:
    """A new stream socket. Raises `OSError` where the kernel has no vsock."""
    return socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)


async def dial(address: VsockAddress, make_socket: MakeSocket = vsock_socket) -> VsockPipe:
    """Connect to a port of a machine.

    Raises:
        VsockError: it cannot be reached, with a hint.
    """
    loop = asyncio.get_running_loop()
    try:
        connection = make_socket()
    except OSError as error:
        raise _explained(address, error) from error
    try:
        await _connect(connection, address)
    except OSError as error:
        connection.close()
        raise _explained(address, error) from error
    except asyncio.CancelledError:
        connection.close()
        raise
    _, pipe = await loop.create_unix_connection(lambda: VsockPipe(str(address)), sock=as_unix(connection))
    return pipe


async def _connect(connection: socket.socket, address: VsockAddress) -> None:
    """``connect``, without blocking the loop; the kernel gives up after 2 s."""
    loop = asyncio.get_running_loop()
    connection.setblocking(False)
    try:
        connection.connect((address.cid, address.port))
    except BlockingIOError:
        done = asyncio.Event()
        loop.add_writer(connection, done.set)
        try:
            await done.wait()
        finally:
            loop.remove_writer(connection)
        if code := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, os.strerror(code)) from None


def bound(address: VsockAddress, make_socket: MakeSocket = vsock_socket) -> socket.socket:
    """A socket that listens at an address; raises `VsockError`."""
    try:
        listening = make_socket()
    except OSError as error:
        raise _explained(address, error) from error
    try:
        listening.bind((address.cid, address.port))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise _explained(address, error) from error
    return listening


@asynccontextmanager
async def listen(
    listening: socket.socket, accepted: Callable[[VsockPipe], None], allowed: Collection[int] | None = None
) -> AsyncIterator[None]:
    """Accept connections for the block; ``accepted`` gets each, and must end it sooner or later.

    Args:
        listening: made by `bound`; it is closed at the end of the block.
        accepted: what to do with a new pipe.
        allowed: the CIDs of the machines that may call, None for all.
    """

    def refused(cid: int | None) -> bool:
        return allowed is not None and cid not in allowed

    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(lambda: VsockPipe("", accepted, refused), sock=as_unix(listening))
    try:
        yield
    finally:
        server.close()


def as_unix(connection: socket.socket) -> socket.socket:
    """The same socket, for a loop that takes only families it knows."""
    connection.setblocking(False)
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, connection.detach())


def _explained(address: VsockAddress, error: OSError) -> VsockError:
    hint = _HINTS.get(cast(int, error.errno), "see vsock(7)")
    return VsockError(f"no way through {address}: {error.strerror or error}", hint)
