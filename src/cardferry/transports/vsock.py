"""Pipes between a virtual machine and the computer it runs on (``vsock://CID:PORT``, Linux ``vsock(7)``).

No network, no addresses to configure: the hypervisor gives each machine a number, its CID, which no program inside
can change. So a listener knows which machine calls, and may be there for one of them alone. What the machine's own
users may do is not decided here: whoever can open sockets there can call.

Event loops know nothing of this family of addresses, but a connected stream is a stream: the socket is made and
connected here, and the loop gets its descriptor under the name of a Unix socket.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self, cast

from cardferry.pcsc.caller import Principal, PrincipalKind
from cardferry.transports.base import Address
from cardferry.transports.errors import AddressSyntaxError, TransportError
from cardferry.transports.sockets import Access
from cardferry.transports.unix import Identity, SocketListener, SocketPipe, adopt, as_unix

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


class VsockError(TransportError):
    """There is no way through vsock."""

    exit_code = 33


@dataclass(frozen=True, slots=True)
class VsockAddress(Address):
    """A port of a machine, to be dialled; or of this computer, to listen for that machine.

    Attributes:
        cid: the machine at the other end, see `ANY`, `LOOPBACK` and `HOST`; to listen for all it is `ANY`.
        port: 0 to 4294967294; below 1024 for root.
    """

    FORM: ClassVar[str] = "vsock://CID:PORT"
    LISTEN_FORM: ClassVar[str] = "vsock::PORT for all machines, vsock:CID:PORT for the one with that CID"

    cid: int
    port: int

    @classmethod
    def parse(cls, rest: str, text: str) -> Self:
        """``CID:PORT``, perhaps behind ``//``; the CID can be ``host`` or ``local``."""
        hint = "write it as in vsock://2:35960; 2 is the computer that a virtual machine runs on"
        address = cls._parsed(rest)
        if address is None:
            raise AddressSyntaxError(f"not a port of a machine: {text!r}", hint)
        if address.cid == ANY:
            raise AddressSyntaxError(f"not a port of one machine: {text!r}", hint)
        return address

    @classmethod
    def parse_listening(cls, rest: str, text: str) -> Self:
        """Likewise; no CID, or ``any``, for all machines."""
        address = cls._parsed(f"any{rest}" if rest.startswith(":") else rest)
        if address is None:
            raise AddressSyntaxError(f"nowhere to listen: {text!r}", f"write it as in {cls.LISTEN_FORM}")
        return address

    @classmethod
    def _parsed(cls, rest: str) -> Self | None:
        match = _ADDRESS.fullmatch(rest.removeprefix("//"))
        if match is None:
            return None
        cid = int(match["cid"]) if match["cid"].isdigit() else _NAMES.get(match["cid"])
        port = int(match["port"])
        return None if cid is None or cid > ANY or port > _LARGEST else cls(cid, port)

    def __str__(self) -> str:
        return f"vsock://{'any' if self.cid == ANY else self.cid}:{self.port}"

    @property
    def listening_name(self) -> str:
        """The address as after ``--listen``."""
        return f"vsock:{'' if self.cid == ANY else self.cid}:{self.port}"

    async def dial(self) -> SocketPipe:
        """Connect; raises `VsockError`."""
        try:
            connection = vsock_socket()
        except OSError as error:
            raise _explained(self, error) from error
        try:
            await _connect(connection, self)
        except OSError as error:
            connection.close()
            raise _explained(self, error) from error
        except asyncio.CancelledError:
            connection.close()
            raise
        return await adopt(as_unix(connection), str(self))

    @contextmanager
    def listen(self, access: Access) -> Iterator[SocketListener]:
        """Listen for the machine, or for all of them; whose users may call is not decided here."""
        del access
        with _listening(VsockAddress(ANY, self.port)) as listening:
            yield self.listener(listening)

    def listener(self, listening: socket.socket) -> SocketListener:
        """Take who comes to the port."""
        name = self.listening_name
        return SocketListener(name, listening, self._identify)

    def _identify(self, _connection: socket.socket, address: Any) -> Identity:
        cid = address[0] if isinstance(address, tuple) else None
        name = "unknown" if cid is None else str(cid)
        refusal = "" if self.cid in (ANY, cid) else "the host is not for this machine"
        return Identity(Principal(PrincipalKind.VSOCK, name), f"machine {name}", refusal)


def vsock_socket() -> socket.socket:
    """A new stream socket. Raises `OSError` where the kernel has no vsock."""
    return socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)


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


def _listening(address: VsockAddress) -> socket.socket:
    """A non-blocking socket that listens at an address; raises `VsockError`."""
    try:
        listening = vsock_socket()
    except OSError as error:
        raise _explained(address, error) from error
    try:
        listening.bind((address.cid, address.port))
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise _explained(address, error) from error
    return listening


def _explained(address: VsockAddress, error: OSError) -> VsockError:
    hint = _HINTS.get(cast(int, error.errno), "see vsock(7)")
    return VsockError(f"no way through {address}: {error.strerror or error}", hint)
