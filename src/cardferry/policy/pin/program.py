"""A program that asks the person for us: started for one question, and killed when that is over.

It talks through a socket, so that what it says, a PIN perhaps, is read into a buffer that is wiped.
"""

from __future__ import annotations

import asyncio
import socket
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, cast

from cardferry.system.processes import dies_with_parent, killed
from cardferry.wiping import Receiver

#: Bytes of the longest line.
_MOST: Final = 4096


class Program(Receiver):
    """A program that runs; `started` starts it.

    Attributes:
        process: it.
    """

    process: Process

    def __init__(self) -> None:
        self._lines: asyncio.Queue[bytearray] = asyncio.Queue()
        self._line = bytearray()
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It can be talked to."""
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's are not registered as such

    def data_received(self, data: bytes) -> None:
        """It has said something."""
        for byte in data:
            self._line.append(byte)
            if byte == ord("\n") or len(self._line) > _MOST:
                self._lines.put_nowait(self._line)
                self._line = bytearray()

    def connection_lost(self, exc: Exception | None) -> None:
        """It says nothing more."""
        self._lines.put_nowait(self._line)
        self._lines.put_nowait(bytearray())

    def send(self, line: bytes) -> None:
        """Say something to it."""
        if self._transport is not None:
            self._transport.write(line)

    async def line(self) -> bytearray:
        """The next line that it says, which is the caller's to wipe; empty when there are no more."""
        return await self._lines.get()

    def close(self) -> None:
        """That is all."""
        if self._transport is not None:
            self._transport.close()


@asynccontextmanager
async def started(words: Sequence[str], *, errors: bool = False) -> AsyncIterator[Program]:
    """A program for the block.

    Args:
        words: its command line.
        errors: its standard error comes as lines as well.

    Raises:
        OSError: it cannot be started.
    """
    near, far = socket.socketpair()
    program = Program()
    try:
        with far:
            end = far.fileno()
            program.process = await asyncio.create_subprocess_exec(
                *words, stdin=end, stdout=end, stderr=end if errors else DEVNULL, preexec_fn=dies_with_parent()
            )
    except BaseException:
        near.close()
        raise
    try:
        await asyncio.get_running_loop().connect_accepted_socket(lambda: program, near)
        yield program
    finally:
        program.close()
        await killed(program.process)
