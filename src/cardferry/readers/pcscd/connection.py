"""One connection to a pcscd: requests out, replies to whoever asked, in order.

`Connection.open` agrees on a protocol level. After that every `post` is one write, however many requests it
carries; each reply ends that of the oldest request. Source: ``winscard_clnt.c`` of pcsc-lite.

Events and the end are handed to functions, in the loop's callbacks. What those raise is logged and goes no further, as
with replies: an exception that reached the loop would close the connection, and fail the calls of all others on it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

from cardferry.pcsc.constants import Scope
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.reply import Reply, failed, within
from cardferry.readers.pcscd.connector import Connector
from cardferry.readers.pcscd.failure import NoPcscdError, Reason
from cardferry.wire.errors import WireError
from cardferry.wire.pcsclite.client import ClientCodec, next_version
from cardferry.wire.pcsclite.layout import NEWEST_MINOR, WAIT_ANSWERED
from cardferry.wire.pcsclite.messages import (
    ContextReply,
    EstablishContext,
    Event,
    Request,
    Version,
    VersionReply,
    WaitReaderStateChange,
)
from cardferry.wire.pcsclite.messages import Reply as Message
from cardferry.wire.pcsclite.name_size import AMBIGUOUS_MINOR, NameSizeQuestion

log = logging.getLogger(__name__)

#: How long a server may take for its first answer, in s: it has nothing to do for it.
HANDSHAKE_TIMEOUT: Final = 20.0
#: Requests that may be under way before `Connection.room` makes the next one wait.
_MANY: Final = 16
#: The largest version number that is taken for one.
_PLAUSIBLE: Final = 255
#: ``rv`` of a version reply that means: another version, please.
_OTHER_VERSION: Final = (ReturnCode.E_SERVICE_STOPPED, ReturnCode.E_NO_SERVICE)

Pending = Reply[Any]


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
        self._replies: deque[Pending] = deque()
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._drained: asyncio.Future[None] | None = None
        #: Requests that are written together at the end of this pass of the event loop.
        self._held = b""
        self._answered = False
        #: While the size of reader names is asked for, all that comes belongs to it.
        self._question: NameSizeQuestion | None = None
        self.on_event: Callable[[], None] | None = None
        self.on_lost: Callable[[], None] | None = None
        self.failure: NoPcscdError | None = None
        self.reset = False
        self.closed = False

    @classmethod
    async def open(cls, connector: Connector, minor: int | None = None) -> Connection:
        """Connect and negotiate.

        Args:
            connector: opens the byte pipe.
            minor: the level that this pcscd is known to speak; None tries 4:6 first.

        Raises:
            NoPcscdError: it did not work.
        """
        connection = cls(NEWEST_MINOR if minor is None else minor)
        try:
            await connector(lambda: connection)
            await within(connection._agree(), connection._loop.time() + HANDSHAKE_TIMEOUT)
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

    async def _agree(self) -> None:
        await self._negotiate()
        if self.minor == AMBIGUOUS_MINOR:
            await self._measure_names()

    async def _negotiate(self) -> None:
        tried: set[int] = set()
        request: Version | None = Version(minor=self._codec.minor)
        while request is not None:
            tried.add(request.minor)
            reply = cast(VersionReply, await self._answer_to_hello(self.post(request)))
            request = next_version(reply, tried)
        if reply.level is None:
            raise _refused(reply)
        self._codec.minor = reply.level

    async def _measure_names(self) -> None:
        """Find out how long reader names are, which the protocol level does not say."""
        answer: Pending = Reply()
        if self._transport is not None:
            self._question = NameSizeQuestion()
            self._replies.append(answer)
            self._transport.write(self._question.request)
        else:
            answer.fail(self._lost_error())
        size = await self._answer_to_hello(answer)
        self._codec = ClientCodec(self.minor, name_size=size)

    async def _answer_to_hello(self, answer: Pending) -> Any:
        try:
            return await answer
        except PcscError as error:
            raise self.failure or NoPcscdError(Reason.CLOSED_AT_ONCE) from error

    async def establish(self, scope: Scope = Scope.SYSTEM) -> int:
        """Get a context, which calls for cards need. Raises `PcscError`."""
        reply = cast(ContextReply, await self.post(EstablishContext(scope)))
        if reply.rv:
            raise PcscError(reply.rv, "no context")
        return reply.context

    def post(self, request: Request) -> Pending:
        """Send a request now; its reply comes later, or a `PcscError` when the connection is lost.

        On levels where a wait has no reply, the reply to it is there at once.
        """
        transport = self._transport
        if (
            self._held
            or transport is None
            or self._codec.error is not None
            or isinstance(request, WaitReaderStateChange)
        ):
            return self.post_all(request)[0]
        message = self._codec.send(request)
        reply: Pending = Reply()  # `Pending()` would go through typing, and cost as much as sending it
        self._replies.append(reply)
        transport.write(message)
        return reply

    def post_all(self, *requests: Request) -> list[Pending]:
        """Send several requests in one write."""
        replies = self._ask(requests)
        self._flush()
        return replies

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
        if self._transport is None or self._codec.error is not None:
            return [failed(self._lost_error()) for _ in requests]
        codec = self._codec
        replies: list[Pending] = []
        for request in requests:
            self._held += codec.send(request)
            reply: Pending = Reply()
            if isinstance(request, WaitReaderStateChange) and codec.minor not in WAIT_ANSWERED:
                reply.resolve(None)
            else:
                self._replies.append(reply)
            replies.append(reply)
        return replies

    @property
    def full(self) -> bool:
        """Whether `drain` would wait."""
        return len(self._replies) >= _MANY

    async def drain(self) -> None:
        """Wait while many replies are outstanding: callers that were cancelled leave theirs behind."""
        while self.full:
            if self._drained is None:
                self._drained = self._loop.create_future()
            await asyncio.shield(self._drained)

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
        if self._question is not None:
            self._take_names(self._question, data)
            return
        try:
            received = self._codec.receive(data)
        except WireError as error:
            failure = self.failure = NoPcscdError(Reason.GARBAGE, str(error))
            self._hand_out(cast("list[Message | Event]", list(error.received)))
            self._fail(failure)
            return
        self._hand_out(received)

    def _take_names(self, question: NameSizeQuestion, data: bytes) -> None:
        try:
            size = question.receive(data)
        except WireError as error:
            self._fail(NoPcscdError(Reason.GARBAGE, str(error)))
            return
        if size is not None:
            self._question = None
            answer = self._replies.popleft()
            if not answer.done():
                answer.resolve(size)

    def _hand_out(self, received: list[Message | Event]) -> None:
        replies = self._replies
        for message in received:
            self._answered = True
            if isinstance(message, Event):
                _tell(self.on_event)
                continue
            if not replies:
                return  # whoever took the last one has closed the connection
            reply = replies.popleft()
            if not reply.done():
                reply.resolve(message)
        if self._drained is not None and not self.full:
            self._drained.set_result(None)
            self._drained = None

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
        _tell(on_lost)

    def _end(self) -> None:
        self._transport = None
        self._held = b""
        self.on_event = self.on_lost = None
        replies = tuple(self._replies)
        self._replies.clear()
        if self._drained is not None:
            self._drained.set_result(None)
            self._drained = None
        if replies:
            # Later, as who waits goes on at once, and whoever closes has not put everything in order yet.
            self._loop.call_soon(self._fail_all, replies)

    def _fail_all(self, replies: tuple[Pending, ...]) -> None:
        for reply in replies:
            if not reply.done():
                reply.fail(self._lost_error())

    def _lost_error(self) -> PcscError:
        return PcscError(ReturnCode.E_READER_UNAVAILABLE, f"pcscd {self.failure or 'connection closed'}")


def _tell(whom: Callable[[], None] | None) -> None:
    if whom is None:
        return
    try:
        whom()
    except Exception:
        log.exception("a bug in who is told of a connection to pcscd")


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
