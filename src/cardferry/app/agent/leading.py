"""A `cardferry host` that is started by hand while an agent that has started itself is there.

If nobody uses that agent, it leaves its place. If somebody does, handles and transactions cannot move to another
process: the agent goes on, and is led. What its leader listens at is lent to it, but for addresses at which it listens
itself; and the leader's options are for everybody who comes from now on. When nobody else is there any more, the agent
leaves its place after all.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Final

from cardferry.app.hosts import lend_messages as m
from cardferry.app.hosts.lend import AgentLink, NotLentError
from cardferry.app.hosts.sources import own_process
from cardferry.app.runtime.paths import agent_path
from cardferry.app.runtime.request import Request
from cardferry.app.runtime.status_socket import Link, Running, controllable
from cardferry.system.terminal import in_foreground
from cardferry.transports.base import Address
from cardferry.transports.listening import SocketInUseError
from cardferry.transports.sockets import Access

log = logging.getLogger(__name__)

#: Shows people, for a block, what a call tells; raises `UserError` when it cannot.
Page = Callable[[Callable[[], Running | Awaitable[Running | None] | None]], AbstractAsyncContextManager[None]]


def no_page(_describe: object) -> AbstractAsyncContextManager[None]:
    """Nothing is shown."""
    return nullcontext()


#: How often an agent may be about to leave when it is asked.
_ATTEMPTS: Final = 5


class Leading:
    """The way to the agent's place, or to the agent.

    Args:
        folder: the runtime folder.
        request: what everybody shall be served with.
        listen: where guests come in besides.
        access: who may, by those of them that are Unix sockets.
        page: shows people what the agent tells.
    """

    def __init__(self, folder: Path, request: Request, listen: Sequence[Address], access: Access, page: Page) -> None:
        self._folder = folder
        self._request = request
        self._listen = listen
        self._access = access
        self._page = page
        self._since = time.time()
        self._attempts = 0

    async def lead(self, taken: SocketInUseError, ready: Callable[[], None]) -> None:
        """Lead the agent that is there until it has gone; or have it leave its place. Then the place is free.

        Args:
            taken: what to say when it does neither.
            ready: called when guests can come.
        """
        try:
            connection = _connected(agent_path(self._folder))
        except OSError:
            self._again(taken)
            return  # it has just gone
        level = logging.getLogger("cardferry").getEffectiveLevel()
        link = AgentLink(connection, m.Lend(self._request, own_process(), level, leads=True, terminal=in_foreground()))
        try:
            lent = await link.lent()
            if lent is None:
                self._again(taken)
                return
            self._attempts = 0
            if lent.moves:
                log.warning("an agent that had started itself was there, and leaves (process %d)", lent.agent)
                await link.conversation.ended()
                return
            log.warning(
                "an agent that has started itself is in use (process %d): it goes on, and serves with these options "
                "whoever comes from now on; programs that are there keep theirs",
                lent.agent,
            )
            if lent.rules:
                log.info("%s", lent.rules)
            with ExitStack() as stack:
                others = [address for address in self._listen if address.listening_name not in lent.listens]
                listeners = [stack.enter_context(address.listen(self._access)) for address in others]
                for one in listeners:
                    link.conversation.send(m.GuestSocket(one.name), [one.socket.fileno()])
                listens = [*lent.listens, *(one.name for one in listeners)]
                describe = partial(self._describe, link, lent.agent, listens)
                async with self._page(describe), controllable(self._folder, describe):
                    ready()
                    tell_where(listens)
                    await link.conversation.ended()
            log.warning("that agent has gone: this one has its place")
        except NotLentError as error:
            raise (taken if error.exit_code == taken.exit_code else error) from None
        finally:
            await link.end()

    def _again(self, taken: SocketInUseError) -> None:
        """The agent does not answer: it was about to leave, or does not know what is asked."""
        self._attempts += 1
        if self._attempts >= _ATTEMPTS:
            raise taken

    async def _describe(self, link: AgentLink, agent: int, listens: list[str]) -> Running:
        how = await link.describe()
        where = ", ".join(listens)
        links = [
            Link(one.guest, "up" if one.connected else "out of reach", where, "link", guest=one) for one in how.guests
        ] or [Link(self._request.readers, how.state, where)]
        return Running(
            "host", os.getpid(), self._since, links, how.contexts, how.readers, agent, how.troubles,
            remembered=how.remembered, asks=how.asks, listens=listens,
        )  # fmt: skip


def tell_where(listens: Sequence[str]) -> None:
    """Say in a line where guests come in.

    Args:
        listens: as after ``--listen``.
    """
    where = ", ".join(one.partition("?")[0] for one in listens)
    log.info("%s", f"listening at {where}; guests come in over ssh, too" if where else "guests come in over ssh")


def _connected(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(os.fspath(path))
    except OSError:
        connection.close()
        raise
    return connection
