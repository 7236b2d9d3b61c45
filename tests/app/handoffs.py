"""What a session of ssh does with its streams, in the tests' own process."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import msgspec

from cardferry.app.runtime.handoff import Handoff
from cardferry.app.runtime.spawn import StartReport, decode

#: s until a test gives up.
PATIENCE = 10.0


class Session:
    """The session that ssh has opened, as far as it is seen here: it has handed its streams over.

    Args:
        at: where.
        handoff: who comes.

    Attributes:
        stream: the other end of the streams, which is the other computer's.
    """

    def __init__(self, at: Path, handoff: Handoff) -> None:
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(os.fspath(at))
        self.stream, far = socket.socketpair()
        with far:
            socket.send_fds(self._connection, [msgspec.json.encode(handoff)], [far.fileno(), far.fileno()])
        self._connection.setblocking(False)
        self.stream.setblocking(False)
        self._heard = b""

    async def told(self) -> StartReport | None:
        """The next thing that it is told; None when the one that has taken the streams has let go of them."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE):
            while b"\n" not in self._heard:
                data = await loop.sock_recv(self._connection, 4096)
                if not data:
                    return None
                self._heard += data
        line, _, self._heard = self._heard.partition(b"\n")
        return decode(line + b"\n")

    def close(self) -> None:
        """The session ends, with its streams."""
        self.stream.close()
        self._connection.close()
