"""Readers of this computer, lent by the agent of the account: the end of whoever lends them on, `attach` or `share`.

It finds the agent, or starts it; hands over the sockets and pipes that programs come through; passes on what the agent
has to say; and does all that again when the agent has died. `cardferry.app.agent.lends` is the other end.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from cardferry.app.hosts import lend_messages as m
from cardferry.app.runtime.conversation import Conversation
from cardferry.app.runtime.paths import agent_path, runtime_folder
from cardferry.app.runtime.request import Request
from cardferry.app.runtime.silent import LOOK_AFTER, check_not_stopped, silent_peer
from cardferry.app.runtime.spawn import BackgroundError, reach, start_agent
from cardferry.backoff import Backoff
from cardferry.pcsc.caller import Caller, Principal
from cardferry.pcsc.errors import UserError
from cardferry.pcsc.reply import Reply, running
from cardferry.policy.pin.person import Question, wipe
from cardferry.policy.pin.terminal import Terminal
from cardferry.system.terminal import in_foreground
from cardferry.transports.base import Pipe
from cardferry.transports.errors import TransportError
from cardferry.transports.listening import BACKLOG, Listening, listener
from cardferry.transports.unix import adopt

log = logging.getLogger(__name__)

#: An agent that is about to leave does not answer: then the next one is asked, at most so often.
_ATTEMPTS: Final = 5
#: s between attempts to have the readers lent again, at first and at most.
_PAUSES: Final = (0.1, 5.0)
#: s; an agent that was there for so long is missed at once.
_STEADY: Final = 5.0
#: s that the agent gets to give everything back: cards that somebody held are reset first.
_FAREWELL: Final = 10.0
#: s in which it must say how it is going.
_ANSWER_TIME: Final = 1.5
_GONE: Final = "the agent has gone"


class NotLentError(TransportError):
    """The agent does not lend the readers; it has said why, and with which exit code."""

    def __init__(self, said: m.NotLent) -> None:
        super().__init__(said.error, said.hint)
        self.exit_code = said.code
        self.heals = said.heals


class AgentLink:
    """A connection to an agent that lends something.

    Args:
        connection: to its socket.
        lend: what it shall lend.
        told: gets what it says about sockets and pipes.

    Attributes:
        conversation: with it.
    """

    def __init__(
        self,
        connection: socket.socket,
        lend: m.Lend,
        told: Callable[[m.Gone | m.Listens], None] = lambda message: None,
    ) -> None:
        self._told = told
        self._connection = connection
        self._asked: list[asyncio.Future[m.Described]] = []
        self._terminal = Terminal()
        self._asking: Reply[None] | None = None
        self._answer: asyncio.Future[m.Lent | m.NotLent] = asyncio.get_running_loop().create_future()
        self.conversation: Conversation[m.FromAgent] = Conversation(connection, m.FromAgent, self._received)
        self.conversation.send(lend)

    def _received(self, message: m.FromAgent, _: list[int]) -> None:
        match message:
            case m.Lent() | m.NotLent():
                if not self._answer.done():
                    self._answer.set_result(message)
            case m.Line(level, name, text):
                if (logger := logging.getLogger(name)).isEnabledFor(level):
                    logger.log(level, "%s", text)
            case m.Gone() | m.Listens():
                self._told(message)
            case m.AskPerson():
                self._asking = running(self._ask(message))
            case m.Described():
                if self._asked and not (answer := self._asked.pop(0)).done():
                    answer.set_result(message)

    async def _ask(self, message: m.AskPerson) -> None:
        """Ask the person on the terminal of this process."""
        said = await self._terminal.ask(Question(message.text, message.prompt, message.lasting, message.patience))
        if said is None:
            self.conversation.send(m.PersonSaid(message.number, asked=False))
            return
        pin = None if said.pin is None else said.pin.decode(errors="replace")
        self.conversation.send(m.PersonSaid(message.number, True, said.yes, pin, said.cancelled, said.lasting))
        if said.pin is not None:
            wipe(said.pin)

    async def lent(self) -> m.Lent | None:
        """Wait until it has lent what it shall; None when it has gone without an answer.

        Raises:
            NotLentError: it does not.
        BackgroundError: it is stopped.
        """
        coming = (self._answer, self.conversation.over)
        level = logging.WARNING
        while not (await asyncio.wait(coming, timeout=LOOK_AFTER, return_when=asyncio.FIRST_COMPLETED))[0]:
            try:
                check_not_stopped(self._connection)
            except UserError:
                self.conversation.close()  # it is not waited for, whatever else it is told
                raise
            log.log(level, "%s; %s", *silent_peer(self._connection))
            level = logging.DEBUG
        if not self._answer.done():
            return None
        answer = self._answer.result()
        if isinstance(answer, m.NotLent):
            raise NotLentError(answer)
        return answer

    async def describe(self) -> m.Described:
        """How it is going, as far as the agent says so."""
        answer = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        self.conversation.send(m.Ask())
        await asyncio.wait((answer, self.conversation.over), timeout=_ANSWER_TIME, return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else silent("the agent does not answer")

    async def end(self) -> None:
        """Have everything given back."""
        if self._asking is not None:
            self._asking.cancel()
        self.conversation.send(m.End())
        await self.conversation.ended(_FAREWELL)
        self.conversation.close()


class LentReaders:
    """A set of readers, lent; an asynchronous context manager that raises `UserError` when it cannot be.

    Args:
        request: which readers, and how.
        who: who asks, for people.
        tells: see `Lend`.

    Attributes:
        agent: process id of the agent, 0 while there is none.
        rules: the rules that hold for all who use the readers, in a line.
    """

    def __init__(self, request: Request, who: str, *, tells: bool = False) -> None:
        self.agent = 0
        self.rules = ""
        level = logging.getLogger("cardferry").getEffectiveLevel()
        self._lend = m.Lend(request, who, level, tells=tells, terminal=in_foreground())
        self._link: AgentLink | None = None
        self._up = asyncio.Event()
        self._sockets: list[tuple[m.ProgramSocket, socket.socket]] = []
        self._numbers = itertools.count(1)
        self._guests: dict[int, asyncio.Future[None]] = {}
        self._tasks = asyncio.TaskGroup()
        #: Tasks that end with this.
        self._own: list[asyncio.Task[None]] = []
        self._ending = False

    async def __aenter__(self) -> Self:
        link = await self._connect()
        await self._tasks.__aenter__()
        self._own.append(self._tasks.create_task(self._keep(link), name="readers that are lent"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending = True
        for task in self._own:
            task.cancel()
        if self._link is not None:
            await self._link.end()
        self._lost()
        await self._tasks.__aexit__(kind, error, trace)

    # what is handed over

    async def programs(self, listening: Listening, caller: Caller | None = None) -> None:
        """Let programs at a socket use the readers, from now on; the socket stays the caller's to close.

        Args:
            caller: who they all are, where the kernel cannot tell.
        """
        principal = None if caller is None else (caller.principal.kind, caller.principal.name)
        handed = (m.ProgramSocket(str(listening.path), principal), listening.socket)
        self._sockets.append(handed)
        if self._link is not None:
            self._link.conversation.send(handed[0], [handed[1].fileno()])

    async def serve(self, end: socket.socket, principal: Principal, name: str) -> None:
        """Let the guest at the other end of a pipe use the readers; returns when the pipe is lost.

        Args:
            end: our end, which is the agent's from now on.
            principal: who the guest is, as this computer has proved it.
            name: what to call it.
        """
        with end:
            if self._link is None:
                return
            number = next(self._numbers)
            gone = self._guests[number] = asyncio.get_running_loop().create_future()
            self._link.conversation.send(m.GuestPipe(number, (principal.kind, principal.name), name), [end.fileno()])
        try:
            await gone
        finally:
            self._guests.pop(number, None)
        if self._ending:  # nobody is to come back
            await asyncio.get_running_loop().create_future()

    async def dial(self, principal: Principal, name: str) -> Pipe:
        """A pipe to the readers, as a guest uses it."""
        await self.ready()
        near, far = socket.socketpair()
        self._own = [one for one in self._own if not one.done()]
        self._own.append(self._tasks.create_task(self.serve(far, principal, name)))
        return await adopt(near, name)

    async def ready(self) -> None:
        """Wait until there is an agent."""
        await self._up.wait()

    async def describe(self) -> m.Described:
        """How it is going, as far as the agent says so."""
        return await self._link.describe() if self._link is not None else silent(_GONE)

    # the agent

    async def _connect(self) -> AgentLink:
        folder = runtime_folder()
        path = agent_path(folder)
        config = self._lend.request.config

        def begin() -> None:
            start_agent(folder, 0.0, ["--config", config] if config else [])

        for _ in range(_ATTEMPTS):
            connection = await asyncio.to_thread(reach, path, begin)
            link = AgentLink(connection, self._lend, self._told)
            try:
                lent = await link.lent()
            except BaseException:
                link.conversation.close()
                raise
            if lent is not None:
                self.agent, self.rules = lent.agent, lent.rules
                for message, listening in self._sockets:
                    link.conversation.send(message, [listening.fileno()])
                self._link = link
                self._up.set()
                return link
            link.conversation.close()  # it was about to leave
        raise unwilling(path)

    def _told(self, message: m.Gone | m.Listens) -> None:
        match message:
            case m.Gone(number):
                self._gone(number)
            case m.Listens(path):
                for handed, listening in self._sockets:
                    if handed.path == path:
                        # Who has called this last is whom the kernel names to those who connect (unix(7)): the command
                        # that a person knows, and can end. The queue of connections stays as it is.
                        listening.listen(BACKLOG)

    def _gone(self, number: int) -> None:
        if (gone := self._guests.pop(number, None)) is not None and not gone.done():
            gone.set_result(None)

    def _lost(self) -> None:
        """There is no agent any more, and nothing is served."""
        self._link, self.agent = None, 0
        self._up.clear()
        for number in tuple(self._guests):
            self._gone(number)

    async def _keep(self, link: AgentLink) -> None:
        backoff = Backoff(*_PAUSES)
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            await link.conversation.ended()
            link.conversation.close()
            self._lost()
            log.warning("%s: programs have lost what they held; the readers are lent anew", _GONE)
            if loop.time() - began > _STEADY:
                backoff.reset()
            else:
                await asyncio.sleep(backoff.pause())
            while self._link is None:
                try:
                    link = await self._connect()
                except UserError as error:
                    pause = backoff.pause()
                    level = logging.WARNING if backoff.attempts == 1 else logging.DEBUG
                    log.log(level, "%s; trying again in %.1f s", error.message, pause)
                    await asyncio.sleep(pause)
            log.warning("the readers are there again")


def silent(state: str) -> m.Described:
    """What is known when the agent says nothing."""
    return m.Described(state, 0, [], [])


def unwilling(path: Path) -> BackgroundError:
    """Somebody listens at the agent's path, and does not lend anything."""
    return BackgroundError(
        f"the agent at {path} does not answer: {listener(path) or 'it has gone'}",
        "it may be of another version of cardferry: end it, and try again",
    )
