"""``fleet:NAME``: how it is written, dialled and listened at.

Links are at subjects that name host and guest (`cardferry.transports.nats.subjects`); so those who run NATS can say
for each of its users what it may do.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Self
from urllib.parse import parse_qsl, quote

from cardferry.transports.base import ASK_STATUS, HOW_TO_JOIN, Address, Pipe
from cardferry.transports.errors import AddressSyntaxError
from cardferry.transports.nats.settings import (
    NAME,
    NAME_HINT,
    FleetSettings,
    checked_name,
    parse_label,
    parse_servers,
)
from cardferry.transports.sockets import Access

if TYPE_CHECKING:
    import ssl

    from cardferry.transports.nats.listener import NatsListener
    from cardferry.transports.tls.identity import Pki
    from cardferry.transports.tls.inside import TlsInside

_ADDRESS: Final = re.compile(r"(?P<name>[^?/]+)(\?(?P<query>.*))?")
_FILES: Final = ("ca", "cert", "key")
_SERVERS, _LABEL = "servers", "label"


@dataclass(frozen=True, slots=True)
class FleetAddress(Address):
    """A host of a fleet by its name, to be dialled; or this computer under that name.

    Attributes:
        name: of the host.
        servers: NATS servers that were named with it; empty for those of ``settings``.
        files: as in `TlsAddress`.
        labels: of this computer, where it listens.
        settings: where the NATS service is, and how it lets us in; what the configuration says.
    """

    FORM: ClassVar[str] = "fleet:NAME"
    LISTEN_FORM: ClassVar[str] = "fleet:NAME, as which this computer is in the fleet"
    GREETING: ClassVar[float] = 10.0

    name: str
    servers: tuple[str, ...] = ()
    files: tuple[str, str, str] | tuple[()] = ()
    labels: tuple[tuple[str, str], ...] = ()
    settings: FleetSettings = field(default_factory=FleetSettings, compare=False)

    @classmethod
    def parse(cls, rest: str, text: str) -> Self:
        """``NAME``; servers and files follow as ``?servers=URL,URL&ca=PATH&cert=PATH&key=PATH``."""
        match = _ADDRESS.fullmatch(rest)
        if match is None or not NAME.fullmatch(match["name"]):
            raise AddressSyntaxError(f"not a host of a fleet: {text!r}", f"write it as in fleet:LAB-7; {NAME_HINT}")
        query = parse_qsl(match["query"] or "")
        labels = tuple(parse_label(value) for key, value in query if key == _LABEL)
        named = {key: value for key, value in query if key != _LABEL}
        servers = parse_servers(given) if (given := named.pop(_SERVERS, "")) else ()
        if named and (set(named) != set(_FILES) or not all(path.startswith("/") for path in named.values())):
            raise AddressSyntaxError(
                f"not a host of a fleet: {text!r}", "write it as in fleet:LAB-7?servers=nats://nats.example.org:4222"
            )
        return cls(match["name"], servers, (named["ca"], named["cert"], named["key"]) if named else (), labels)

    @classmethod
    def here(
        cls, settings: FleetSettings, name: str | None, servers: tuple[str, ...], labels: tuple[str, ...]
    ) -> FleetAddress:
        """This computer in a fleet.

        Args:
            name, servers, labels: as the command line has them; what it does not name is in ``settings``.

        Raises:
            AddressSyntaxError: one of them is none.
        """
        named = checked_name(name) if name is not None else settings.token
        said = {**settings.labels, **dict(map(parse_label, labels))}
        return cls(named, servers, (), tuple(sorted(said.items())))

    def with_files(self, authority: str, certificate: str, key: str) -> FleetAddress:
        """The same address with these files."""
        paths = [str(Path(path).absolute()) for path in (authority, certificate, key)]
        return replace(self, files=(paths[0], paths[1], paths[2]))

    def at(self, servers: tuple[str, ...]) -> FleetAddress:
        """The same address at these servers, if there are any."""
        return replace(self, servers=servers) if servers else self

    def knowing(self, settings: FleetSettings) -> FleetAddress:
        """The same address, with what the configuration says."""
        return replace(self, settings=settings)

    def __str__(self) -> str:
        query = [f"{_SERVERS}={quote(','.join(self.servers), safe='/:,')}"] if self.servers else []
        query += [f"{_LABEL}={key}%3D{value}" for key, value in self.labels]
        query += [f"{name}={quote(path)}" for name, path in zip(_FILES, self.files, strict=False)]
        return f"fleet:{self.name}" + (f"?{'&'.join(query)}" if query else "")

    @property
    def place(self) -> str:
        """A part of a file's name."""
        return f"fleet:{self.name}"

    @property
    def pki(self) -> Pki | None:
        """The files, when there are any."""
        from cardferry.transports.tls.identity import Pki  # noqa: PLC0415 - ssl

        return Pki(Path(self.files[0]), Path(self.files[1]), Path(self.files[2])) if self.files else None

    @property
    def how_to_start(self) -> str:
        """What is to be started there, for people."""
        return f"where the reader is: cardferry host --fleet --fleet-name {self.name}"

    @property
    def service(self) -> FleetSettings:
        """The NATS service: of the address, of the configuration, or of the line with which the host was joined."""
        from cardferry.transports.tls.files import joined_folder  # noqa: PLC0415 - platformdirs

        servers = self.servers or self.settings.servers
        if not servers:
            try:
                servers = parse_servers((joined_folder(self.place) / _SERVERS).read_text())
            except (OSError, UnicodeDecodeError, AddressSyntaxError):
                servers = ()
        return self.settings.at(servers)

    def remember(self) -> None:
        """Keep the servers beside what joining has brought; raises `OSError`."""
        from cardferry.private_file import write_private  # noqa: PLC0415
        from cardferry.transports.tls.files import joined_folder  # noqa: PLC0415 - platformdirs

        if self.servers:
            write_private(joined_folder(self.place) / _SERVERS, ",".join(self.servers).encode())

    def who(self) -> str:
        """Who is at the other end."""
        return f"{self.name} in the fleet"

    @property
    def how_to_come_in(self) -> str:
        """What somebody can do whom the host does not let in, for people."""
        return ASK_STATUS if self.files else HOW_TO_JOIN

    async def connect(self, using: ssl.SSLContext) -> TlsInside:
        """Connect to the host; raises `TransportError`."""
        from cardferry.transports.nats.dialling import connect_to  # noqa: PLC0415 - an extra

        return await connect_to(self, using)

    def proof(self) -> object:
        """See `Address.proof`."""
        from cardferry.transports.tls.dialling import proof  # noqa: PLC0415 - ssl and cryptography

        return proof(self)

    async def dial(self) -> Pipe:
        """Connect; raises `TransportError`."""
        from cardferry.transports.nats.connection import check_extra  # noqa: PLC0415 - an extra
        from cardferry.transports.tls.dialling import dial  # noqa: PLC0415 - ssl and cryptography

        check_extra()
        return await dial(self)

    @contextmanager
    def listen(self, access: Access) -> Iterator[NatsListener]:
        """Be that host of the fleet, for guests that have joined, or have a certificate of the infrastructure."""
        del access
        near, far = socket.socketpair()
        with near, far:
            yield self.listener(near)

    def listener(self, listening: socket.socket) -> NatsListener:
        """Likewise; nothing comes to the socket, by which another process can have the place; raises `UserError`."""
        from cardferry.transports.nats.connection import check_extra, check_servers  # noqa: PLC0415 - an extra
        from cardferry.transports.nats.listener import NatsListener  # noqa: PLC0415 - an extra
        from cardferry.transports.tls.door import HostDoor, PkiDoor  # noqa: PLC0415 - ssl and cryptography
        from cardferry.transports.tls.files import cannot_be_written  # noqa: PLC0415
        from cardferry.transports.tls.host import own_host  # noqa: PLC0415

        check_extra()
        check_servers(self.service)
        try:
            if self.pki is not None:
                door: HostDoor | PkiDoor = PkiDoor(self.pki)
            else:
                host = own_host()
                host.guests.fleet = str(FleetAddress(self.name, self.service.servers_without_secrets))
                door = HostDoor(host)
            door.context()  # what is wrong with it is said now
        except OSError as error:
            raise cannot_be_written(error) from None
        return NatsListener(self, listening, door)
