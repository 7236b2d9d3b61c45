"""A layer that notes every call: who, what, how it ended, how long it took. Secrets stay out (`redaction`).

`Recorded` wraps any `ResourceManager` and is one; each call becomes a `CallRecord` for the given sink.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from cardferry.pcsc.applications import Applications
from cardferry.pcsc.caller import Caller, Principal, is_by_host_itself
from cardferry.pcsc.constants import Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError
from cardferry.pcsc.interface import Card, Context, ResourceManager
from cardferry.pcsc.reader_state import Snapshot
from cardferry.pcsc.reply import Reply
from cardferry.policy.redaction import describe_command, describe_response

T = TypeVar("T")


@dataclass(slots=True)
class CallRecord:
    """One call.

    Attributes:
        at: when it came, in s since 1970.
        principal: on whose behalf, such as ``ssh:build1``; see `cardferry.pcsc.caller.Principal`.
        program: which program called, in words; what a guest says of it, for programs of guests.
        by_host: whether the host has made the call by itself for that program: it ran ahead, or asked the reader.
        reader: the reader's name, empty for calls without one.
        call: such as ``transmit``.
        what: the call's parameters in words.
        outcome: how it ended in words; the error's name when it failed.
        seconds: how long the answer took.
    """

    at: float
    principal: str
    program: str
    by_host: bool
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

    def seen_by(self, principal: Principal) -> Recorded:
        """The readers that the principal may know of."""
        return Recorded(self._manager.seen_by(principal), self._sink)

    def may_read(self, reader: str, applications: Applications, apdu: bytes) -> bool:
        """Whether the answer to a command may be read."""
        return self._manager.may_read(reader, applications, apdu)

    async def open(self, caller: Caller, patience: float | None = None) -> Context:
        """Open a context."""
        with _Note(self._sink, caller, "", "establish context"):
            context = await self._manager.open(caller, patience)
        return _RecordedContext(context, caller, self._sink)


class _Note:
    """What is noted of one call, from its begin, when this is made, to its end.

    Args:
        apdu: of a transmit. It is put into words after the answer has gone on its way.
    """

    __slots__ = ("_apdu", "_sink", "_start", "record")

    def __init__(
        self, sink: Sink, caller: Caller, reader: str, call: str, *, what: str = "", apdu: bytes = b""
    ) -> None:
        self._sink = sink
        self._apdu = apdu
        self.record = CallRecord(
            time.time(), str(caller.principal), str(caller), is_by_host_itself(), reader, call, what
        )
        self._start = time.perf_counter()

    def __enter__(self) -> CallRecord:
        return self.record

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._end(error)

    def of(self, reply: Reply[T]) -> Reply[T]:
        """This is the call's reply."""
        return reply.then(self._answered)

    def _answered(self, reply: Reply[Any]) -> None:
        if self._apdu:
            self.record.what = describe_command(self._apdu)
            if reply.error is None:
                self.record.outcome = describe_response(reply.result())
        self._end(reply.error)

    def _end(self, error: BaseException | None) -> None:
        self.record.seconds = time.perf_counter() - self._start
        if isinstance(error, PcscError):
            self.record.outcome = error.code.name
        self._sink(self.record)


class _RecordedContext:
    def __init__(self, context: Context, caller: Caller, sink: Sink) -> None:
        self._context = context
        self._caller = caller
        self._sink = sink

    async def connect(self, reader: str, share: ShareMode, protocols: Protocol) -> Card:
        with _Note(self._sink, self._caller, reader, "connect", what=share.name.lower()) as record:
            card = await self._context.connect(reader, share, protocols)
            record.outcome = card.protocol.name or ""
        return _RecordedCard(card, self._caller, self._sink)

    async def close(self) -> None:
        with _Note(self._sink, self._caller, "", "release context"):
            await self._context.close()


class _RecordedCard:
    def __init__(self, card: Card, caller: Caller, sink: Sink) -> None:
        self._card = card
        self._caller = caller
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

    def _note(self, call: str, what: str = "", apdu: bytes = b"") -> _Note:
        return _Note(self._sink, self._caller, self._card.reader, call, what=what, apdu=apdu)

    async def reconnect(self, share: ShareMode, protocols: Protocol, initialization: Disposition) -> Protocol:
        with self._note("reconnect", f"{share.name.lower()}, {initialization.name.lower()}") as record:
            protocol = await self._card.reconnect(share, protocols, initialization)
            record.outcome = protocol.name or ""
        return protocol

    def begin(self) -> Reply[None]:
        return self._note("begin transaction").of(self._card.begin())

    def end(self, disposition: Disposition) -> Reply[None]:
        return self._note("end transaction", disposition.name.lower()).of(self._card.end(disposition))

    def transmit(self, apdu: bytes, protocol: int) -> Reply[bytes]:
        return self._note("transmit", apdu=apdu).of(self._card.transmit(apdu, protocol))

    async def control(self, code: int, data: bytes, max_response: int) -> bytes:
        with self._note("control", f"code {code:#x}") as record:
            response = await self._card.control(code, data, max_response)
            record.outcome = f"{len(response)} bytes"
        return response

    async def attribute(self, attribute: int) -> bytes:
        with self._note("get attribute", f"{attribute:#x}"):
            return await self._card.attribute(attribute)

    async def set_attribute(self, attribute: int, value: bytes) -> None:
        with self._note("set attribute", f"{attribute:#x}"):
            await self._card.set_attribute(attribute, value)

    async def status(self) -> None:
        with self._note("status"):
            await self._card.status()

    async def disconnect(self, disposition: Disposition) -> None:
        with self._note("disconnect", disposition.name.lower()):
            await self._card.disconnect(disposition)
