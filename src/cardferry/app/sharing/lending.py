"""What `share` is asked for: whose readers, to whom, and how."""

from __future__ import annotations

from dataclasses import dataclass, field

from cardferry.app.hosts.address import HostAddress
from cardferry.app.hosts.sources import LOCAL_PCSCD
from cardferry.app.hosts.ssh_host import SshHost
from cardferry.app.runtime.service import Service
from cardferry.link import Timing
from cardferry.transports.ssh import SshCommand


@dataclass(frozen=True, slots=True)
class Share:
    """What to share with whom.

    Attributes:
        guests: the computers whose programs shall use the readers, one or more.
        readers: where the readers are.
        ssh: the ssh program.
        remote_socket: path of the socket over there, None for one in the account's own folder.
        service: how applications are served.
        link: whether to use the cardferry over there, if there is one.
        grace: s that a guest that is out of reach keeps what it holds.
    """

    guests: tuple[SshHost, ...]
    readers: HostAddress = LOCAL_PCSCD
    ssh: SshCommand = field(default_factory=SshCommand)
    remote_socket: str | None = None
    service: Service = field(default_factory=Service)
    link: bool = True
    grace: float = Timing().grace
