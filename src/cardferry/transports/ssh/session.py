"""A command on the other side as a byte pipe: its standard streams, through the connection that is open already.

The session is a second ``ssh`` that hands its streams to the master over the control socket, so the bytes go from our
socket straight to the process that encrypts them.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import cast

from cardferry.transports.base import Pipe
from cardferry.transports.ssh.command import deaf_to_interrupts, dies_with_parent, environment
from cardferry.transports.ssh.connection import SshConnection
from cardferry.transports.ssh.guard import LineSplitter
from cardferry.transports.unix import adopt

log = logging.getLogger("cardferry.ssh")


class _Session(asyncio.SubprocessProtocol):
    """Notes what the command complains of; the event loop reaps it."""

    def __init__(self, destination: str) -> None:
        self._destination = destination
        self._lines = LineSplitter()

    def pipe_data_received(self, fd: int, data: bytes | str) -> None:
        for line in self._lines.feed(cast("bytes", data)):
            if line.strip():
                log.info("%s: %s", self._destination, line)


async def open_session(connection: SshConnection, command: str) -> Pipe:
    """Run ``command`` on the other side; its standard input and output are the pipe.

    The command ends when the pipe ends, and the pipe is lost when the command ends, for whatever reason.
    """
    near, far = socket.socketpair()
    try:
        await asyncio.get_running_loop().subprocess_exec(
            lambda: _Session(connection.destination),
            *deaf_to_interrupts(connection.session_command(command)),
            stdin=far.fileno(),
            stdout=far.fileno(),
            stderr=asyncio.subprocess.PIPE,
            env=environment(),
            preexec_fn=dies_with_parent(),
        )
    except OSError:
        near.close()
        raise
    finally:
        far.close()
    return await adopt(near, f"ssh://{connection.destination}")
