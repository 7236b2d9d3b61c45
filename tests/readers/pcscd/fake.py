"""A pcscd in memory, as far as one program can tell: the behaviour of ``winscard.c`` and ``winscard_svc.c``.

Its connections work off one request after the other; a refused BEGIN takes 100 ms, a CONNECT waits for the lock. The
test plays the other programs: `FakeReader.lock`, `FakeReader.reset_by_other` and so on.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from cardferry.pcsc.constants import CardState, Protocol
from cardferry.pcsc.errors import ReturnCode
from cardferry.pcsc.reader_state import ReaderState
from cardferry.wire.pcsclite.layout import layout_of
from cardferry.wire.pcsclite.messages import (
    BeginTransaction,
    Connect,
    Control,
    Disconnect,
    EndTransaction,
    EstablishContext,
    GetAttribute,
    GetReadersState,
    GetReadersStateArray,
    GetReadersStateSize,
    Reconnect,
    Request,
    SetAttribute,
    Status,
    Transmit,
    Version,
    WaitReaderStateChange,
)
from cardferry.wire.pcsclite.server import ServerCodec

ATR = bytes.fromhex("3b80800101")
LOCK_POLL = 0.1
POWERED = CardState.PRESENT | CardState.POWERED | CardState.NEGOTIABLE
OTHER = -1
OK = 0
RESET, REMOVED = ReturnCode.W_RESET_CARD, ReturnCode.W_REMOVED_CARD
VIOLATION = ReturnCode.E_SHARING_VIOLATION


@dataclass
class FakeReader:
    """One reader, its card and who uses it."""

    pcscd: FakePcscd
    name: str
    state: CardState = CardState.ABSENT
    atr: bytes = b""
    counter: int = 0
    owner: int = 0
    count: int = 0
    others: int = 0
    #: The handle that shares with nobody.
    exclusive: int = 0
    protocol: int = 0
    #: Our handles, each with what it must be told.
    handles: dict[int, int] = field(default_factory=dict)
    #: What the card did: commands, "reset", "unpower"; with the time and who held the lock.
    executed: list[tuple[float, bytes | str, int]] = field(default_factory=list)
    apdu_time: float = 0.0
    response: Callable[[bytes], bytes] = field(default=lambda apdu: b"\x90\x00")

    @property
    def record(self) -> ReaderState:
        sharing = -1 if self.exclusive else len(self.handles) + self.others
        return ReaderState(self.name, self.counter, self.state, sharing, self.atr)

    @property
    def commands(self) -> list[bytes | str]:
        return [what for _, what, _ in self.executed]

    def insert(self, atr: bytes = ATR) -> None:
        self.state = POWERED if atr else CardState.PRESENT | CardState.SWALLOWED
        self.atr, self.counter, self.protocol = atr, (self.counter + 1) & 0xFFFF, 0
        self.pcscd.signal()

    def remove(self) -> None:
        self.state, self.atr, self.counter, self.protocol = CardState.ABSENT, b"", (self.counter + 1) & 0xFFFF, 0
        self.owner = self.count = 0
        self.handles = dict.fromkeys(self.handles, REMOVED)
        self.pcscd.signal()

    def exchange_card(self) -> None:
        """Out and in again, before anybody has looked."""
        self.state, self.counter = CardState.ABSENT, (self.counter + 1) & 0xFFFF
        self.owner = self.count = 0
        self.handles = dict.fromkeys(self.handles, REMOVED)
        self.insert()

    def replug(self) -> None:
        """Out and in again, with its card, before anybody has looked: none of its handles is known any more."""
        self.owner = self.count = self.protocol = self.exclusive = 0
        self.handles = {}

    def fail(self) -> None:
        self.state, self.atr = CardState.UNKNOWN, b""
        self.pcscd.signal()

    def lock(self) -> None:
        """Another program begins a transaction."""
        assert self.owner in (0, OTHER), "our lock is in the way"
        self.owner, self.count = OTHER, 1

    def unlock(self) -> None:
        assert self.owner == OTHER
        self.owner = self.count = 0

    def reset_by_other(self) -> None:
        assert self.owner in (0, OTHER), "our lock is in the way"
        self.handles = dict.fromkeys(self.handles, RESET)
        self.protocol = 0

    def free_for(self, card: int) -> bool:
        return self.owner in (0, card)

    def did(self, what: bytes | str) -> None:
        self.executed.append((asyncio.get_running_loop().time(), what, self.owner))


class Pipe(asyncio.Transport):
    """One direction of a byte pipe in memory, as the writer sees it."""

    def __init__(self, delay: float) -> None:
        super().__init__()
        self.delay = delay
        self.receive: Callable[[bytes], None] = lambda data: None
        self.lost: Callable[[Exception | None], None] = lambda error: None
        self.lost_here: Callable[[Exception | None], None] = lambda error: None
        self.open = True
        self._under_way: deque[Callable[[], None]] = deque()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.open:
            self._later(partial(self._deliver, bytes(data)))

    def _deliver(self, data: bytes) -> None:
        if self.open:
            try:
                self.receive(data)
            except Exception as error:  # a protocol that raises loses its transport
                self.end(error)
                raise

    def abort(self) -> None:
        self.end(None)

    def end(self, error: Exception | None) -> None:
        """Close it for both sides; the other one gets ``error``."""
        if self.open:
            self.open = False
            asyncio.get_running_loop().call_soon(self.lost_here, None)
            self._later(partial(self.lost, error))

    def _later(self, call: Callable[[], None]) -> None:
        # Timers of the same time come in any order, so what they do is taken from a queue.
        self._under_way.append(call)
        loop = asyncio.get_running_loop()
        if self.delay:
            loop.call_later(self.delay, self._next)
        else:
            loop.call_soon(self._next)

    def _next(self) -> None:
        self._under_way.popleft()()


class FakeConnection:
    """One client's connection, as pcscd's thread for it."""

    def __init__(self, pcscd: FakePcscd, delay: float) -> None:
        self.pcscd = pcscd
        self.codec = ServerCodec(name_size=pcscd.name_size)
        self.to_client = Pipe(delay)
        self.from_client = Pipe(delay)
        self.from_client.receive = self.received
        self.from_client.lost = self.lost
        #: Requests by the writes they came in.
        self.writes: list[list[Request]] = []
        self.context = 0
        self.registered = False
        self._queue: deque[Request] = deque()
        self._busy = False
        self._loop = asyncio.get_running_loop()

    @property
    def requests(self) -> list[Request]:
        return [request for write in self.writes for request in write]

    def received(self, data: bytes) -> None:
        requests = self.codec.receive(data)
        if self.codec.error is not None:
            raise AssertionError("the client breaks the protocol") from self.codec.error
        self.writes.append(requests)
        self._queue.extend(requests)
        self._work()

    def lost(self, error: Exception | None) -> None:
        self.to_client.open = False
        self.registered = False
        if self in self.pcscd.connections:
            self.pcscd.connections.remove(self)
        for reader in self.pcscd.readers.values():
            for card in [card for card in reader.handles if self.pcscd.cards[card] is self]:
                del reader.handles[card]
                if reader.owner == card:
                    reader.owner = reader.count = 0
                if reader.exclusive == card:
                    reader.exclusive = 0

    def hang_up(self, error: Exception | None = None) -> None:
        self.to_client.end(error)
        self.from_client.open = False
        self.lost(None)

    def reply(self, data: bytes) -> None:
        if data:
            self.to_client.write(data)

    def _work(self) -> None:
        while self._queue and not self._busy and self.to_client.open:
            self.pcscd.serve(self, self._queue.popleft())

    def sleep(self, seconds: float, then: Callable[[], None]) -> None:
        """The thread sleeps, then goes on."""
        self._busy = True
        self._loop.call_later(seconds, self._woken, then)

    def _woken(self, then: Callable[[], None]) -> None:
        self._busy = False
        if self.to_client.open:
            then()
            self._work()


class FakePcscd:
    """See the module.

    Args:
        minor: the protocol level 4:minor it speaks.
        delay: of each direction, in s.
        name_size: bytes of a reader's name, 100 up to pcsc-lite 1.8.3.
    """

    def __init__(self, minor: int = 4, delay: float = 0.0, name_size: int = 128) -> None:
        self.name_size = name_size
        self.minor = minor
        self.delay = delay
        self.readers: dict[str, FakeReader] = {}
        self.connections: list[FakeConnection] = []
        #: All connections there ever were.
        self.dialled: list[FakeConnection] = []
        self.cards: dict[int, FakeConnection] = {}
        self.array_size = 16
        #: How long a BEGIN takes that succeeds.
        self.begin_time = 0.0
        self.refuse_dial: OSError | None = None
        #: Called with each new connection, before it is told to the client.
        self.greet: Callable[[FakeConnection], None] = lambda connection: None
        #: Answers instead of ours, as return values by request type, used up one by one.
        self.script: dict[type[Request], list[int]] = {}
        self._next = 100

    async def dial(self, factory: Callable[[], asyncio.Protocol]) -> object:
        if self.refuse_dial is not None:
            raise self.refuse_dial
        connection = FakeConnection(self, self.delay)
        client = factory()
        connection.to_client.receive = client.data_received
        connection.to_client.lost = connection.from_client.lost_here = client.connection_lost
        self.connections.append(connection)
        self.dialled.append(connection)
        client.connection_made(connection.from_client)
        self.greet(connection)
        return client

    def add_reader(self, name: str) -> FakeReader:
        reader = self.readers[name] = FakeReader(self, name)
        self.signal()
        return reader

    def remove_reader(self, name: str) -> None:
        del self.readers[name]
        self.signal()

    def signal(self) -> None:
        """Send every registered client its event."""
        for connection in self.connections:
            if connection.registered:
                connection.registered = False
                connection.reply(connection.codec.event())

    def stop(self) -> None:
        """All connections end; dialling fails."""
        self.refuse_dial = ConnectionRefusedError(111, "Connection refused")
        for connection in list(self.connections):
            connection.hang_up()

    def start(self) -> None:
        """As after a new start: nobody is connected."""
        self.refuse_dial = None
        for reader in self.readers.values():
            reader.handles, reader.owner, reader.count, reader.counter, reader.exclusive = {}, 0, 0, 0, 0

    @property
    def table(self) -> tuple[ReaderState, ...]:
        return tuple(reader.record for reader in self.readers.values())

    def connection_of(self, reader: FakeReader) -> FakeConnection:
        """The connection of our newest handle."""
        return self.cards[max(reader.handles)]

    # requests

    def serve(self, connection: FakeConnection, request: Request) -> None:
        codec, reply = connection.codec, connection.reply
        match request:
            case Version():
                reply(self._version(connection, request))
            case GetReadersState():
                reply(codec.states(self.table[:16]))
            case GetReadersStateSize():
                reply(struct.pack("=i", self.array_size))
            case GetReadersStateArray():
                records = b"".join(map(layout_of(codec.dialect).encode_reader, self.table))
                reply(records + bytes(184 * (self.array_size - len(self.table))))
            case WaitReaderStateChange():
                connection.registered = True
                reply(codec.waiting(self.table[:16]))
            case EstablishContext():
                connection.context = self._new()
                reply(codec.established(request, connection.context, self._scripted(request)))
            case Connect():
                self._connect(connection, request)
            case BeginTransaction():
                self._begin(connection, request)
            case Status():
                self._status(connection, request)
            case _:
                self._card_request(connection, request)

    def _new(self) -> int:
        self._next += 1
        return self._next

    def _scripted(self, request: Request, otherwise: int = OK) -> int:
        answers = self.script.get(type(request))
        return answers.pop(0) if answers else otherwise

    def _version(self, connection: FakeConnection, request: Version) -> bytes:
        if request.minor == self.minor:
            return connection.codec.version(request)
        rv = ReturnCode.E_SERVICE_STOPPED if self.minor >= 4 else ReturnCode.E_NO_SERVICE
        return struct.pack("=iiI", 4, self.minor, rv)

    def _connect(self, connection: FakeConnection, request: Connect) -> None:
        assert request.context == connection.context
        reader = self.readers.get(request.reader)
        if reader is not None and reader.exclusive:
            connection.reply(connection.codec.connected(request, 0, 0, VIOLATION))
            return
        self._connect_shared(connection, request)

    def _connect_shared(self, connection: FakeConnection, request: Connect) -> None:
        """Who has found the reader not exclusive waits for the lock, whatever comes."""
        reader = self.readers.get(request.reader)
        if reader is not None and reader.owner:
            connection.sleep(LOCK_POLL, lambda: self._connect_shared(connection, request))
            return
        rv = self._scripted(request, self._connectable(reader, request))
        if rv or reader is None:
            connection.reply(connection.codec.connected(request, 0, 0, rv))
            return
        card = self._new()
        self.cards[card] = connection
        reader.handles[card] = 0
        if request.share != 3:
            reader.protocol = reader.protocol or (2 if request.protocols & 2 else 1)
        connection.reply(connection.codec.connected(request, card, reader.protocol))

    def _connectable(self, reader: FakeReader | None, request: Connect) -> int:
        if reader is None:
            return ReturnCode.E_UNKNOWN_READER
        if request.share != 3 and not reader.state & CardState.PRESENT:
            return ReturnCode.E_NO_SMARTCARD
        return OK

    def _begin(self, connection: FakeConnection, request: BeginTransaction) -> None:
        reader = self._reader(connection, request.card)
        rv: int = ReturnCode.E_INVALID_VALUE
        if reader is not None:
            free = reader.free_for(request.card)
            rv = self._scripted(request, reader.handles[request.card] or (OK if free else VIOLATION))
            if not rv:
                reader.owner = request.card
                reader.count += 1
        answer = connection.codec.acknowledged(request, rv)
        if rv == VIOLATION or self.begin_time:
            seconds = LOCK_POLL if rv == VIOLATION else self.begin_time
            connection.sleep(seconds, lambda: connection.reply(answer))
        else:
            connection.reply(answer)

    def _status(self, connection: FakeConnection, request: Status) -> None:
        reader = self._reader(connection, request.card)
        rv: int = ReturnCode.E_INVALID_VALUE
        if reader is not None:
            rv = reader.handles[request.card] if reader.free_for(request.card) else VIOLATION
        connection.reply(connection.codec.acknowledged(request, rv))

    def _reader(self, connection: FakeConnection, card: int) -> FakeReader | None:
        assert self.cards.get(card) is connection, "pcscd would end the connection: the handle is not its own"
        return next((reader for reader in self.readers.values() if card in reader.handles), None)

    def _card_request(self, connection: FakeConnection, request: Request) -> None:
        assert isinstance(
            request, EndTransaction | Disconnect | Reconnect | Transmit | Control | GetAttribute | SetAttribute
        )
        reader = self._reader(connection, request.card)
        if reader is None:
            rv: int = OK if isinstance(request, Disconnect) else ReturnCode.E_INVALID_VALUE
            connection.reply(self._answer(connection, request, rv))
            return
        rv = self._scripted(request, self._verdict(reader, request))
        if isinstance(request, Transmit) and not rv:
            reader.did(request.apdu)
            response = reader.response(request.apdu)
            answer = connection.codec.transmitted(request, response)
            if reader.apdu_time:
                connection.sleep(reader.apdu_time, lambda: connection.reply(answer))
                return
            connection.reply(answer)
            return
        if not rv:
            self._act(reader, request)
        connection.reply(self._answer(connection, request, rv))

    def _verdict(self, reader: FakeReader, request: Request) -> int:
        """What pcscd checks, in its order."""
        assert isinstance(
            request, EndTransaction | Disconnect | Reconnect | Transmit | Control | GetAttribute | SetAttribute
        )
        mark, mine = reader.handles[request.card], reader.free_for(request.card)
        if isinstance(request, Disconnect):
            return OK if mine or not request.disposition else VIOLATION
        if isinstance(request, EndTransaction):
            if mark or not mine:
                return mark or VIOLATION
            return OK if reader.count > bool(reader.exclusive) else ReturnCode.E_NOT_TRANSACTED
        if not mine:
            return VIOLATION
        if isinstance(request, Reconnect):
            if not reader.state & CardState.PRESENT:
                return ReturnCode.E_NO_SMARTCARD
            if request.share == 1 and not reader.exclusive and (reader.others or len(reader.handles) > 1):
                return VIOLATION
            return OK
        if isinstance(request, Transmit) and not mark and request.protocol not in (reader.protocol, Protocol.RAW):
            return ReturnCode.E_PROTO_MISMATCH
        return OK if isinstance(request, Control) else mark

    def _act(self, reader: FakeReader, request: Request) -> None:
        match request:
            case EndTransaction():
                reader.count -= 1
                if not reader.count:
                    reader.owner = 0
            case Disconnect():
                del reader.handles[request.card]
                del self.cards[request.card]
                if reader.owner == request.card:
                    reader.owner = reader.count = 0
                if reader.exclusive == request.card:
                    reader.exclusive = 0
                if request.disposition:
                    reader.did("reset" if request.disposition == 1 else "unpower")
            case Reconnect():
                if request.initialization:
                    reader.did("reset" if request.initialization == 1 else "unpower")
                    reader.handles = dict.fromkeys(reader.handles, RESET)
                reader.protocol = 2 if request.protocols & 2 else 1
                self._share(reader, request)

    def _share(self, reader: FakeReader, request: Reconnect) -> None:
        """What a reconnect does last. pcscd keeps the lock of an exclusive handle that becomes a shared one."""
        if request.share == 1 and not reader.exclusive:
            reader.exclusive = reader.owner = request.card
            reader.count += 1
        elif request.share != 1 and reader.exclusive:
            reader.count = max(1, reader.count - 1)
            reader.exclusive = 0
        reader.handles[request.card] = 0

    def _answer(self, connection: FakeConnection, request: Request, rv: int) -> bytes:
        codec = connection.codec
        match request:
            case EndTransaction() | Disconnect():
                return codec.acknowledged(request, rv)
            case Reconnect():
                return codec.reconnected(request, 0 if rv else 2, rv)
            case Transmit():
                return codec.transmitted(request, b"", rv)
            case Control():
                return codec.controlled(request, b"" if rv else request.data, rv)
            case GetAttribute():
                return codec.attribute(request, b"" if rv else b"value", rv)
            case SetAttribute():
                return codec.attribute(request, rv=rv)
        raise AssertionError(request)


def table_of(*readers: ReaderState) -> dict[str, ReaderState]:
    """Records by name."""
    return {reader.name: reader for reader in readers}


def changed(record: ReaderState, **fields: object) -> ReaderState:
    """A record with other values."""
    return replace(record, **fields)  # type: ignore[arg-type]
