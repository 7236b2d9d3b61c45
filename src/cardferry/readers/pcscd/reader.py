"""A reader of a pcscd: one connection, one context and one handle for all who use it through us.

A transmit goes `PcscdReader.transmit` -> `_exchange` (whose turn is it?) -> `CardHandle.exchange` (what became of
it?) -> `Connection.post` (bytes). `handle` and `neighbours` say how we behave towards pcscd's other users.

What a caller sees of them:

- they have the card locked: `PcscdReader.claim` waits, as long as it takes, and so does a command inside a claim.
  Outside one it is refused with ``E_SHARING_VIOLATION``, for the caller to claim the reader and repeat it;
- they have reset the card: ``W_RESET_CARD``, once; the command was not executed;
- they slipped in between two commands of a claim (see `Outcome.OUTSIDE`; rare): the card is reset and
  ``W_RESET_CARD`` raised, so that the application starts its transaction anew. That command *was* executed:
  `ExecutedError`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final, cast

from cardferry.pcsc.constants import (
    MAX_APDU_SIZE,
    MAX_ATTRIBUTE_SIZE,
    Disposition,
    Protocol,
    ShareMode,
)
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.reader_state import ReaderState
from cardferry.pcsc.reply import DONE, Reply, replying, within
from cardferry.readers.base import ExecutedError
from cardferry.readers.pcscd.connection import Connection, Pending
from cardferry.readers.pcscd.connector import Connector
from cardferry.readers.pcscd.failure import NoPcscdError, Reason
from cardferry.readers.pcscd.handle import RETRY, CardHandle, CardReply, CardRequest, Lock, Opening, Outcome, in_force
from cardferry.readers.pcscd.neighbours import Neighbours
from cardferry.wire.pcsclite.messages import (
    AttributeReply,
    ControlReply,
    GetReadersState,
    ReconnectReply,
    StatesReply,
    Transmit,
    TransmitReply,
)

log = logging.getLogger(__name__)

#: pcscd's answers about a handle whose reader has gone.
_READER_GONE: Final = (ReturnCode.E_INVALID_VALUE, ReturnCode.E_INVALID_HANDLE, ReturnCode.E_UNKNOWN_READER)
_NEGOTIATED: Final = (Protocol.T0, Protocol.T1)
#: How long a handle may take whose opening nobody waits for who said how long, in s. pcscd gives none while others have
#: the card locked; powering a card takes some time, too.
_SOON: Final = 1.0


class PcscdReader:
    """One reader of one pcscd.

    Args:
        name: the reader's name at pcscd.
        connector: opens the byte pipe.
        minor: the protocol level of this pcscd.
        on_lost: called when a handle was lost, with its connection or because pcscd has forgotten it, while pcscd
            itself may live on.
        on_others: called with True when pcscd's other users turn out to use the reader, and with False when they do
            not any more.
    """

    def __init__(
        self,
        name: str,
        connector: Connector,
        minor: int,
        on_lost: Callable[[PcscdReader], None],
        on_others: Callable[[PcscdReader, bool], None] | None = None,
    ) -> None:
        self._name = name
        self._connector = connector
        self._minor = minor
        self._on_lost = on_lost
        self._on_others = on_others
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None
        self._context = 0
        self._handle: CardHandle | None = None
        self._opening: Opening | None = None
        self._claimed = False
        #: The claim is over, and the lock goes back at the end of this pass of the event loop.
        self._letting_go = False
        self._gone = False
        #: The card was reset, and whoever should have been told was cancelled before.
        self._reset_untold = False
        self._neighbours = Neighbours()
        #: What `on_others` was told.
        self._others = False

    @property
    def name(self) -> str:
        """The reader's name at pcscd."""
        return self._name

    # what the source tells

    def table(self, record: ReaderState) -> None:
        """The reader's record in pcscd's table, as it is now."""
        now = self._loop.time()
        self._neighbours.table(record.sharing, self._handles, now)
        self._tell_of_others(now)

    def verify(self) -> None:
        """pcscd's table has changed: see whether our handle has outlived that.

        A reader that went and came back before anybody looked has the same record, but none of its old handles.
        """
        handle = self._handle
        if handle is None:
            return

        def told(rv: int) -> None:
            if rv in _READER_GONE and self._handle is handle:
                self._replaced(rv)

        handle.ask_status(told)

    def card_gone(self) -> None:
        """The card was removed: whoever held it above holds it no more."""
        self._claimed = self._reset_untold = False
        handle, opening = self._handle, self._opening
        if handle is not None and opening is not None and handle.exclusive:
            # Without a card pcscd makes no shared handle of an exclusive one. What a reader can do without one goes on.
            handle.close(Disposition.LEAVE)
            self._handle, self._opening = None, replace(opening, share=ShareMode.DIRECT)
        elif handle is not None:
            handle.drop_lock()

    def close(self) -> None:
        """The reader has gone. Pending and later calls fail."""
        self._gone = True
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._handle = None

    # what the manager asks

    async def connect(self, share: ShareMode, protocols: Protocol) -> Protocol:
        """Get a handle, or a fresh one in place of the one there is; the card has power then."""
        connection = await self._connected()
        mode = ShareMode.DIRECT if share is ShareMode.DIRECT else ShareMode.SHARED
        self._opening = Opening(self._name, mode, protocols)
        return (await self._open(connection, self._opening)).protocol

    async def reset(self, disposition: Disposition, protocols: Protocol) -> Protocol:
        """Reset the card, warm or cold. Other users of the reader at pcscd get ``W_RESET_CARD``."""
        reply = await self._exchange(lambda handle: handle.reset(disposition, protocols))
        protocol = in_force(cast(ReconnectReply, reply).protocol)
        if self._handle is not None:
            self._handle.protocol = protocol
        return protocol

    async def disconnect(self, disposition: Disposition) -> None:
        """Close the handle, without waiting. pcscd powers the card off when nobody else has one."""
        handle, self._handle, self._opening = self._handle, None, None
        self._claimed = self._reset_untold = False
        if handle is not None:
            handle.close(disposition)

    @replying
    async def claim(self, *, alone: bool = False) -> bool:
        """Take pcscd's lock.

        When nobody can have reset the card we only ask for it; the next command brings the answer. Otherwise we wait
        for it, with others after the pause that we may owe them. A claim that follows a release at once goes on with
        the lock that we have.

        Raises:
            PcscError: the lock is not ours and not asked for; no `release` is needed.
        """
        if self._reset_untold:
            await self._tell()
        neighbours = self._neighbours
        now = self._loop.time()
        gap = max(neighbours.gap(now), neighbours.last_look(now) if alone else 0.0)
        if gap and not self._claimed:
            self._let_go()
            await asyncio.sleep(gap)
            now = self._loop.time()
        handle = self._handle or await self._reopened()
        if alone or not neighbours.alone(now) or neighbours.stale(now):
            self._let_go()
        self._letting_go = False
        refused = False
        if handle.lock is Lock.FREE:
            # Somebody may wait for the lock already whom we have not let in, if others were about.
            refused = alone and await handle.exclude() and neighbours.alone(self._loop.time())
            if handle.lock is Lock.FREE:
                await self._lock(handle)
        elif alone:
            await handle.exclude()  # who has come during this claim waits all the same
        self._claimed = True
        neighbours.claimed(self._loop.time())
        return refused

    async def _lock(self, handle: CardHandle) -> None:
        now = self._loop.time()
        glance = self._glance(now)
        if glance is not None:
            self._look(handle.post_soon(glance))
        if self._neighbours.sure(now):
            await handle.ask_lock()
        else:
            await self._take(handle)

    def release(self) -> Reply[None]:
        """Give pcscd's lock back, without waiting."""
        if self._claimed:
            self._claimed = False
            now = self._loop.time()
            self._neighbours.released(now)
            if self._handle is not None and self._handle.is_ours:
                self._neighbours.heard(now)  # until now nobody else could have reset the card
            if not self._letting_go:
                self._letting_go = True
                self._loop.call_soon(self._let_go)
            if self._handle is not None and self._handle.exclusive:
                self._let_go()  # the next claim may not be for an exclusive handle
        return DONE

    def _let_go(self) -> None:
        """Give the lock back, unless there is another claim in the same moment: nobody could have come in between.

        What is done outside of claims must see to it first, or it would pass for a part of the last one.
        """
        if not self._letting_go:
            return
        self._letting_go = False
        if self._handle is not None:
            self._look(self._handle.drop_lock(self._glance(self._loop.time())))

    @replying
    async def transmit(self, apdu: bytes, protocol: Protocol) -> bytes:
        """Send a command APDU, return the response as it came, also if it is shorter than a status word.

        A negotiated ``protocol`` is replaced by the one that is in force at pcscd: it may have changed with a
        reset by somebody else, of which the caller has been told.
        """
        _check_size(apdu, MAX_APDU_SIZE)
        return cast(TransmitReply, await self._exchange(partial(_transmit, apdu, protocol))).response

    async def control(self, code: int, data: bytes, max_response: int) -> bytes:
        """Send a control code to the reader."""
        _check_size(data, MAX_APDU_SIZE)
        reply = await self._exchange(lambda handle: handle.control(code, data, max_response))
        return cast(ControlReply, reply).response

    async def attribute(self, attribute: int) -> bytes:
        """A reader attribute."""
        reply = await self._exchange(lambda handle: handle.get_attribute(attribute))
        return cast(AttributeReply, reply).value

    async def set_attribute(self, attribute: int, value: bytes) -> None:
        """Set a reader attribute."""
        _check_size(value, MAX_ATTRIBUTE_SIZE)
        await self._exchange(lambda handle: handle.set_attribute(attribute, value))

    # how it is done

    async def _exchange(self, request_for: Callable[[CardHandle], CardRequest]) -> CardReply:
        """Have one request executed, inside the lock if it is claimed. Returns the reply of a success.

        Raises:
            PcscError: pcscd's or the card's error; ``E_SHARING_VIOLATION`` when the lock was not claimed and others
                have it: the request was not executed.
        """
        if self._reset_untold:
            await self._tell()
        self._let_go()
        while True:
            handle = self._handle
            if handle is None:
                handle = await (self._reopened() if self._claimed else self._reopened_soon())
            lock = handle.lock
            if self._claimed and lock is Lock.FREE:
                await self._take(handle)
                lock = handle.lock
            request, asked = request_for(handle), lock is Lock.ASKED
            outcome, reply = await handle.exchange(request)
            if outcome is Outcome.ANSWERED and not reply.rv:
                if isinstance(request, Transmit):  # some others are carried out although a reset was not told
                    self._heard()
                return reply
            await self._raise_unless_repeated(request, outcome, reply, asked=asked)

    async def _raise_unless_repeated(
        self, request: CardRequest, outcome: Outcome, reply: CardReply, *, asked: bool
    ) -> None:
        """Raise why a request has failed, or wait until it may be sent again.

        Args:
            request, outcome, reply: what became of which request.
            asked: whether the lock was only asked for when it was sent.
        """
        if outcome is Outcome.ANSWERED:
            await self._failed(_meaning(request, reply.rv))
        if outcome is Outcome.OUTSIDE:
            await self._start_over()
        elif not self._claimed:
            raise PcscError(reply.rv, "another program has the card locked")
        elif not asked:
            await asyncio.sleep(RETRY)

    async def _start_over(self) -> None:
        log.info("%s: another program came in between; the card is reset", self._name)
        protocols = self._opening.protocols if self._opening is not None else Protocol.ANY
        try:
            await self.reset(Disposition.RESET, protocols)
        except asyncio.CancelledError:
            self._reset_untold = True
            raise
        raise ExecutedError("another program came in between")

    async def _tell(self) -> None:
        await self._failed(ReturnCode.W_RESET_CARD)

    async def _take(self, handle: CardHandle) -> None:
        rv = await handle.take_lock(asyncio.sleep)
        if rv:
            await self._failed(rv)
        self._heard()

    async def _failed(self, rv: int) -> None:
        """Raise what a return value of pcscd means. After a reset by others the handle is a fresh one, without lock."""
        if rv == ReturnCode.W_RESET_CARD:
            self._seen()
            self._reset_untold = True
            await self._renew()
            self._reset_untold = False
        elif rv in _READER_GONE:
            self._replaced(rv)
            raise PcscError(ReturnCode.E_READER_UNAVAILABLE, f"pcscd says {rv:#010x}")
        raise PcscError(rv)

    def _replaced(self, rv: int) -> None:
        """pcscd does not know our handle any more: the reader has gone, and may have come back."""
        log.info("%s: pcscd does not know the handle any more (%#010x): the reader has gone", self._name, rv)
        self._handle = None
        if not self._gone:
            self._on_lost(self)

    async def _renew(self) -> None:
        connection, opening = self._connection, self._opening
        if connection is None or opening is None:
            return
        try:
            await within(self._open(connection, opening), self._loop.time() + _SOON)
        except (PcscError, TimeoutError) as error:
            # The caller is told of the reset now; the next call tries again and tells of this.
            log.info("%s: no new handle after a reset: %s", self._name, error)

    async def _reopened_soon(self) -> CardHandle:
        """A handle, if pcscd gives one before long. It waits with that while others have the card locked."""
        try:
            return await within(self._reopened(), self._loop.time() + _SOON)
        except TimeoutError:
            raise PcscError(ReturnCode.E_SHARING_VIOLATION, "another program has the card locked") from None

    async def _reopened(self) -> CardHandle:
        opening = self._opening
        if opening is None:
            raise PcscError(ReturnCode.E_INVALID_HANDLE, f"{self._name} is not connected")
        return await self._open(await self._connected(), opening)

    async def _open(self, connection: Connection, opening: Opening) -> CardHandle:
        await connection.drain()
        old, self._handle = self._handle, None
        if old is not None and old.closed:
            self._reset_untold = True  # it was closed because END told of a reset
        closing = old.closing() if old is not None else None
        try:
            handle, states = await CardHandle.open(
                connection, self._context, opening, self._seen, before=closing, behind=GetReadersState()
            )
        except PcscError as error:
            if self._connection is None and not self._gone:
                raise _refused(connection) from error
            if error.code in _READER_GONE:
                raise PcscError(ReturnCode.E_READER_UNAVAILABLE, str(error)) from error
            raise
        self._handle = handle
        self._heard()
        self._look(states)
        return handle

    async def _connected(self) -> Connection:
        """The connection, opened when the first call comes."""
        self._check_gone()
        if self._connection is not None:
            return self._connection
        try:
            connection = await Connection.open(self._connector, self._minor)
        except NoPcscdError as error:
            self._report(error)
            raise PcscError(ReturnCode.E_READER_UNAVAILABLE, f"pcscd {error}") from error
        try:
            self._context = await connection.establish()
            self._check_gone()
        except BaseException:
            self._report(connection.failure)
            connection.close()
            raise
        self._connection = connection
        connection.on_lost = self._lost
        return connection

    def _lost(self) -> None:
        connection, self._connection = self._connection, None
        handle, self._handle = self._handle, None
        if connection is None:
            return
        self._report(connection.failure)
        if handle is not None:
            self._on_lost(self)

    def _report(self, failure: NoPcscdError | None) -> None:
        """Why a connection has ended. A pcscd that does not keep to the protocol is something a person must know."""
        if failure is not None:
            level = logging.WARNING if failure.reason is Reason.GARBAGE else logging.DEBUG
            log.log(level, "%s: connection closed: pcscd %s", self._name, failure)

    def _check_gone(self) -> None:
        if self._gone:
            raise PcscError(ReturnCode.E_READER_UNAVAILABLE)

    # what is known of others

    @property
    def _handles(self) -> int:
        return int(self._opening is not None)  # also while it is opened or renewed: pcscd counts it then

    def _seen(self) -> None:
        now = self._loop.time()
        self._neighbours.seen(now)
        self._tell_of_others(now)

    def _heard(self) -> None:
        now = self._loop.time()
        self._neighbours.heard(now)
        if self._others:
            self._tell_of_others(now)

    def _tell_of_others(self, now: float) -> None:
        others = self._neighbours.about(now)
        if others is not self._others:
            self._others = others
            if self._on_others is not None:
                self._on_others(self, others)

    def _glance(self, now: float) -> GetReadersState | None:
        """A request for the table to send along, when it was not looked at for a while."""
        return GetReadersState() if self._neighbours.stale(now) else None

    def _look(self, states: Pending | None) -> None:
        if states is not None:
            states.then(self._looked)

    def _looked(self, states: Pending) -> None:
        if states.error is not None:
            return
        for record in cast(StatesReply, states.result()).readers:
            if record.name == self._name:
                self.table(record)
                return


