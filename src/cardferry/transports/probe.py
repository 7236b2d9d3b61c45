"""Is somebody serving pcsc-lite's protocol behind a socket? Asked with one message, the client's version."""

from __future__ import annotations

import asyncio
from enum import Enum
from pathlib import Path
from typing import Final

from cardferry.transports.sockets import connected
from cardferry.wire.errors import WireError
from cardferry.wire.pcsclite.client import ClientCodec
from cardferry.wire.pcsclite.layout import MAJOR
from cardferry.wire.pcsclite.messages import Version, VersionReply

#: Seconds that a pcscd gets which systemd may have to start first.
ANSWER_TIME: Final = 10.0
#: Seconds for one who has been started: he took a connection a moment ago.
_RUNNING_TIME: Final = 2.0
#: Seconds between attempts at a socket whose queue is full; pcscd's holds one connection. The kernel lets only those
#: wait for room who block.
_FULL_PAUSE: Final = 0.05


class Answer(Enum):
    """What came back."""

    #: Somebody speaks: any version will do.
    ANSWERED = "answered"
    #: The connection was closed without a word.
    CLOSED = "closed"
    #: Nothing within the time.
    SILENT = "silent"


async def ask_version(path: Path, timeout: float = ANSWER_TIME) -> Answer:
    """Say hello at a socket here, which may lead to another computer.

    Args:
        path: of the socket.
        timeout: how long to wait for the answer, in s.

    Raises:
        BlockingIOError: the queue of connections there stays full.
        OSError: nothing listens at ``path`` itself.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout
    while True:
        try:
            connection = connected(path)
            break
        except BlockingIOError:
            if loop.time() >= until:
                raise
        await asyncio.sleep(_FULL_PAUSE)
    reader, writer = await asyncio.open_unix_connection(sock=connection)
    try:
        writer.write(ClientCodec().send(Version()))
        async with asyncio.timeout(timeout):
            return Answer.ANSWERED if await reader.read(1) else Answer.CLOSED
    except TimeoutError:
        return Answer.SILENT
    except ConnectionError:
        return Answer.CLOSED
    finally:
        writer.close()


async def speaks_pcsclite(path: Path, timeout: float = _RUNNING_TIME) -> bool:
    """Whether what listens at a socket here answers as a pcscd does, and not just something."""
    codec = ClientCodec()
    try:
        reader, writer = await asyncio.open_unix_connection(sock=connected(path))
    except OSError:
        return False
    try:
        writer.write(codec.send(Version()))
        async with asyncio.timeout(timeout):
            while data := await reader.read(1024):
                for reply in codec.receive(data):
                    return isinstance(reply, VersionReply) and reply.major == MAJOR
    except (OSError, WireError):
        return False
    finally:
        writer.close()
    return False
