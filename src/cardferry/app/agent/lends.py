"""What the agent does for those who lend its readers to others: `share`, `attach`, and a `cardferry host` that leads.

The other end is `cardferry.app.hosts.lend`. All that is served for one of them ends with its connection.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from pathlib import Path
from typing import Final

from cardferry.app.agent.handoff_server import HandoffServer
from cardferry.app.agent.in_fleet import take_guests
from cardferry.app.agent.log_lines import Mark, mark, passed_on
from cardferry.app.agent.remote_terminal import RemoteTerminal
from cardferry.app.agent.serving import LentSocket, ReaderSet, Serving, serving
from cardferry.app.agent.shared import Shared
from cardferry.app.hosts import lend_messages as m
from cardferry.app.runtime.conversation import Conversation
from cardferry.app.runtime.fleet import listening_address
from cardferry.app.runtime.request import Request
from cardferry.app.runtime.service import Service
from cardferry.app.runtime.signals import root_cause
from cardferry.pcsc.caller import Caller, Principal
from cardferry.pcsc.errors import UserError
from cardferry.transports.errors import TransportError
from cardferry.transports.listening import SocketInUseError
from cardferry.transports.tls import recheck

log = logging.getLogger(__name__)

#: s in which somebody must say what shall be lent.
_FIRST_WORDS: Final = 5.0
_numbers: Final = itertools.count(1)


class Lends:
    """All lends of the agent.

    Args:
        sets: the sets of readers.
        place: the agent's place, which is left for who leads when nobody else is there; it is made after this.
        by_hand: whether the agent was started by hand, and nobody else can lead.
        listens: addresses at which it takes guests.
        ends: is closed when nothing of the agent is left.
        check: raises `UserError` when rules are not in force that somebody wants.

    Attributes:
        leader: what a `cardferry host` wants for everybody, which was started beside this agent; None without one.
    """

    def __init__(
        self,
        sets: Shared[str, ReaderSet],
        place: Callable[[], HandoffServer],
        ends: ExitStack,
        check: Callable[[Request], None],
        *,
        by_hand: bool,
        listens: list[str],
    ) -> None:
        self.listens = listens
        self.leader: Request | None = None
        self._sets = sets
        self._find_place = place
        self._ends = ends
        self._check = check
        self._by_hand = by_hand

    @property
    def place(self) -> HandoffServer:
        """Where all come."""
        return self._find_place()

    async def serve(self, connection: socket.socket, said: bytes) -> None:
        """Serve somebody until it goes.

        Args:
            said: what has come already.
        """
        lend = _Lend(self, connection, said)
        try:
            await lend.run()
        finally:
            lend.close()
        if self.place.leave_as_last():  # whoever waits for the end of the lend waits for ours
            self._ends.enter_context(connection.dup())

    async def lent(self, lend: _Lend, wanted: m.Lend, stack: AsyncExitStack) -> Serving | None:
        """Open what is wanted, in the stack; None when the place is left to whoever wanted to lead.

        Raises:
            UserError: it cannot be.
        """
        self._check(wanted.request)
        if wanted.leads:
            if self._by_hand or self.leader is not None:
                raise SocketInUseError(
                    f"this account has an agent already: cardferry (process {os.getpid()})",
                    "set XDG_RUNTIME_DIR to another folder of your own",
                )
            if self.place.here == 1:
                log.info("%s takes over: leaving", wanted.who)
                self.place.leave()
                return None
        stack.enter_context(mark(wanted.request.readers, lend.number))
        stack.enter_context(
            passed_on(wanted.level, Mark(wanted.request.readers, lend.number), lambda *line: lend.tell(m.Line(*line)))
        )
        served = await stack.enter_async_context(self._sets.use(wanted.request.readers))
        if wanted.terminal and served.guard is not None:
            stack.enter_context(served.guard.person.at(lend.terminal(wanted.who)))
        settings = Service.of(wanted.request).settings
        told = partial(self._told, lend)
        stack.enter_context(served.used(settings, told, leads=wanted.leads))
        opened = await stack.enter_async_context(serving(served, wanted.request, tells=not wanted.tells))
        await served.readers.known()
        if wanted.leads:
            log.warning("%s leads this agent from now on", wanted.who)
            self.leader = wanted.request
            stack.callback(self._led)
        return opened

    @staticmethod
    def _told(lend: _Lend, text: str) -> None:
        lend.tell(m.Line(logging.WARNING, __name__, text))

    def _led(self) -> None:
        log.warning("nobody leads this agent any more")
        self.leader = None


class _Lend:
    """One of them."""

    def __init__(self, lends: Lends, connection: socket.socket, said: bytes) -> None:
        self.number = next(_numbers)
        self._lends = lends
        self._messages: asyncio.Queue[tuple[m.ToAgent, list[int]]] = asyncio.Queue()
        self._pipes = asyncio.TaskGroup()
        self._ended = asyncio.get_running_loop().create_future()
        self._conversation: Conversation[m.ToAgent] = Conversation(connection, m.ToAgent, self._received, said)
        #: The other end has gone without a word: it was killed, say.
        self._lost = False
        self._terminal = RemoteTerminal(self._conversation.send)
        self._conversation.over.add_done_callback(lambda _: self._hung_up())
        self._conversation.read_early()

    def _received(self, message: m.ToAgent, descriptors: list[int]) -> None:
        if isinstance(message, m.End):
            self._end()
        self._messages.put_nowait((message, descriptors))

    def _hung_up(self) -> None:
        self._lost = not self._ended.done()
        self._end()

    def _end(self) -> None:
        self._terminal.gone()
        if not self._ended.done():
            self._ended.set_result(None)

    def terminal(self, who: str) -> RemoteTerminal:
        """The terminal of whoever it is for."""
        self._terminal.name = f"the terminal of {who}"
        return self._terminal

    def tell(self, message: m.FromAgent) -> None:
        """Say something that is not missed when the other end does not listen."""
        self._conversation.send(message, missable=True)

    async def run(self) -> None:
        """Serve until the other end has gone, or has said that this is all."""
        async with asyncio.TaskGroup() as tasks:
            serving_it = tasks.create_task(self._serve())
            await asyncio.wait((serving_it, self._ended), return_when=asyncio.FIRST_COMPLETED)
            serving_it.cancel()

    async def _serve(self) -> None:
        try:
            async with asyncio.timeout(_FIRST_WORDS):
                wanted, descriptors = await self._messages.get()
        except TimeoutError:
            return
        if isinstance(wanted, m.Recheck):
            recheck()
        if not isinstance(wanted, m.Lend) or descriptors:
            self._messages.put_nowait((wanted, descriptors))
            return
        async with self._pipes, AsyncExitStack() as sockets, AsyncExitStack() as stack:
            try:
                opened = await self._lends.lent(self, wanted, stack)
            except (UserError, ExceptionGroup) as error:
                cause = root_cause(error)
                if not isinstance(cause, UserError):
                    raise
                heals = isinstance(cause, TransportError) and cause.heals
                self._conversation.send(m.NotLent(cause.message, cause.hint, cause.exit_code, heals))
                return
            guard = None if opened is None else opened.served.guard
            rules = guard.rulebook.in_a_line() if guard is not None else ""
            self._conversation.send(m.Lent(os.getpid(), rules, opened is None, self._lends.listens))
            if opened is not None:
                stack.callback(self._leave_guests, opened)
            if opened is not None and wanted.leads:
                self._pipes.create_task(self._lends.place.count(opened.host))
                self._pipes.create_task(self._leave_place())
            while opened is not None:
                message, descriptors = await self._messages.get()
                found = [socket.socket(fileno=descriptor) for descriptor in descriptors]
                await self._do(message, found, opened, sockets)

    def _leave_guests(self, opened: Serving) -> None:
        """Say nothing to guests whose `share` was killed: a good-bye ends them, and the next one is to find them."""
        if self._lost:
            opened.host.hang_up()

    async def _leave_place(self) -> None:
        """Leave the agent's place to its leader as soon as nobody else is there."""
        await self._lends.place.one_left()
        self._lends.place.leave()
        self._end()

    async def _do(
        self, message: m.ToAgent, found: list[socket.socket], opened: Serving, sockets: AsyncExitStack
    ) -> None:
        match message, found:
            case m.ProgramSocket(path, principal), [listening]:
                sockets.callback(listening.close)
                caller = None if principal is None else Caller(Principal(*principal), guest=principal[1])
                await opened.programs(LentSocket(Path(path), listening), caller)
                self._conversation.send(m.Listens(path))
            case m.GuestPipe(number, principal, name), [end]:
                self._pipes.create_task(self._guest(opened, end, number, Principal(*principal), name))
            case m.GuestSocket(address), [listening]:
                sockets.callback(listening.close)
                listening.setblocking(False)
                take_guests(opened, listening_address(address).listener(listening))
            case m.Ask(), []:
                self.tell(opened.describe())
            case m.PersonSaid(), []:
                self._terminal.said(message)
            case _:
                for one in found:
                    one.close()

    async def _guest(self, opened: Serving, end: socket.socket, number: int, principal: Principal, name: str) -> None:
        try:
            await opened.serve(end, principal, name)
        except OSError as error:
            log.warning("%s cannot be served: %s", name, error)
        finally:
            end.close()
            self._conversation.send(m.Gone(number))

    def close(self) -> None:
        """Be done; whatever has not been looked at is closed."""
        while not self._messages.empty():
            for descriptor in self._messages.get_nowait()[1]:
                os.close(descriptor)
        self._conversation.detach()
