"""What `share` is asked for: whose readers, to whom, and how; and what it needs of who serves them."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import Protocol as Interface

from cardferry.app.hosts.address import HostAddress
from cardferry.app.hosts.lend_messages import Described
from cardferry.app.hosts.sources import LOCAL_PCSCD
from cardferry.app.hosts.ssh_host import SshHost
from cardferry.app.runtime.service import Service
from cardferry.link import Timing
from cardferry.pcsc.caller import Caller, Principal
from cardferry.transports.listening import Listening
from cardferry.transports.ssh import SshCommand


class Lender(Interface):
    """Readers to be shared: `cardferry.app.hosts.lend.LentReaders`, or those that this process serves by itself.

    Attributes:
        agent: process id of the agent that serves them; 0 when it is this process.
        rules: those that hold for all who use them, in a line; empty where there are none.
    """

    agent: int
    rules: str

    async def ready(self) -> None:
        """Wait until they can be used."""
        ...

    async def programs(self, listening: Listening, caller: Caller | None = None) -> None:
        """Let programs at a socket use them, from now on; see `LentReaders.programs`."""
        ...

    async def serve(self, end: socket.socket, principal: Principal, name: str) -> None:
        """Let the guest at the other end of a pipe use them until it is lost; `end` is closed then, or before."""
        ...

    async def describe(self) -> Described:
        """How it is going."""
        ...


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
        wait: whether guests may be away at first.
    """

    guests: tuple[SshHost, ...]
    readers: HostAddress = LOCAL_PCSCD
    ssh: SshCommand = field(default_factory=SshCommand)
    remote_socket: str | None = None
    service: Service = field(default_factory=Service)
    link: bool = True
    grace: float = Timing().grace
    wait: bool = False
