"""An agent with a card that takes its time: ``python -m tests.app.slow_agent SOCKET READER SECONDS``.

It ends when its standard input ends.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from cardferry.app.agent.listeners import GuestListeners
from cardferry.app.runtime import signals as lifetime
from cardferry.app.runtime.garbage import collect_rarely
from cardferry.link import LinkServer
from cardferry.manager import LocalManager
from cardferry.readers.virtual import VirtualReaderSource
from cardferry.transports.sockets import Access
from cardferry.transports.unix import UnixAddress
from tests.link.cards import CountingCard


async def serve(path: Path, reader: str, seconds: float) -> None:
    """Serve until standard input ends."""
    collect_rarely()
    source = VirtualReaderSource()
    with UnixAddress(path).listen(Access()) as listener:
        async with GuestListeners([listener]) as guests, LocalManager([source]) as manager, LinkServer(manager) as host:
            source.add_reader(reader, seconds).insert(CountingCard())
            guests.open(host.serve)
            print("ready", flush=True)
            ended = asyncio.Event()
            asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended.set)
            await ended.wait()


if __name__ == "__main__":
    lifetime.run(lambda: serve(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])))
