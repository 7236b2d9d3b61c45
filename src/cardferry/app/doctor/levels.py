"""Protocol levels of pcsc-lite releases, and which pairs refuse each other without us.

Source: pcsc-lite's ``winscard_msg.h``, ``winscard_svc.c`` and ``winscard_clnt.c`` of the releases named.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from pathlib import Path
from typing import Final

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


async def library_level() -> int | None:
    """The level that this computer's libpcsclite speaks, found by letting it say hello; None when there is none."""
    with tempfile.TemporaryDirectory(prefix="cardferry-") as folder:
        path = Path(folder) / "hello"
        said: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            codec = ServerCodec()
            try:
                while not said.done() and (data := await reader.read(4096)):
                    for request in codec.receive(data):
                        if isinstance(request, m.Version):
                            said.set_result(request.minor)
            except WireError as error:
                log.debug("the library says something strange: %s", error)
            finally:
                writer.close()

        server = await asyncio.start_unix_server(listen, path)
        try:
            program = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _ASK),
                env={"PCSCLITE_CSOCK_NAME": str(path)},
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            async with asyncio.timeout(_PATIENCE):
                await program.wait()
            return said.result() if said.done() else None
        finally:
            server.close()


def refuse_each_other(client: int, server: int) -> bool:
    """Whether a client of that level is turned away by a pcscd of that level when nothing is in between.

    Up to 2.4.0 a server takes its own level only; newer clients adapt to 4:4 and 4:5, newer servers take 4:4 and up.
    """
    if client == server:
        return False
    newer = {4, 5, 6}
    adapts = client == 6 and server in newer
    tolerant = server == 6 and client in newer
    return not (adapts or tolerant)
