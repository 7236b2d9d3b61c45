"""One application's connection: requests in, replies out, strictly one after the other, as pcscd does it.

What is known without asking anybody (versions, reader states, waiting for changes) is answered at once from the
snapshot. Of all else the next request is looked at when the reply to the last one has been written. The semantics are
those of pcsc-lite's ``winscard_svc.c``; differences are in ``docs/semantics.md``.

Waiting for changes. A wait registers the connection for one event, and a stop takes that back; exactly one of event and
answer to the stop goes out for each registration. A client of level 4:6 asks for the states right after its wait, and
would take an event before them for their size: the event is held back until they are out, or until the client asks for
something else, and thus not for states.

However much a program sends in one piece, a little of it is dealt with in one pass of the event loop: so a program that
floods its socket does not keep the others waiting.

Where bugs stop. A call is a `Reply`: what goes wrong behind it is ``F_INTERNAL_ERROR`` for the program that asked. What
goes wrong here is logged, too, and closes this connection, and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Container, Coroutine
from functools import partial, wraps
from typing import Any, ClassVar, TypeVar, cast
from typing import Protocol as Interface

from cardferry.frontends.pcsclite.arguments import SHORTEST_RESPONSE, disposition_of, most_needed, share_mode
from cardferry.frontends.pcsclite.payload import ControlCodes, turned_attribute
from cardferry.frontends.pcsclite.seen import Seen
from cardferry.pcsc.caller import Caller, Principal, PrincipalKind
from cardferry.pcsc.constants import MAX_APDU_SIZE, Protocol, Scope
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.interface import Card, Context
from cardferry.pcsc.reader_state import ReaderState
from cardferry.pcsc.reply import Reply, answered, failed, in_task
from cardferry.wiping import Receiver, room_for, wipe_soon
from cardferry.wire.errors import WireError
from cardferry.wire.pcsclite import messages as m
from cardferry.wire.pcsclite.layout import NATIVE
from cardferry.wire.pcsclite.server import ServerCodec

log = logging.getLogger(__name__)

#: Requests that may be queued behind a slow one before we stop reading from the socket.
_MAX_QUEUED = 16
#: Requests that are begun or answered in one pass of the event loop, of one program.
_MOST_AT_ONCE = 16
#: Bytes that are read at once, unless a command that is longer has begun.
_READ_SIZE = 4096
_LITTLE = room_for(_READ_SIZE)
#: From this level on, 4:6, the states are asked for after the wait.
_ASKS_AFTER_WAIT = 6
#: What a client may ask between a wait and its states, or instead of them.
_AFTER_WAIT = (
    m.GetReadersStateSize,
    m.GetReadersStateArray,
    m.GetReadersState,
    m.GetReaderEvents,
    m.WaitReaderStateChange,
    m.StopWaiting,
)

#: Who calls, as long as nobody has looked.
NOBODY = Caller(Principal(PrincipalKind.LOCAL_USER, ""))

R = TypeVar("R", bound=m.Request)


class Front(Interface):
    """What a connection asks of who has accepted it, and what all connections share: `PcscliteFrontend`."""

    patience: float
    slots: int
    name_size: int
    connections: set[Connection]
    #: Contexts by number, for cancel, which comes on another connection.
    contexts: dict[int, Connection]
    #: Numbers of all card handles: libpcsclite looks them up over all contexts of a process.
    cards: set[int]
    #: What control codes mean, for applications of the other byte order.
    control_codes: ControlCodes

    @property
    def full(self) -> bool:
        """Whether there are more connections than allowed."""

    @property
    def overrun(self) -> bool:
        """Whether there are so many more that there is nothing left to tell them so with."""

    def identify(self, transport: asyncio.Transport) -> Caller:
        """Who is at the other end of a connection."""

    def start(self, connection: Connection, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run what a connection must wait for, in a task that the front owns."""

    def lost(self, connection: Connection) -> None:
        """A connection is closed and has freed what it had."""

    def seen_by(self, principal: Principal) -> Seen:
        """What a principal sees of the readers."""

    def admission(self, connection: Connection) -> Reply[Seen] | None:
        """What a program sees that must be admitted first; None where nobody must be."""

    def new_number(self, taken: Container[int]) -> int:
        """A handle that nobody has and nobody can guess."""


