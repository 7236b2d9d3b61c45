"""``tls://HOST:PORT``: how it is written, dialled and listened at."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Self
from urllib.parse import parse_qsl, quote

from cardferry.transports.base import ASK_STATUS, HOW_TO_JOIN, Address, Listener, Pipe
from cardferry.transports.errors import AddressSyntaxError, TransportError
from cardferry.transports.sockets import Access

if TYPE_CHECKING:
    import ssl

    from cardferry.transports.tls.identity import Pki
    from cardferry.transports.tls.inside import TlsInside

#: Where a host listens unless somebody says otherwise.
PORT: Final = 7764
_ADDRESS: Final = re.compile(
    r"(?P<host>[A-Za-z0-9][A-Za-z0-9._-]{0,252}|\[[0-9A-Fa-f:.]+(%[A-Za-z0-9]+)?\]|)(:(?P<port>[0-9]{1,5}))?(\?(?P<files>.*))?"
)
_FILES: Final = ("ca", "cert", "key")
_BACKLOG: Final = 512
_HINTS: Final = {
    errno.EADDRINUSE: "another program listens at this port: choose another one",
    errno.EACCES: "ports below 1024 are for root: choose another one",
    errno.EADDRNOTAVAIL: "this computer has no such address: tls::PORT listens at all that it has",
}


class NotListeningError(TransportError):
    """Nobody can come in at that address."""

    exit_code = 13


@dataclass(frozen=True, slots=True)
class TlsAddress(Address):
    """A TCP port, to be dialled or listened at.

    Attributes:
        host: name or IP address; empty to listen at all addresses.
        port: 1 to 65535.
        files: of a public key infrastructure: the authority's certificate, the own one, and its key, absolute paths;
            none where the host has an authority of its own, and guests join.
    """

    FORM: ClassVar[str] = "tls://HOST[:PORT]"
    LISTEN_FORM: ClassVar[str] = "tls::PORT for all addresses of this computer, tls:ADDRESS:PORT for one of them"

    host: str
    port: int = PORT
    files: tuple[str, str, str] | tuple[()] = ()

    @classmethod
    def parse(cls, rest: str, text: str) -> Self:
        """``//HOST:PORT``; files follow as ``?ca=PATH&cert=PATH&key=PATH``."""
        address = cls._parsed(rest)
        if address is None or not address.host:
            raise AddressSyntaxError(
                f"not a host for TLS: {text!r}", f"write it as in tls://laptop or tls://laptop:{PORT}"
            )
        return address

    @classmethod
    def parse_listening(cls, rest: str, text: str) -> Self:
        """Likewise; no host for all addresses, and the port must be there."""
        address = cls._parsed(rest) if ":" in rest.removeprefix("//").partition("?")[0] else None
        if address is None:
            raise AddressSyntaxError(f"nowhere to listen: {text!r}", f"write it as in {cls.LISTEN_FORM}")
        return address

    @classmethod
    def _parsed(cls, rest: str) -> Self | None:
        match = _ADDRESS.fullmatch(rest.removeprefix("//"))
        if match is None or not 0 < (port := int(match["port"] or PORT)) < 1 << 16:
            return None
        named = dict(parse_qsl(match["files"] or ""))
        if named and (set(named) != set(_FILES) or not all(path.startswith("/") for path in named.values())):
            return None
        host = match["host"].strip("[]").lower()
        return cls(host, port, (named["ca"], named["cert"], named["key"]) if named else ())

    @classmethod
    def joined(cls, name: str) -> Self | None:
        """The host of that name, if this computer has joined it at the usual port."""
        from cardferry.transports.tls.files import joined_folder  # noqa: PLC0415 - platformdirs

        address = cls._parsed(name)
        return address if address is not None and joined_folder(address.place).is_dir() else None

    def with_files(self, authority: str, certificate: str, key: str) -> TlsAddress:
        """The same address with these files."""
        paths = [os.path.abspath(path) for path in (authority, certificate, key)]  # noqa: PTH100 - a link stays one
        return TlsAddress(self.host, self.port, (paths[0], paths[1], paths[2]))

    def written(self, dialled: bool) -> str:
        """To be dialled, or as after ``--listen``."""
        return str(self) if dialled else f"tls:{self._host}:{self.port}{self._query}"

    def __str__(self) -> str:
        port = "" if self.port == PORT else f":{self.port}"
        return f"tls://{self._host}{port}{self._query}"

    @property
    def listening_name(self) -> str:
        """The address as after ``--listen``."""
        return self.written(False)

    @property
    def _host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def _query(self) -> str:
        named = zip(_FILES, self.files, strict=False)
        return "?" + "&".join(f"{name}={quote(path)}" for name, path in named) if self.files else ""

    @property
    def place(self) -> str:
        """Host and port, as a part of a file's name."""
        return f"{self.host}:{self.port}"

    @property
    def place_written(self) -> str:
        """Host and port, as in a URL."""
        return f"{self._host}:{self.port}"

    @property
    def pki(self) -> Pki | None:
        """The files, when there are any."""
        from cardferry.transports.tls.identity import Pki  # noqa: PLC0415 - ssl

        return Pki(Path(self.files[0]), Path(self.files[1]), Path(self.files[2])) if self.files else None

    @property
    def how_to_start(self) -> str:
        """What is to be started there, for people."""
        return f"where the reader is: cardferry host --listen tls::{self.port}"

    @property
    def how_to_come_in(self) -> str:
        """What somebody can do whom the host does not let in, for people."""
        return ASK_STATUS if self.files else HOW_TO_JOIN

    async def connect(self, using: ssl.SSLContext) -> TlsInside:
        """Connect to whoever is there; raises `TransportError`."""
        from cardferry.transports.tls.tcp import connect  # noqa: PLC0415 - ssl

        return await connect(self, using)

    def proof(self) -> object:
        """See `Address.proof`."""
        from cardferry.transports.tls.dialling import proof  # noqa: PLC0415 - ssl and cryptography

        return proof(self)

    async def dial(self) -> Pipe:
        """Connect; raises `TransportError`."""
        from cardferry.transports.tls.dialling import dial  # noqa: PLC0415 - ssl and cryptography

        return await dial(self)

    @contextmanager
    def listen(self, access: Access) -> Iterator[Listener]:
        """Listen for guests that have joined, or have a certificate of the infrastructure."""
        del access
        with self._bound() as listening:
            listener = self.listener(listening)
            yield listener

    def listener(self, listening: socket.socket) -> Listener:
        """Take who comes to the port; raises `TlsError`."""
        from cardferry.transports.tls.door import HostDoor, PkiDoor  # noqa: PLC0415 - ssl and cryptography
        from cardferry.transports.tls.files import cannot_be_written  # noqa: PLC0415
        from cardferry.transports.tls.host import own_host  # noqa: PLC0415
        from cardferry.transports.tls.listener import TlsListener  # noqa: PLC0415

        try:
            if self.pki is not None:
                door: HostDoor | PkiDoor = PkiDoor(self.pki)
            else:
                host = own_host()
                host.guests.listens = f"{self._host}:{self.port}"
                door = HostDoor(host)
            door.context()  # what is wrong with it is said now
        except OSError as error:
            raise cannot_be_written(error) from None
        return TlsListener(self.written(False), listening, door)

    def _bound(self) -> socket.socket:
        family = socket.AF_INET if self.host and ":" not in self.host else socket.AF_INET6
        try:
            if self.host:
                found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
                family, where = found[0][0], found[0][4]
            else:
                family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
                where = ("", self.port)
            listening = socket.create_server(
                where[:2], family=family, backlog=_BACKLOG, dualstack_ipv6=not self.host and family == socket.AF_INET6
            )
        except OSError as error:
            hint = _HINTS.get(error.errno or 0, "see the address, as ip addr shows those that this computer has")
            raise NotListeningError(f"cannot listen at tls:{self._host}:{self.port}: {error.strerror}", hint) from None
        listening.setblocking(False)
        return listening