def _transmit(apdu: bytes, protocol: int, handle: CardHandle) -> Transmit:
    """A command, in the protocol that is in force unless another kind is asked for."""
    return handle.transmit(apdu, handle.protocol if handle.protocol and protocol in _NEGOTIATED else protocol)


def _meaning(request: CardRequest, rv: int) -> int:
    """What a return value says about the card.

    pcscd marks the handles, resets the card, and forgets the protocol, in this order and without holding its lock
    (``SCardDisconnect``). A handle that was renewed in between has no mark. It learns of the reset when the protocol
    that it was given is not in force any more.
    """
    if rv == ReturnCode.E_PROTO_MISMATCH and isinstance(request, Transmit) and request.protocol in _NEGOTIATED:
        return ReturnCode.W_RESET_CARD
    return rv


def _check_size(data: bytes, limit: int) -> None:
    if len(data) > limit:
        raise PcscError(ReturnCode.E_INVALID_PARAMETER, f"{len(data)} bytes, {limit} at most")


def _refused(connection: Connection) -> PcscError:
    """pcscd closed the connection instead of answering a connect: so it does when polkit denies the card.

    libpcsclite tells the application the same.
    """
    code = ReturnCode.W_SECURITY_VIOLATION if connection.reset else ReturnCode.F_COMM_ERROR
    return PcscError(code, f"pcscd closed the connection: access to the card denied? ({connection.failure})")
