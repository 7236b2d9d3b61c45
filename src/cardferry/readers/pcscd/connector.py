"""Opening a byte pipe to a pcscd's socket."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Final

#: Opens a byte pipe whose protocol the given factory makes, like `asyncio.loop.create_unix_connection`.
#: Raises `OSError`. What it returns is not used.
Connector = Callable[[Callable[[], asyncio.Protocol]], Awaitable[object]]

#: How long to queue at a socket that accepts slowly, in s. pcscd listens with a backlog of 1.
_PATIENCE: Final = 10
_TIMEVAL: Final = struct.Struct("@ll")


def unix_connector(path: str) -> Connector:
    """To a Unix socket.

    pcscd's own has a backlog of 1, so that a second program which comes at the same moment finds it full
    (``EAGAIN``). The kernel lets only those queue who block; this happens in a thread then.
    """

    async def connect(factory: Callable[[], asyncio.Protocol]) -> object:
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            try:
                sock.connect(path)
            except BlockingIOError:
                sock.setblocking(True)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(_PATIENCE, 0))
                await _in_thread(loop, sock, path)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(0, 0))
                sock.setblocking(False)
            return await loop.create_unix_connection(factory, sock=sock)
        except BaseException:
            sock.close()
            raise

    return connect


async def _in_thread(loop: asyncio.AbstractEventLoop, sock: socket.socket, path: str) -> None:
    connecting = loop.run_in_executor(None, sock.connect, path)
    try:
        await asyncio.shield(connecting)
    except asyncio.CancelledError:
        # The thread still uses the descriptor: it is closed when the thread is through.
        descriptor = sock.detach()
        connecting.add_done_callback(lambda _: os.close(descriptor))
        raise
