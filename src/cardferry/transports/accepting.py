"""Takes connections at a listening socket, whatever happens to one of them.

That this process, or the computer, has no descriptors left passes; and so does an error behind one connection.
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
