"""A front before the manager's desk, and programs that talk to it over its real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cardferry.frontends.pcsclite import PcscliteFrontend
from cardferry.manager import Settings
from cardferry.transports.listening import ListeningSocket
from tests.frontends.library import (
    BEGIN,
    CANCEL,
    DISCONNECT,
    END,
    RELEASE,
    SIZE,
    TRANSMIT,
    WAIT,
    Build,
    Library,
)
from tests.manager.desk import APDU, READER, Desk

CONNECT, RECONNECT, STATUS, ARRAY, EVENTS = 0x04, 0x05, 0x0B, 0x17, 0x15
MODERN, NEWEST = Build(4), Build(6)


class Program(Library):
    """A library whose calls give their return value."""

    async def rv(self, command: int, form: str, *values: int | bytes) -> int:
        """Ask, and give the return value only."""
        self.tell(command, form, *values)
        return int((await self.hear(form))[-1])

    async def connected(self, reader: str = READER, share: int = 2, protocols: int = 3) -> int:
        """Establish a context and connect; the handle."""
        await self.establish()
        return await self.connecting(reader, share, protocols)

    async def connecting(self, reader: str = READER, share: int = 2, protocols: int = 3) -> int:
        """SCardConnect; the handle."""
        name_size = self.build.name_size
        form = f"I{name_size}sIIiII"
        *_, card, _protocol, rv = await self.ask(
            CONNECT, form, self.context, reader.encode(), share, protocols, 0, 0, 0
        )
        assert rv == 0
        return int(card)

    async def begin(self, card: int) -> int:
        """SCardBeginTransaction."""
        return await self.rv(BEGIN, "iI", card, 0)

    async def end(self, card: int, disposition: int = 0) -> int:
        """SCardEndTransaction."""
        return await self.rv(END, "iII", card, disposition, 0)

    async def status(self, card: int) -> int:
        """SCardStatus."""
        return await self.rv(STATUS, "iI", card, 0)

    async def disconnect(self, card: int, disposition: int = 0) -> int:
        """SCardDisconnect."""
        return await self.rv(DISCONNECT, "iII", card, disposition, 0)

    async def reconnect(self, card: int, share: int = 2, initialization: int = 0) -> int:
        """SCardReconnect."""
        return await self.rv(RECONNECT, "iIIIII", card, share, 3, initialization, 0, 0)

    async def release(self) -> int:
        """SCardReleaseContext."""
        return await self.rv(RELEASE, "II", self.context, 0)

    async def cancel(self, context: int) -> int:
        """SCardCancel, for another program's context."""
        return await self.rv(CANCEL, "II", context, 0)

    async def sending(self, card: int, apdu: bytes = APDU, room: int = 65548) -> tuple[int, int]:
        """SCardTransmit, with that much room: the length and the return value."""
        self.tell(TRANSMIT, "iIIIIIII", card, 2, 16, len(apdu), 3, 16, room, 0)
        self._out.write(apdu)
        *_, length, rv = await self.hear("iIIIIIII")
        if not rv:
            await self.raw(length)
        return length, rv

    async def all_states(self) -> list[Any]:
        """What a library of level 4:6 asks for the states: their number, then all of them."""
        return list(await self.array(await self.size()))

    async def size(self) -> int:
        """Ask for the number of records, then for the records, whose bytes are still to be read."""
        self.tell(SIZE)
        (count,) = await self.hear("i")
        self.tell(ARRAY)
        return int(count)

    async def register(self) -> None:
        """The wait of a library of level 4:6, with the states that it fetches then."""
        self.tell(WAIT)
        await self.all_states()

    async def at_end(self) -> bool:
        """Whether the front has hung up, with what was written to it read or not."""
        try:
            return await self._in.read(1) == b""
        except ConnectionResetError:
            return True

    def hang_up(self) -> None:
        """Close without a word."""
        self._out.close()

    def write(self, data: bytes) -> None:
        """Bytes of any kind."""
        self._out.write(data)


@dataclass
class Post:
    """What a test has.

    Attributes:
        desk: the manager, its reader, and programs that need no socket.
        front: the front.
        path: of its socket.
    """

    desk: Desk
    front: PcscliteFrontend
    path: Path

    def program(self, build: Build = MODERN) -> Program:
        """A program, to be used as a context manager."""
        return Program(build, self.path)


@asynccontextmanager
async def at_desk(folder: Path, settings: Settings | None = None, **options: Any) -> AsyncIterator[Post]:
    """Serve the desk's reader; ``options`` are the front's. In the end everything must have been freed."""
    async with Desk(settings) as desk:
        with ListeningSocket(folder / "s") as listening:
            async with PcscliteFrontend(desk.manager, listening, **options) as front:
                yield Post(desk, front, listening.path)
            assert (front.connections, front.registered, front.contexts, front.cards) == (set(), set(), {}, set())
