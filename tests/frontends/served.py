"""A front on a real socket, with readers that the test plugs and fills."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cardferry.frontends.pcsclite import PcscliteFrontend
from cardferry.manager import LocalManager
from cardferry.pcsc.interface import ResourceManager
from cardferry.policy.offered import Offered
from cardferry.readers.virtual import VirtualReader, VirtualReaderSource
from cardferry.transports.listening import ListeningSocket

ATR = bytes.fromhex("3B80800101")


class EchoCard:
    """Answers each command with itself and 9000."""

    atr = ATR

    def power_on(self) -> bytes:
        return self.atr

    def reset(self) -> bytes:
        return self.atr

    def power_off(self) -> None:
        pass

    def process(self, apdu: bytes) -> bytes:
        return apdu + b"\x90\x00"

    def slow(self, apdu: bytes) -> bool:
        return False


@dataclass
class Served:
    """What a test has.

    Attributes:
        path: of the socket.
        source: where readers are plugged in.
        readers: those that are there.
    """

    path: Path
    source: VirtualReaderSource
    readers: list[VirtualReader]


@asynccontextmanager
async def served(
    folder: Path, names: Sequence[str], patterns: Sequence[str] = (), **options: Any
) -> AsyncIterator[Served]:
    """Serve readers of these names; ``options`` are the front's."""
    source = VirtualReaderSource()
    readers = [source.add_reader(name) for name in names]
    async with LocalManager([source]) as manager:
        offered: ResourceManager = Offered(manager, patterns) if patterns else manager
        with ListeningSocket(folder / "s") as listening:
            async with PcscliteFrontend(offered, listening, **options):
                yield Served(listening.path, source, readers)
