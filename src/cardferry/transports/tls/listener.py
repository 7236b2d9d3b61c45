"""Takes guests over TLS at a TCP port; what they must prove is in `cardferry.transports.tls.admission`."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final, NoReturn

from cardferry.transports.accepting import accept
from cardferry.transports.base import Arrival
from cardferry.transports.tls.admission import PROOF_TIME, Admission
from cardferry.transports.tls.door import HostDoor, PkiDoor
from cardferry.transports.tls.pipe import TlsPipe

#: Is never reached: the limit of those who come comes first, and says so in our words.
_LOOPS_OWN_LIMIT: Final = 10 * PROOF_TIME


class TlsListener:
    """See the module.

    Args:
        name: the address, as after ``--listen``.
        listening: bound, listening and non-blocking; it stays the caller's to close.
        door: who may come in.
    """

    def __init__(self, name: str, listening: socket.socket, door: HostDoor | PkiDoor) -> None:
        self.name = name
        self.socket = listening
        self._admission = Admission(door)

    async def run(self, take: Callable[[Arrival], None], shortage: Callable[[], None] = lambda: None) -> NoReturn:
        """Take all who come, until cancelled; see `cardferry.transports.base.Listener`."""
        async with asyncio.TaskGroup() as tasks:

            async def taken(connection: socket.socket, address: Any) -> None:
                where = address[0].removeprefix("::ffff:")  # an IPv4 address at a socket that takes both
                self._admission.unproved(tasks, where, self._take(connection, where, take))

            def short() -> None:
                self._admission.dismiss()
                shortage()

            await accept(self.socket, self.name, taken, short)
        raise AssertionError("accept does not return")

    async def _take(self, connection: socket.socket, where: str, take: Callable[[Arrival], None]) -> None:
        context = self._admission.context()
        if context is None:
            connection.close()
            return
        pipe = TlsPipe(f"{where} at {self.name}")
        shake = asyncio.get_running_loop().connect_accepted_socket(
            lambda: pipe, connection, ssl=context, ssl_handshake_timeout=_LOOPS_OWN_LIMIT
        )
        await self._admission.prove(pipe, where, take, shake)
