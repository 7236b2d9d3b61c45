"""Takes guests through NATS: one connection for all of them, made anew whenever it is lost.

A host may have a name only while the fleet's directory says so (`presence`). The other doors of the host have nothing
to do with any of this: while there is no way to NATS, one line says so.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Final, NoReturn

from cardferry.backoff import Backoff, Seldom
from cardferry.pcsc.errors import UserError
from cardferry.pcsc.text import shown
from cardferry.transports.base import Arrival
from cardferry.transports.nats.connection import Connection, connected, still_wanted
from cardferry.transports.nats.dialling import Place
from cardferry.transports.nats.errors import NameTakenError
from cardferry.transports.nats.pipe import LostError, NatsPipe
from cardferry.transports.nats.subjects import Ends, down, ends, up
from cardferry.transports.tls.admission import Admission
from cardferry.transports.tls.door import HostDoor, PkiDoor
from cardferry.transports.tls.inside import TlsInside
from cardferry.wire.errors import WireError
from cardferry.wire.nats import VERSION, Kind, encode, parse

log = logging.getLogger(__name__)

#: Pipes of all guests together.
_MOST_PIPES: Final = 1024
#: s between attempts to reach NATS again.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
#: Different reasons why NATS is out of reach that are told at once: it may be mended in several steps.
_REASONS: Final = 6


class NatsListener:
    """See the module.

    Args:
        address: the name, and where NATS is.
        listening: nothing comes to it; it stays the caller's to close.
        door: who may come in.

    Attributes:
        presence: has the name in the fleet for as long as it is entered; raises `NameTakenError`.
        refused: is told when another host has the name at the start; None where that is only tried again.
        here: set while guests can come.
    """

    def __init__(self, address: Place, listening: socket.socket, door: HostDoor | PkiDoor) -> None:
        self.name = str(address)
        self.socket = listening
        self.address = address
        self.presence: Callable[[Connection], AbstractAsyncContextManager[None]] = lambda _: nullcontext()
        self.refused: Callable[[UserError], None] | None = None
        self.here = asyncio.Event()
        self._admission = Admission(door)
        self._pipes: dict[Ends, NatsPipe] = {}

    async def run(self, take: Callable[[Arrival], None], shortage: Callable[[], None] = lambda: None) -> NoReturn:
        """Take all who come, until cancelled; see `cardferry.transports.base.Listener`."""
        backoff, seldom = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE, 0.3), Seldom(_REASONS)
        before = False
        while True:
            still_wanted()
            try:
                async with connected(self.address.service) as connection, self.presence(connection):
                    still_wanted()
                    log.warning(
                        "in the fleet at %s as %s%s", connection.where, self.address.name, " again" if before else ""
                    )
                    before = True
                    backoff.reset()
                    seldom.reset()
                    await self._serve(connection, take)
                    log.warning("the fleet at %s is out of reach: its guests wait", connection.where)
            except* NameTakenError as group:
                error = _first(group)
                if not before and self.refused is not None:
                    self.refused(error)
                    await asyncio.get_running_loop().create_future()
                if seldom.due(error.message, asyncio.get_running_loop().time()):
                    log.error("not in the fleet: %s; %s", error.message, error.hint)
            except* UserError as group:
                error = _first(group)
                reason = self.address.service.reason(error.message)
                if seldom.due(reason, asyncio.get_running_loop().time()):
                    log.warning("not in the fleet: %s; %s", error.message, error.hint)
            await asyncio.sleep(backoff.pause())

    async def _serve(self, connection: Connection, take: Callable[[Arrival], None]) -> None:
        """Take who comes through one connection, until that is lost."""
        async with asyncio.TaskGroup() as tasks:

            def took(subject: str, message: bytes, header: Mapping[str, str]) -> None:
                which = ends(subject)
                pipe = self._pipes.get(which)
                if pipe is not None:
                    pipe.took(message)
                else:
                    self._first_message(connection, tasks, which, message, take)

            try:
                await connection.subscribe(up(self.address.name), took)
                await connection.flush()
                self.here.set()
                await connection.over()
            finally:
                self.here.clear()
                self._admission.dismiss()
                lost = LostError(f"the connection to NATS at {connection.where} is lost")
                for pipe in tuple(self._pipes.values()):
                    pipe.end(lost, silent=connection.lost.done())
                if not connection.lost.done():
                    await connection.finish()

    def _first_message(
        self,
        connection: Connection,
        tasks: asyncio.TaskGroup,
        which: Ends,
        message: bytes,
        take: Callable[[Arrival], None],
    ) -> None:
        where = f"{shown(which.guest)} through NATS"

        def send(data: bytes) -> None:
            connection.publish(down(self.address.name, *which), data)

        try:
            kind, number, _ = parse(message)
        except WireError:
            self._admission.complain(where, "is not cardferry: what it sends is no frame")
            return
        if kind is not Kind.OPEN:
            if kind is not Kind.GONE:
                send(encode(Kind.GONE, 0, b"the host has no such pipe any more"))
        elif number != VERSION:
            send(encode(Kind.GONE, 0, f"the host speaks version {VERSION} of pipes through NATS".encode()))
        elif len(self._pipes) >= _MOST_PIPES:
            self._admission.complain(where, "cannot come in: there are too many")
            send(encode(Kind.GONE, 0, b"the host has too many guests"))
        else:

            def gone() -> None:
                self._pipes.pop(which, None)

            pipe = NatsPipe(f"{where} at {self.name}", send, gone)
            self._pipes[which] = pipe
            send(encode(Kind.OPENED, VERSION))
            self._admission.unproved(tasks, where, self._take(pipe, where, take))

    async def _take(self, pipe: NatsPipe, where: str, take: Callable[[Arrival], None]) -> None:
        context = self._admission.context()
        if context is None:
            pipe.abort()
            return
        secure = TlsInside(pipe, context, server=True)
        await self._admission.prove(secure, where, take, secure.proved)


def _first(group: BaseExceptionGroup[UserError]) -> UserError:
    """One of the errors in a group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, UserError)  # noqa: S101 - for types: `except*` gives no other
    return error
