"""Protocol levels of pcsc-lite releases, and which pairs refuse each other when nothing of ours is in between.

Source: pcsc-lite's ``winscard_msg.h``, ``winscard_svc.c`` and ``winscard_clnt.c`` of the releases named.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from enum import Enum
from pathlib import Path
from typing import Final

from cardferry.system.processes import killed
from cardferry.wire.errors import WireError
from cardferry.wire.pcsclite import messages as m
from cardferry.wire.pcsclite.server import ServerCodec

log = logging.getLogger(__name__)

RELEASES: Final = {
    2: "1.6.5 to 1.8.8",
    3: "1.8.9 to 1.8.23",
    4: "1.8.24 to 2.2.3",
    5: "2.3.0 to 2.4.1",
    6: "2.5.0 and newer",
}
_ASK: Final = (
    "import ctypes; c = ctypes.c_long(); "
    "ctypes.CDLL('libpcsclite.so.1').SCardEstablishContext(ctypes.c_ulong(0), None, None, ctypes.byref(c))"
)
_PATIENCE: Final = 10.0


class Pair(Enum):
    """How a library and a pcscd get along without us."""

    WORKS = "works"
    #: It works, but a program whose first call is to wait for readers (``pcsc_scan``) fails and gets out of step.
    STUMBLES = "stumbles"
    #: Two releases of the same level differ: 4:2 has long or short reader names, of 4:5 only 2.4.1 adapts.
    DEPENDS = "depends on the release"
    REFUSED = "refused"


def release_of(level: int) -> str:
    """The releases that speak a level, for people."""
    return f"pcsc-lite {RELEASES.get(level, 'newer than this cardferry knows')}"


def pair(client: int, server: int, accepted: bool | None = None) -> Pair:
    """What becomes of a client of one level at a pcscd of another.

    Up to 2.4.0 a server takes its own level only, 2.4.1 takes 4:4 and up, 2.5 takes 4:4 to 4:6. A refused client of
    2.4.1 or newer comes again with the server's level when that is 4:4 or more.

    Args:
        client: level of the library.
        server: level that the server names.
        accepted: whether the server takes the client's level at once; None when that was not tried.
    """
    if client == server:
        return Pair.DEPENDS if client == 2 else Pair.WORKS
    if accepted or (server == 6 and client in (4, 5)):
        return Pair.WORKS
    if client == 6 and server in (4, 5):
        return Pair.STUMBLES
    if {client, server} == {4, 5} and (accepted is None or client == 5):
        return Pair.DEPENDS
    return Pair.REFUSED


async def library_level() -> int | None:
    """The level that this computer's libpcsclite speaks, found by letting it say hello; None when there is none.

    Raises:
        OSError: it cannot be found out.
    """
    with tempfile.TemporaryDirectory(prefix="cardferry-") as folder:
        path = Path(folder) / "hello"
        said: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            codec = ServerCodec()
            try:
                while not said.done() and (data := await reader.read(4096)):
                    for request in codec.receive(data):
                        if isinstance(request, m.Version) and not said.done():
                            said.set_result(request.minor)
            except (WireError, ConnectionError) as error:
                log.debug("the library says something strange: %s", error)
            finally:
                writer.close()

        server = await asyncio.start_unix_server(listen, path)
        try:
            await _say_hello(path)
        finally:
            server.close()
        return said.result() if said.done() else None


async def _say_hello(path: Path) -> None:
    """Have a process load the library and say hello at ``path``: what it does to that process is no matter."""
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _ASK),
        env={"PCSCLITE_CSOCK_NAME": str(path)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(_PATIENCE):
            await program.wait()
    finally:
        await killed(program)
