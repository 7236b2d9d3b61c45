"""Takes connections at a listening socket, whatever happens to one of them.

That this process, or the computer, has no descriptors left passes; and so does an error behind one connection. Who has
come and has not said or proved yet who it is costs little, and keeps nobody out (`Newcomers`).
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn

log = logging.getLogger(__name__)

#: s until connections are taken again after there were no descriptors left.
SHORTAGE_PAUSE: Final = 1.0


async def accept(
    listening: socket.socket,
    name: str,
    take: Callable[[socket.socket, Any], Awaitable[None]],
    shortage: Callable[[], None] = lambda: None,
) -> NoReturn:
    """Take connections until cancelled.

    Args:
        listening: where they come.
        name: what to call that, for people.
        take: gets each connection, and the address that ``accept`` gives; the next one waits for it.
        shortage: called when there are no descriptors, to give some back.
    """
    loop = asyncio.get_running_loop()
    short = False
    while True:
        try:
            connection, address = await loop.sock_accept(listening)
        except ConnectionAbortedError:
            continue
        except OSError as error:
            if not short:
                log.warning("%s: nobody can come in: %s", name, error.strerror)
            short = True
            shortage()
            await asyncio.sleep(SHORTAGE_PAUSE)
            continue
        short = False
        try:
            await take(connection, address)
        except Exception:  # the boundary that the module's docstring describes
            log.exception("%s: a bug behind a connection", name)
            connection.close()
        await asyncio.sleep(0)  # however many come, others have their turn


class Newcomers:
    """Tasks of those who have come: not too many, and when one more comes, the first has to go.

    Args:
        most: how many.
        dismissed: is told of each that has to go.
    """

    def __init__(self, most: int, dismissed: Callable[[asyncio.Task[Any]], None] = lambda task: None) -> None:
        self._most = most
        self._dismissed = dismissed
        self._tasks: dict[asyncio.Task[Any], None] = {}

    def add(self, task: asyncio.Task[Any]) -> None:
        """Somebody has come; it is a newcomer until its task has ended, or it is `known`."""
        self._tasks[task] = None
        task.add_done_callback(self.known)
        self.dismiss(self._most)

    def known(self, task: asyncio.Task[Any]) -> None:
        """It is none any more."""
        self._tasks.pop(task, None)

    def dismiss(self, most: int = 0) -> None:
        """Cancel those who came first, until there are ``most``."""
        while len(self._tasks) > most:
            oldest = next(iter(self._tasks))
            del self._tasks[oldest]
            self._dismissed(oldest)
            oldest.cancel()