def _in_task(
    call: Callable[[Connection, R], Coroutine[Any, Any, bytes]],
) -> Callable[[Connection, R], Reply[bytes]]:
    """For calls that are not made often: they run in a task of the front."""

    @wraps(call)
    def begin(connection: Connection, request: R) -> Reply[bytes]:
        return in_task(partial(connection._front.start, connection), call(connection, request))

    return begin


class Connection(Receiver):
    """The server side of one libpcsclite connection.

    Args:
        front: what all connections share.
    """

    __slots__ = (
        "_array_due",
        "_busy",
        "_cancelled",
        "_cards",
        "_codec",
        "_context",
        "_context_number",
        "_front",
        "_going_on",
        "_missing",
        "_paused",
        "_reading",
        "_requests",
        "_seen",
        "_told",
        "_transport",
        "_turned_away",
        "caller",
        "registered",
    )

    def __init__(self, front: Front) -> None:
        self.caller = NOBODY
        #: The number of changes (`Seen.changes`) when the program began to wait, None while it does not.
        self.registered: int | None = None
        self._front = front
        self._codec: ServerCodec
        self._seen: Seen
        self._transport: asyncio.Transport | None = None
        self._requests: deque[m.Request] = deque()
        #: A call is under way.
        self._busy = False
        self._paused = False
        #: What is left of the requests has its turn in the next pass of the event loop.
        self._going_on = False
        self._reading = True
        #: Bytes until a request is whole that has begun.
        self._missing = 0
        self._context: Context | None = None
        self._context_number = 0
        self._cards: dict[int, Card] = {}
        #: That number when the program was told the states last, None since its last wait.
        self._told: int | None = None
        #: Between the wait of a 4:6 client and its states.
        self._array_due = False
        #: The wait was cancelled meanwhile.
        self._cancelled = False
        #: All places were taken when the program came: it is told so.
        self._turned_away = False

    # The socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A program has connected."""
        self._transport = cast("asyncio.Transport", transport)
        self._front.connections.add(self)
        self.guarded(self._connected)

    def _connected(self) -> None:
        # Not in the constructor: under uvloop the socket would take no connection any more after an exception there.
        self._codec = ServerCodec(slots=self._front.slots, name_size=self._front.name_size)
        self._turned_away = self._front.full
        if self._front.overrun:
            self.close()
            return
        self.caller = self._front.identify(cast("asyncio.Transport", self._transport))
        self._seen = self._front.seen_by(self.caller.principal)
        if (admission := self._front.admission(self)) is not None:
            self._busy = True
            admission.then(self._admitted)

    def _admitted(self, reply: Reply[Seen]) -> None:
        if reply.error is not None:
            self.close()
            return
        self._busy = False
        self._seen = reply.result()
        self.guarded(self._advance)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to read to, at the event loop's next look at the socket."""
        return _LITTLE if self._missing <= _READ_SIZE else super().get_buffer(sizehint)[: self._missing]

    def data_received(self, data: bytes) -> None:
        """Bytes came: whole requests among them are answered or queued. Garbage ends the connection."""
        codec = self._codec
        try:
            requests = codec.receive(data)
            self._missing = 0 if requests else codec.missing
            if codec.error is not None:
                log.warning("%s: connection closed, this is no pcsc-lite request: %s", self.caller, codec.error)
                self._requests.clear()
                self.close()
                return
            self._requests.extend(requests)
            self._advance()
        except WireError:
            return  # said already; this was on its way
        except Exception:  # the boundary that the module's docstring describes
            log.exception("%s: a bug behind its connection, which is closed", self.caller)
            self.close()

    def pause_writing(self) -> None:
        """The program does not read its replies: do nothing more for it until it does."""
        self._paused = True
        self._throttle()

    def resume_writing(self) -> None:
        """The program has read again."""
        self._paused = False
        self.guarded(self._advance)

    def connection_lost(self, error: Exception | None) -> None:
        """The program has gone, or we closed: everything it held is freed."""
        del error
        self._transport = None
        self._requests.clear()
        try:
            self._unregister()
            self._forget_context()
        finally:
            self._front.lost(self)

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()

    def guarded(self, call: Callable[[], None]) -> None:
        """Call what is nobody else's concern, for somebody else."""
        try:
            call()
        except Exception:  # the boundary that the module's docstring describes
            log.exception("%s: a bug behind its connection, which is closed", self.caller)
            self.close()

    def _write(self, data: bytes) -> None:
        if self._transport is not None and data:
            self._transport.write(data)

    def _throttle(self) -> None:
        transport = self._transport
        if transport is None:
            return
        full = self._paused or len(self._requests) > _MAX_QUEUED
        if full and self._reading:
            self._reading = False
            transport.pause_reading()
        elif not full and not self._reading:
            self._reading = True
            transport.resume_reading()

    # One request after the other

    def _advance(self) -> None:
        requests = self._requests
        left = _MOST_AT_ONCE
        while requests and not self._busy and not self._paused and not self._going_on:
            if not left:
                self._going_on = True
                asyncio.get_running_loop().call_soon(self.guarded, self._go_on)
                break
            left -= 1
            request = requests.popleft()
            if self._array_due and not isinstance(request, _AFTER_WAIT):
                self._write(self._hold_back_no_more())
            answer = self._ANSWERS.get(type(request))
            if answer is not None:
                self._write(answer(self, request))
                continue
            try:
                reply = self._CALLS[type(request)](self, request)
            except PcscError as error:
                reply = failed(error)
            if reply.done():
                self._write(self._answer(request, reply))
            else:
                self._busy = True
                reply.then(partial(self._answered, request))
        self._throttle()

    def _go_on(self) -> None:
        self._going_on = False
        self._advance()

    def _answered(self, request: m.Request, reply: Reply[Any]) -> None:
        try:
            self._busy = False
            wipe_soon()  # the request may hold a PIN, and is done with now
            self._write(self._answer(request, reply))
            if self._requests:
                self._advance()
        except Exception:  # the boundary that the module's docstring describes
            log.exception("%s: a bug behind its connection, which is closed", self.caller)
            self.close()

    def _answer(self, request: m.Request, reply: Reply[Any]) -> bytes:
        error = reply.error
        if error is None:
            encode = self._ENCODED.get(type(request))
            return cast("bytes", reply.result()) if encode is None else encode(self._codec, request, reply.result())
        log.debug("%s: %s: %s", self.caller, type(request).__name__, error)
        return self._failed(request, error.code if isinstance(error, PcscError) else ReturnCode.E_CANCELLED)

    def _failed(self, request: m.Request, rv: int) -> bytes:
        codec = self._codec
        match request:
            case m.EstablishContext():
                return codec.established(request, 0, rv)
            case m.Connect():
                return codec.connected(request, 0, 0, rv)
            case m.Reconnect():
                return codec.reconnected(request, 0, rv)
            case m.Transmit():
                return codec.transmitted(request, b"", rv)
            case m.Control():
                return codec.controlled(request, b"", rv)
            case m.GetAttribute() | m.SetAttribute():
                return codec.attribute(request, b"", rv)
            case _:
                return codec.acknowledged(cast("Any", request), rv)

    # Answered at once

    def _version(self, request: m.Version) -> bytes:
        refuse = ReturnCode.E_NO_MEMORY if self._turned_away else None
        return self._codec.version(request, refuse)

    def _get_readers_state(self, _: m.GetReadersState) -> bytes:
        return self._codec.states(self._states()) + self._event_after_states()

    def _get_readers_state_size(self, _: m.GetReadersStateSize) -> bytes:
        return self._codec.state_count(self._seen.most_readers)

    def _get_readers_state_array(self, _: m.GetReadersStateArray) -> bytes:
        return self._codec.state_array(self._states()) + self._event_after_states()

    def _states(self) -> tuple[ReaderState, ...]:
        self._told = self._seen.changes
        return self._seen.manager.snapshot.readers

    def _get_reader_events(self, _: m.GetReaderEvents) -> bytes:
        return self._codec.reader_events(self._seen.manager.snapshot.reader_events)

    # Waiting for changes

    def _wait(self, _: m.WaitReaderStateChange) -> bytes:
        changes = self._seen.changes
        told, self._told = self._told, None
        reply = self._codec.waiting(self._seen.manager.snapshot.readers)
        self._array_due = self._codec.minor >= _ASKS_AFTER_WAIT
        self._cancelled = False
        self.registered = changes
        self._seen.registered.add(self)
        if told not in (None, changes) and not reply and not self._array_due:
            # Up to 4:3 the states were asked for before the wait, and something has changed since.
            return self._end_wait()
        return reply

    def _event_after_states(self) -> bytes:
        """The states are out: what was held back for them can follow."""
        if not self._array_due:
            return b""
        self.registered = self._told
        return self._hold_back_no_more()

    def _hold_back_no_more(self) -> bytes:
        self._array_due = False
        if self._cancelled:
            return self._end_wait(ReturnCode.E_CANCELLED)
        return b"" if self.registered == self._seen.changes else self._end_wait()

    def _stop(self, request: m.StopWaiting) -> bytes:
        if self.registered is None:
            return b""  # the event that ended the registration is the answer
        self._unregister()
        return self._codec.stopped(request)

    def _unregister(self) -> None:
        if self.registered is not None:
            self._seen.registered.discard(self)
        self.registered = None
        self._array_due = False

    def _end_wait(self, rv: int = 0) -> bytes:
        self._unregister()
        return self._codec.event(rv)

    def notify(self) -> None:
        """Something may have changed: the event goes out, once per registration, unless the states follow anyway."""
        if self.registered not in (None, self._seen.changes) and not self._array_due:
            self._write(self._end_wait())

    def cancel_wait(self) -> None:
        """End the program's wait, as another connection asks."""
        if self._array_due:
            self._cancelled = True
        elif self.registered is not None:
            self._write(self._end_wait(ReturnCode.E_CANCELLED))

    def _cancel(self, request: m.Cancel) -> bytes:
        waiting = self._front.contexts.get(request.context)
        if waiting is None:
            return self._codec.acknowledged(request, ReturnCode.E_INVALID_HANDLE)
        waiting.cancel_wait()
        return self._codec.acknowledged(request)

    # Calls

    @_in_task
    async def _establish(self, request: m.EstablishContext) -> bytes:
        if self._turned_away:
            raise PcscError(ReturnCode.E_NO_MEMORY, "too many connections")
        if request.scope not in Scope.__members__.values():
            raise PcscError(ReturnCode.E_INVALID_VALUE, "no such scope")
        if self._context is None:
            context = await self._seen.manager.open(self.caller, self._front.patience)
            if self._transport is None:
                await context.close()
                return b""
            self._context = context
        self._front.contexts.pop(self._context_number, None)
        self._context_number = self._front.new_number(self._front.contexts)
        self._front.contexts[self._context_number] = self
        return self._codec.established(request, self._context_number)

    @_in_task
    async def _release(self, request: m.ReleaseContext) -> bytes:
        if self._context is None or request.context != self._context_number:
            raise PcscError(ReturnCode.E_INVALID_VALUE, "not this connection's context")
        context, self._context = self._context, None
        self._unregister()
        self._forget_numbers()
        await context.close()
        return self._codec.acknowledged(request)

    def _forget_context(self) -> None:
        self._forget_numbers()
        if self._context is not None:
            context, self._context = self._context, None
            self._front.start(self, context.close())

    def _forget_numbers(self) -> None:
        self._front.contexts.pop(self._context_number, None)
        self._context_number = 0
        self._front.cards.difference_update(self._cards)
        self._cards.clear()

    @_in_task
    async def _connect(self, request: m.Connect) -> bytes:
        if self._context is None or request.context != self._context_number:
            raise PcscError(ReturnCode.E_INVALID_VALUE, "not this connection's context")
        card = await self._context.connect(
            self._seen.reader_called(request.reader, self._codec.dialect.name_size),
            share_mode(request.share),
            Protocol(request.protocols & 0xFFFF),
        )
        if self._transport is None:
            return b""  # the context is being closed, and the card with it
        number = self._front.new_number(self._front.cards)
        self._front.cards.add(number)
        self._cards[number] = card
        return self._codec.connected(request, number, card.protocol)

    def _card(self, number: int) -> Card:
        card = self._cards.get(number)
        if card is None:
            raise PcscError(ReturnCode.E_INVALID_HANDLE, "not this connection's handle")
        return card

    @_in_task
    async def _reconnect(self, request: m.Reconnect) -> bytes:
        protocol = await self._card(request.card).reconnect(
            share_mode(request.share),
            Protocol(request.protocols & 0xFFFF),
            disposition_of(request.initialization),
        )
        return self._codec.reconnected(request, protocol)

    @_in_task
    async def _disconnect(self, request: m.Disconnect) -> bytes:
        disposition = disposition_of(request.disposition)
        card = self._card(request.card)
        del self._cards[request.card]
        self._front.cards.discard(request.card)
        await card.disconnect(disposition)
        return self._codec.acknowledged(request)

    def _begin(self, request: m.BeginTransaction) -> Reply[None]:
        return self._card(request.card).begin()

    def _end(self, request: m.EndTransaction) -> Reply[None]:
        return self._card(request.card).end(disposition_of(request.disposition))

    def _transmit(self, request: m.Transmit) -> Reply[bytes]:
        if request.receive_length < SHORTEST_RESPONSE:
            # Not executed: a PIN try must not be burnt for an answer that nobody can read.
            return answered(bytes(most_needed(request.apdu)))
        return self._card(request.card).transmit(request.apdu, request.protocol)

    @_in_task
    async def _control(self, request: m.Control) -> bytes:
        # With all the room there is, as pcscd does: the codec tells who has too little how much is needed.
        card, order = self._card(request.card), self._codec.dialect.byte_order
        if order == NATIVE:
            response = await card.control(request.code, request.data, MAX_APDU_SIZE)
        else:
            codes = self._front.control_codes
            data = codes.command(card.reader, request.code, request.data, order)
            response = await card.control(request.code, data, MAX_APDU_SIZE)
            response = codes.answer(card.reader, request.code, response)
        return self._codec.controlled(request, response)

    @_in_task
    async def _status(self, request: m.Status) -> bytes:
        await self._card(request.card).status()
        return self._codec.acknowledged(request)

    @_in_task
    async def _get_attribute(self, request: m.GetAttribute) -> bytes:
        value = self._in_its_order(request.attribute, await self._card(request.card).attribute(request.attribute))
        return self._codec.attribute(request, value)

    @_in_task
    async def _set_attribute(self, request: m.SetAttribute) -> bytes:
        value = self._in_its_order(request.attribute, request.value)
        await self._card(request.card).set_attribute(request.attribute, value)
        return self._codec.attribute(request, request.value)

    def _in_its_order(self, attribute: int, value: bytes) -> bytes:
        """An attribute's value in the application's byte order when it is given in ours, and the other way round."""
        return value if self._codec.dialect.byte_order == NATIVE else turned_attribute(attribute, value)

    _ANSWERS: ClassVar[dict[type, Callable[[Connection, Any], bytes]]] = {
        m.Version: _version,
        m.GetReadersState: _get_readers_state,
        m.GetReadersStateSize: _get_readers_state_size,
        m.GetReadersStateArray: _get_readers_state_array,
        m.GetReaderEvents: _get_reader_events,
        m.WaitReaderStateChange: _wait,
        m.StopWaiting: _stop,
        m.Cancel: _cancel,
    }

    #: What makes the answer of a card's reply; the other calls bring theirs along.
    _ENCODED: ClassVar[dict[type, Callable[[ServerCodec, Any, Any], bytes]]] = {
        m.BeginTransaction: lambda codec, request, _: codec.acknowledged(request),
        m.EndTransaction: lambda codec, request, _: codec.acknowledged(request),
        m.Transmit: ServerCodec.transmitted,
    }

    _CALLS: ClassVar[dict[type, Callable[[Connection, Any], Reply[Any]]]] = {
        m.EstablishContext: _establish,
        m.ReleaseContext: _release,
        m.Connect: _connect,
        m.Reconnect: _reconnect,
        m.Disconnect: _disconnect,
        m.BeginTransaction: _begin,
        m.EndTransaction: _end,
        m.Transmit: _transmit,
        m.Control: _control,
        m.Status: _status,
        m.GetAttribute: _get_attribute,
        m.SetAttribute: _set_attribute,
    }
