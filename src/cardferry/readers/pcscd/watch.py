"""pcscd's reader table, and when it changes.

How a change becomes known depends on the protocol level (``eventhandler.c``, ``winscard_svc.c`` of pcsc-lite):

- 4:4 and 4:5: a wait is answered with the table and registers at the same moment. Nothing can be missed.
- 4:2, 4:3 and 4:6: a wait is not answered. A version request behind it is: when its reply is there, the registration
  is, too. The table is fetched after that, on a connection of its own, because pcscd 2.5 can put the event into the
  middle of a table.

An event ends the registration, so it is registered anew and the table compared. Either way a change after the look at
the table brings an event.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Final, cast

from cardferry.pcsc.errors import PcscError
from cardferry.pcsc.reader_state import ReaderState
from cardferry.readers.pcscd.connection import Connection
from cardferry.readers.pcscd.connector import Connector
from cardferry.readers.pcscd.failure import NoPcscdError, Reason
from cardferry.wire.pcsclite.layout import FIXED_SLOTS, WAIT_ANSWERED
from cardferry.wire.pcsclite.messages import (
    GetReadersState,
    GetReadersStateArray,
    GetReadersStateSize,
    StateCountReply,
    StatesReply,
    Version,
    WaitReaderStateChange,
)

_SIZED_ARRAY: Final = 6

Table = tuple[ReaderState, ...]


class Watch:
    """Watches one pcscd; make it by `Watch.open`."""

    def __init__(self, connector: Connector, events: Connection) -> None:
        self._connector = connector
        self._events = events
        self._query: Connection | None = None
        self._happened = asyncio.Event()
        events.on_event = self._happened.set
        events.on_lost = self._happened.set

    @classmethod
    async def open(cls, connector: Connector) -> Watch:
        """Connect. Raises `NoPcscdError`."""
        return cls(connector, await Connection.open(connector))

    @property
    def minor(self) -> int:
        """The protocol level of this pcscd, 2 to 6."""
        return self._events.minor

    async def tables(self) -> AsyncGenerator[Table, None]:
        """The table now, and again after each change. Raises `NoPcscdError` when pcscd is gone."""
        while True:
            self._happened.clear()
            try:
                table = await self._look()
            except PcscError as error:
                raise self._failure() from error
            yield table
            await self._happened.wait()
            if self._events.failure is not None:
                raise self._events.failure

    def close(self) -> None:
        """Close the connections."""
        self._events.close()
        if self._query is not None:
            self._query.close()

    def _failure(self) -> NoPcscdError:
        for connection in (self._events, self._query):
            if connection is not None and connection.failure is not None:
                return connection.failure
        return NoPcscdError(Reason.LOST)

    async def _look(self) -> Table:
        if self.minor in WAIT_ANSWERED:
            return cast(StatesReply, await self._events.post(WaitReaderStateChange())).readers
        _, registered = self._events.post_all(WaitReaderStateChange(), Version(minor=self.minor))
        await registered
        return await self._fetch()

    async def _fetch(self) -> Table:
        if self._query is None:
            self._query = await Connection.open(self._connector, self.minor)
        try:
            return await _fetch(self._query)
        except PcscError:
            # pcscd 2.5 adds a reader between telling the size and sending the array: then there is more than was
            # expected, and the connection cannot be used any more. A new one finds the new size.
            if self._events.failure is not None:
                raise
            self._query = await Connection.open(self._connector, self.minor)
            return await _fetch(self._query)


async def _fetch(connection: Connection) -> Table:
    if connection.minor < _SIZED_ARRAY:
        return cast(StatesReply, await connection.post(GetReadersState())).readers
    size, states = connection.post_all(GetReadersStateSize(), GetReadersState())
    if cast(StateCountReply, await size).count <= FIXED_SLOTS:
        return cast(StatesReply, await states).readers
    return cast(StatesReply, await connection.post(GetReadersStateArray())).readers
