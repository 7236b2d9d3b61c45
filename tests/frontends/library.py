"""A libpcsclite of any version, word for word: C structs packed as its headers lay them out, no code of ours.

It says what ``winscard_clnt.c`` of that version says, over a real Unix socket. What comes back is taken by length, so
anything that is missing or too much shows at the next call.
"""

from __future__ import annotations

import asyncio
import os
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

VERSION, ESTABLISH, RELEASE, CONNECT, DISCONNECT = 0x11, 0x01, 0x02, 0x04, 0x06
BEGIN, END, TRANSMIT, CONTROL, CANCEL, GET_ATTRIB, SET_ATTRIB = 0x07, 0x08, 0x09, 0x0A, 0x0D, 0x0F, 0x10
STATES, WAIT, STOP, SIZE, ARRAY = 0x12, 0x13, 0x14, 0x16, 0x17
#: The first level whose wait and stop have no body, and whose wait is answered with the states.
_BODYLESS_WAIT = 4
#: s until a test gives up; all is on this computer.
_PATIENCE = 10.0


@dataclass(frozen=True)
class Build:
    """What a library was built as.

    Attributes:
        minor: protocol 4:minor.
        order: of its computer's integers, ``<`` or ``>``.
        name_size: MAX_READERNAME.
        slots: PCSCLITE_MAX_READERS_CONTEXTS.
    """

    minor: int
    order: str = "<"
    name_size: int = 128
    slots: int = 16

    @property
    def record(self) -> struct.Struct:
        """READER_STATE."""
        return struct.Struct(f"{self.order}{self.name_size}sIIi33s3xII")


@dataclass(frozen=True)
class Reader:
    """What a library reads in one READER_STATE."""

    name: str
    counter: int
    state: int
    sharing: int
    atr: bytes
    protocol: int


class CallError(Exception):
    """The answer had a return value other than zero."""


class Library:
    """One context; an asynchronous context manager.

    Args:
        build: what kind of library.
        path: of the socket.
    """

    def __init__(self, build: Build, path: Path) -> None:
        self.build = build
        self.context = 0
        self._path = path
        self._in: asyncio.StreamReader
        self._out: asyncio.StreamWriter

    async def __aenter__(self) -> Self:
        self._in, self._out = await asyncio.open_unix_connection(self._path)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._out.close()
        with suppress(ConnectionResetError):  # the front has hung up on something that it had not read
            await self._out.wait_closed()

    # bytes

    def tell(self, command: int, form: str = "", *values: int | bytes) -> None:
        """Header, then body, in two pieces as the library sends them."""
        body = struct.pack(self.build.order + form, *values)
        self._out.write(struct.pack(self.build.order + "II", len(body), command))
        self._out.write(body)

    async def hear(self, form: str) -> tuple[Any, ...]:
        """A struct of that form."""
        size = struct.calcsize(self.build.order + form)
        async with asyncio.timeout(_PATIENCE):
            return struct.unpack(self.build.order + form, await self._in.readexactly(size))

    async def raw(self, size: int) -> bytes:
        """So many bytes."""
        async with asyncio.timeout(_PATIENCE):
            return await self._in.readexactly(size)

    async def ask(self, command: int, form: str, *values: int | bytes) -> tuple[Any, ...]:
        """A struct there, the same struct back; its last field is the return value."""
        self.tell(command, form, *values)
        answer = await self.hear(form)
        if answer[-1]:
            raise CallError(f"0x{answer[-1]:08X}")
        return answer

    async def silence(self) -> None:
        """Nothing more has come: proven by an answer to a question that comes next."""
        await self.ask(VERSION, "iiI", 4, self.build.minor, 0)

    # calls

    async def establish(self) -> None:
        """VERSION and ESTABLISH."""
        await self.ask(VERSION, "iiI", 4, self.build.minor, 0)
        _, self.context, _ = await self.ask(ESTABLISH, "III", 0, 0, 0)

    async def readers(self) -> list[Reader]:
        """The fixed array."""
        self.tell(STATES)
        return await self.array(self.build.slots)

    async def array(self, count: int) -> list[Reader]:
        """So many records; empty slots are left out."""
        readers = []
        for fields in self.build.record.iter_unpack(await self.raw(count * self.build.record.size)):
            name, counter, state, sharing, atr, atr_size, protocol = fields
            if name[0]:
                text = os.fsdecode(name.partition(b"\0")[0])
                readers.append(Reader(text, counter, state, sharing, atr[:atr_size], protocol))
        return readers

    async def wait(self) -> list[Reader]:
        """Register for an event; the states, where they are the answer."""
        if self.build.minor < _BODYLESS_WAIT:
            self.tell(WAIT, "II", 60000, 0)
            return []
        self.tell(WAIT)
        return await self.array(self.build.slots)

    async def event(self) -> int:
        """What ends the wait."""
        _, rv = await self.hear("II")
        return int(rv)

    async def stop(self) -> None:
        """Take the registration back."""
        if self.build.minor < _BODYLESS_WAIT:
            await self.ask(STOP, "II", 0, 0)
        else:
            self.tell(STOP)
            assert (await self.hear("II"))[1] == 0

    async def connect(self, reader: str) -> tuple[int, int]:
        """Shared, any protocol: handle and protocol."""
        name = os.fsencode(reader)
        answer = await self.ask(CONNECT, f"I{self.build.name_size}sIIiII", self.context, name, 2, 3, 0, 0, 0)
        assert answer[1].rstrip(b"\0") == name
        return answer[4], answer[5]

    async def transmit(self, card: int, protocol: int, apdu: bytes) -> bytes:
        """One APDU."""
        self.tell(TRANSMIT, "iIIIIIII", card, protocol, 16, len(apdu), 3, 16, 65548, 0)
        self._out.write(apdu)
        *_, size, rv = await self.hear("iIIIIIII")
        assert rv == 0
        return await self.raw(size)

    async def control(self, card: int, code: int, data: bytes = b"") -> bytes:
        """One control code."""
        self.tell(CONTROL, "iIIIII", card, code, len(data), 300, 0, 0)
        self._out.write(data)
        *_, size, rv = await self.hear("iIIIII")
        assert rv == 0
        return await self.raw(size)

    async def attribute(self, card: int, attribute: int) -> bytes:
        """The value of an attribute."""
        answer = await self.ask(GET_ATTRIB, "iI264sII", card, attribute, b"", 264, 0)
        value: bytes = answer[2][: answer[3]]
        return value

    async def set_attribute(self, card: int, attribute: int, value: bytes) -> None:
        """Give an attribute a value."""
        await self.ask(SET_ATTRIB, "iI264sII", card, attribute, value, len(value), 0)
