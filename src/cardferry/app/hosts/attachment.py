"""What `attach` is asked for: which hosts, and how to reach and serve them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cardferry.app.hosts.address import HostAddress
from cardferry.app.hosts.connect import Way
from cardferry.app.hosts.ssh_host import SshHost
from cardferry.app.runtime.service import Service
from cardferry.frontends.card_ports import CardPort
from cardferry.pcsc.errors import UserError
from cardferry.transports.ssh import SshCommand


class NothingDirectError(UserError):
    """A connection beside ssh was asked for where there is no ssh, or no link over it."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Attachment:
    """What to attach.

    Attributes:
        hosts: where the readers are, one or more.
        ssh: the ssh program.
        socket: where applications shall connect, None for a path of ours.
        service: how they are served.
        link: whether to use the cardferry over there, if there is one.
        grace: s that programs wait for a host that is out of reach, None for the link's own.
        wait: whether hosts may be away at first: programs are served all the same, and see readers when they come.
        ports: where cards are shown beside that, such as the virtual readers of another pcscd.
        direct: whether links over ssh make connections of their own beside it.
    """

    hosts: tuple[HostAddress, ...]
    ssh: SshCommand = field(default_factory=SshCommand)
    socket: Path | None = None
    service: Service = field(default_factory=Service)
    link: bool = True
    grace: float | None = None
    wait: bool = False
    ports: tuple[CardPort, ...] = ()
    direct: bool = False

    def check(self) -> None:
        """See that what is asked for can be; raises `NothingDirectError`."""
        if self.direct and not any(isinstance(host, SshHost) for host in self.hosts):
            raise NothingDirectError("--direct is for hosts that are reached with ssh", "leave it out")
        if self.direct and not self.link:
            raise NothingDirectError("--direct needs a link, and there is none with --no-link", "leave one of them out")

    def way(self, workdir: Path, *, one_of_several: bool = False) -> Way:
        """How to reach a host.

        Args:
            workdir: a private folder for sockets between parts of this process.
            one_of_several: see `Way`.
        """
        return Way(
            workdir,
            self.ssh,
            self.service.settings,
            self.link,
            self.grace,
            one_of_several=one_of_several,
            memory=self.service.memory,
            wait=self.wait,
            direct=self.direct,
        )
