"""A layer that notes every call: who, what, how it ended, how long it took. Secrets stay out (`redaction`).

`Recorded` wraps any `ResourceManager` and is one; each call becomes a `CallRecord` for the given sink.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cardferry.pcsc.constants import Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError
from cardferry.pcsc.interface import Card, Context, Deliberate, Peer, ResourceManager
from cardferry.pcsc.reader_state import Snapshot
from cardferry.policy.redaction import describe_command, describe_response


@dataclass(slots=True)
class CallRecord:
    """One call.

    Attributes:
        at: when it came, in s since 1970.
        peer: who called.
        reader: the reader's name, empty for calls without one.
        call: such as ``transmit``.
        what: the call's parameters in words.
        outcome: how it ended in words; the error's name when it failed.
        seconds: how long the answer took.
    """

    at: float
    peer: str
    reader: str
    call: str
    what: str = ""
    outcome: str = ""
    seconds: float = 0.0


Sink = Callable[[CallRecord], None]


class Recorded:
    """A resource manager whose use is noted.

    Args:
        manager: what serves the cards.
        sink: gets each record when its call has ended; must not block.
    """

    def __init__(self, manager: ResourceManager, sink: Sink) -> None:
        self._manager = manager
        self._sink = sink

    @property
    def snapshot(self) -> Snapshot:
        """All readers as they are known now."""
        return self._manager.snapshot

    async def changed(self, serial: int) -> Snapshot:
        """Wait until the snapshot is another one."""
        return await self._manager.changed(serial)

    async def open(self, peer: Peer, patience: float | None = None) -> Context:
        """Open a context."""
        with noting(self._sink, peer.name, "", "establish context"):
            context = await self._manager.open(peer, patience)
        return _RecordedContext(context, peer.name, self._sink)


@contextmanager
def noting(sink: Sink, peer: str, reader: str, call: str, what: str = "") -> Iterator[CallRecord]:
    """Measure what happens inside and hand the record to the sink, whatever comes."""
    record = CallRecord(time.time(), peer, reader, call, what)
    start = time.perf_counter()
    try:
        yield record
    except PcscError as error:
        record.outcome = error.code.name
        raise
    finally:
        record.seconds = time.perf_counter() - start
        sink(record)


class _RecordedContext:
    def __init__(self, context: Context, peer: str, sink: Sink) -> None:
        self._context = context
        self._peer = peer
        self._sink = sink

    async def connect(self, reader: str, share: ShareMode, protocols: Protocol) -> Card:
        what = share.name.lower()
        with noting(self._sink, self._peer, reader, "connect", what) as record:
            card = await self._context.connect(reader, share, protocols)
            record.outcome = card.protocol.name or ""
        return _RecordedCard(card, self._peer, self._sink)

    async def close(self) -> None:
        with noting(self._sink, self._peer, "", "release context"):
            await self._context.close()


class _RecordedCard(Deliberate):
    def __init__(self, card: Card, peer: str, sink: Sink) -> None:
        self._card = card
        self._peer = peer
        self._sink = sink

    @property
    def reader(self) -> str:
        return self._card.reader

    @property
    def protocol(self) -> Protocol:
        return self._card.protocol

    @property
    def counted(self) -> bool:
        return self._card.counted

    @contextmanager
    def _noting(self, call: str, what: str = "") -> Iterator[CallRecord]:
        with noting(self._sink, self._peer, self._card.reader, call, what) as record:
            yield record

    async def reconnect(self, share: ShareMode, protocols: Protocol, initialization: Disposition) -> Protocol:
        with self._noting("reconnect", f"{share.name.lower()}, {initialization.name.lower()}") as record:
            protocol = await self._card.reconnect(share, protocols, initialization)
            record.outcome = protocol.name or ""
        return protocol

    async def begin(self) -> None:
        with self._noting("begin transaction"):
            await self._card.begin()

    async def end(self, disposition: Disposition) -> None:
        with self._noting("end transaction", disposition.name.lower()):
            await self._card.end(disposition)

    async def transmit(self, apdu: bytes, protocol: int) -> bytes:
        with self._noting("transmit", describe_command(apdu)) as record:
            response = await self._card.transmit(apdu, protocol)
            record.outcome = describe_response(response)
        return response

    async def control(self, code: int, data: bytes, max_response: int) -> bytes:
        with self._noting("control", f"code {code:#x}") as record:
            response = await self._card.control(code, data, max_response)
            record.outcome = f"{len(response)} bytes"
        return response

    async def attribute(self, attribute: int) -> bytes:
        with self._noting("get attribute", f"{attribute:#x}"):
            return await self._card.attribute(attribute)

    async def set_attribute(self, attribute: int, value: bytes) -> None:
        with self._noting("set attribute", f"{attribute:#x}"):
            await self._card.set_attribute(attribute, value)

    async def status(self) -> None:
        with self._noting("status"):
            await self._card.status()

    async def disconnect(self, disposition: Disposition) -> None:
        with self._noting("disconnect", disposition.name.lower()):
            await self._card.disconnect(disposition)
