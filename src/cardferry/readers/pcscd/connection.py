"""One connection to a pcscd: requests out, replies to whoever asked, in order.

`Connection.open` dials and agrees on a protocol level. After that every `post` is one write, however many requests it
carries; each reply resolves the future of the oldest request. Source: ``winscard_clnt.c`` of pcsc-lite.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

from cardferry.pcsc.constants import Scope
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.readers.pcscd.dial import Dial
from cardferry.readers.pcscd.failure import NoPcscdError, Reason
from cardferry.wire.errors import WireError
from cardferry.wire.pcsclite.client import ClientCodec, next_version
from cardferry.wire.pcsclite.layout import NEWEST_MINOR, WAIT_ANSWERED
from cardferry.wire.pcsclite.messages import (
    ContextReply,
    EstablishContext,
    Event,
    Reply,
    Request,
    Version,
    VersionReply,
    WaitReaderStateChange,
)

#: How long a server may take for its first answer, in s: it has nothing to do for it.
HANDSHAKE_TIMEOUT: Final = 20.0
#: Requests that may be under way before `Connection.room` makes the next one wait.
_MANY: Final = 16
#: The largest version number that is taken for one.
_PLAUSIBLE: Final = 255
#: ``rv`` of a version reply that means: another version, please.
_OTHER_VERSION: Final = (ReturnCode.E_SERVICE_STOPPED, ReturnCode.E_NO_SERVICE)

Pending = asyncio.Future[Any]
#: Takes a reply, or why there is none, in the moment when it comes.
Taker = Callable[[Any, PcscError | None], None]


class _Taking:
    """Stands in the queue of replies like a future, for somebody who takes the reply without a task."""

    __slots__ = ("_taker",)

    def __init__(self, taker: Taker) -> None:
        self._taker = taker

    def done(self) -> bool:
        return False

    def set_result(self, reply: Reply) -> None:
        self._taker(reply, None)

    def set_exception(self, error: PcscError) -> None:
        self._taker(None, error)

    def exception(self) -> None:
        """As of a future, whose exception somebody must have looked at."""


class Connection(asyncio.Protocol):
    """One connection; make it by `Connection.open`.

    Args:
        minor: the protocol level to begin with, 4:minor.

    Attributes:
        on_event: called when the registration of a wait has ended.
        on_lost: called once when the connection has ended without `close`, after all pending requests failed.
        failure: why it ended; None while it lives and after `close`.
        reset: whether it was ended by a connection reset: bytes of ours were left unread.
    """

    def __init__(self, minor: int = NEWEST_MINOR) -> None:
        self._codec = ClientCodec(minor)
        self._replies: deque[Pending | _Taking] = deque()
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._room: asyncio.Future[None] | None = None
        #: Requests that wait for company until the end of this pass of the event loop.
        self._held = b""
        self._answered = False
        self.on_event: Callable[[], None] | None = None
        self.on_lost: Callable[[], None] | None = None
        self.failure: NoPcscdError | None = None
        self.reset = False
        self.closed = False

    @classmethod
    async def open(cls, dial: Dial, minor: int | None = None) -> Connection:
        """Dial and negotiate.

        Args:
            dial: opens the byte pipe.
            minor: the level that this pcscd is known to speak; None tries 4:6 first.

        Raises:
            NoPcscdError: it did not work.
        """
        connection = cls(NEWEST_MINOR if minor is None else minor)
        try:
            await dial(lambda: connection)
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                await connection._negotiate()
        except TimeoutError as error:
            connection.close()
            raise NoPcscdError(Reason.SILENT, f"no answer in {HANDSHAKE_TIMEOUT:g} s") from error
        except OSError as error:
            connection.close()
            raise _unreachable(error) from error
        except BaseException:
            connection.close()
            raise
        return connection

    @property
    def minor(self) -> int:
        """The protocol level in force, 2 to 6."""
        return self._codec.minor

    async def _negotiate(self) -> None:
        tried: set[int] = set()
        request: Version | None = Version(minor=self._codec.minor)
        while request is not None:
            tried.add(request.minor)
            try:
                reply = cast(VersionReply, await self.post(request))
            except PcscError as error:
                raise self.failure or NoPcscdError(Reason.CLOSED_AT_ONCE) from error
            request = next_version(reply, tried)
        if reply.level is None:
            raise _refused(reply)
        self._codec.minor = reply.level

    async def establish(self, scope: Scope = Scope.SYSTEM) -> int:
        """Get a context, which calls for cards need. Raises `PcscError`."""
        reply = cast(ContextReply, await self.post(EstablishContext(scope)))
        if reply.rv:
            raise PcscError(reply.rv, "no context")
        return reply.context

    def post(self, request: Request) -> Pending:
        """Send a request now; its reply comes in the future, or a `PcscError` when the connection is lost.

        A wait that has no reply on this level gives a future that is done.
        """
        return self.post_all(request)[0]

    def post_all(self, *requests: Request) -> list[Pending]:
        """Send several requests in one write."""
        futures = self._ask(requests)
        self._flush()
        return futures

    def post_soon(self, *requests: Request) -> list[Pending]:
        """Send several requests, which nobody waits for, with the next ones or at the end of this pass of the loop."""
        if not self._held:
            self._loop.call_soon(self._flush)
        return self._ask(requests)

    def _flush(self) -> None:
        held, self._held = self._held, b""
        if held and self._transport is not None:
            self._transport.write(held)

    def _ask(self, requests: tuple[Request, ...]) -> list[Pending]:
        futures: list[Pending] = []
        if self._transport is None:
            for _ in requests:
                future = self._loop.create_future()
                future.set_exception(self._lost_error())
                future.exception()  # not every request has somebody who waits for its reply
                futures.append(future)
            return futures
        codec = self._codec
        for request in requests:
            self._held += codec.send(request)
            future = self._loop.create_future()
            if isinstance(request, WaitReaderStateChange) and codec.minor not in WAIT_ANSWERED:
                future.set_result(None)
            else:
                self._replies.append(future)
            futures.append(future)
        return futures

    @property
    def crowded(self) -> bool:
        """Whether `room` would wait, or there is no connection any more, or pcscd has just broken the protocol."""
        return self._transport is None or len(self._replies) >= _MANY or self._codec.error is not None

    def hand(self, request: Request, taker: Taker, *behind: Request) -> list[Pending]:
        """Send a request now, and others behind it in the same write, over a connection that is not `crowded`.

        Args:
            request: what ``taker`` takes the reply to; it is called later, once.
            taker: must not raise.
            behind: requests with a reply; those replies are returned.
        """
        transport = self._transport
        if transport is None:
            raise RuntimeError("there is no connection")
        message = self._codec.send(request)
        self._replies.append(_Taking(taker))
        if not behind and not self._held:
            transport.write(message)
            return []
        self._held += message
        return self.post_all(*behind)

    async def room(self) -> None:
        """Wait while many replies are outstanding: callers that were cancelled leave theirs behind."""
        while len(self._replies) >= _MANY:
            if self._room is None:
                self._room = self._loop.create_future()
            await asyncio.shield(self._room)

    def close(self) -> None:
        """Close, and fail what is pending. `on_lost` is not called."""
        self.closed = True
        self.on_lost = None
        transport = self._transport
        self._end()
        if transport is not None:
            transport.abort()

    # what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The pipe is open."""
        self._transport = cast(asyncio.Transport, transport)
        if self.closed:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Hand out replies."""
        try:
            received = self._codec.receive(data)
        except WireError as error:
            self._hand_out(cast("list[Reply | Event]", list(error.received)))
            self._fail(NoPcscdError(Reason.GARBAGE, str(error)))
            return
        self._hand_out(received)

    def _hand_out(self, received: list[Reply | Event]) -> None:
        replies = self._replies
        for reply in received:
            self._answered = True
            if isinstance(reply, Event):
                if self.on_event is not None:
                    self.on_event()
                continue
            future = replies.popleft()
            if not future.done():
                future.set_result(reply)
        if self._room is not None and len(replies) < _MANY:
            self._room.set_result(None)
            self._room = None

    def connection_lost(self, exc: Exception | None) -> None:
        """The pipe is closed."""
        if self._transport is None:
            return
        self.reset = isinstance(exc, ConnectionResetError | BrokenPipeError)
        reason = Reason.LOST if self._answered else Reason.CLOSED_AT_ONCE
        self._fail(NoPcscdError(reason, str(exc) if exc else ""))

    def _fail(self, failure: NoPcscdError) -> None:
        self.failure = failure
        transport, on_lost = self._transport, self.on_lost
        self._end()
        if transport is not None:
            transport.abort()
        if on_lost is not None:
            on_lost()

    def _end(self) -> None:
        self._transport = None
        self._held = b""
        self.on_event = self.on_lost = None
        for future in self._replies:
            if not future.done():
                future.set_exception(self._lost_error())
                future.exception()
        self._replies.clear()
        if self._room is not None:
            self._room.set_result(None)
            self._room = None

    def _lost_error(self) -> PcscError:
        return PcscError(ReturnCode.E_READER_UNAVAILABLE, f"pcscd {self.failure or 'connection closed'}")


def _refused(reply: VersionReply) -> NoPcscdError:
    if not (0 < reply.major <= _PLAUSIBLE and 0 <= reply.minor <= _PLAUSIBLE):
        return NoPcscdError(Reason.GARBAGE, "its first answer is not a version")
    reason = Reason.VERSION_REFUSED if reply.rv in (0, *_OTHER_VERSION) else Reason.TURNED_AWAY
    return NoPcscdError(reason, f"version {reply.major}:{reply.minor}, return value {reply.rv:#x}")


def _unreachable(error: OSError) -> NoPcscdError:
    if isinstance(error, FileNotFoundError):
        reason = Reason.NO_SOCKET
    elif isinstance(error, ConnectionRefusedError):
        reason = Reason.NOBODY_LISTENS
    elif isinstance(error, PermissionError):
        reason = Reason.NO_PERMISSION
    elif isinstance(error, ConnectionResetError | BrokenPipeError):
        reason = Reason.CLOSED_AT_ONCE
    else:
        reason = Reason.UNREACHABLE
    return NoPcscdError(reason, error.strerror or str(error))
