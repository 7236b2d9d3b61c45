"""Our one handle to a reader at pcscd, and pcscd's lock on it.

pcscd's lock (its transaction, which counts how often it was begun) is asked for in two ways:

- `CardHandle.ask_lock` writes BEGIN and does not wait. The next command is written behind it, and the answers to both
  come together: a transaction of n commands costs n round trips instead of n + 2. (END is not waited for either.)
- `CardHandle.take_lock` waits until the lock is ours.

`CardHandle.exclude` gets the lock in a third way, by making the handle exclusive. Who connects then is refused at once,
instead of being left to wait for the lock for as long as we keep it. pcscd does that only if nobody else is connected.

===========  ==================  ===================================================================
`Lock`       what happens        goes to
===========  ==================  ===================================================================
FREE         ask_lock            ASKED
FREE         take_lock           HELD, when BEGIN succeeds; it is repeated while others have the lock
FREE         exclude             HELD, when RECONNECT succeeds
ASKED        a BEGIN succeeds    HELD
ASKED        all BEGINs fail     FREE
ASKED, HELD  drop_lock, close    FREE; an END for each BEGIN (or DISCONNECT) follows, whatever its answer. An exclusive
                                 handle is made a shared one first, by RECONNECT, which keeps the lock: one END more
HELD         a command gets 0B   FREE: a removal of the card has freed it, and somebody else was quicker
===========  ==================  ===================================================================

A command sent while ASKED has a second BEGIN behind it in the same write. When the first one was refused because
somebody else had the lock, there are three ways on:

- the command was refused as well: it was not executed (`Outcome.REFUSED`);
- the lock came free in between, the command was executed, and the second BEGIN succeeded: the lock was nobody else's
  from before the command to after it, as if the first BEGIN had succeeded. (pcscd sleeps 100 ms before it refuses a
  BEGIN, so this is the usual way.)
- the command was executed, and the second BEGIN failed: somebody else slipped in (`Outcome.OUTSIDE`).

Source: ``winscard.c`` and ``readerfactory.c`` of pcsc-lite (``RFCheckSharing``, ``RFLockSharing``). Two of their
habits decide how a handle is renewed after W_RESET_CARD or W_REMOVED_CARD. RECONNECT does not power a card that has
lost its power (by another program's disconnect, or by automatic power-off after insertion), CONNECT does: so a handle
is renewed by DISCONNECT and CONNECT. And END of a handle with such a mark fails and keeps the lock, DISCONNECT frees
it: so that is what follows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Any, Final, cast

from cardferry.pcsc.constants import Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.readers.pcscd.connection import Connection, Pending
from cardferry.wire.pcsclite.messages import (
    Acknowledged,
    AttributeReply,
    BeginTransaction,
    Connect,
    ConnectReply,
    Control,
    ControlReply,
    Disconnect,
    EndTransaction,
    GetAttribute,
    Reconnect,
    ReconnectReply,
    Request,
    SetAttribute,
    Status,
    Transmit,
    TransmitReply,
)

#: How often the lock is asked for while others have it, in s. pcscd itself answers no sooner than after 100 ms.
RETRY: Final = 0.1

CardRequest = Transmit | Control | GetAttribute | SetAttribute | Reconnect
CardReply = TransmitReply | ControlReply | AttributeReply | ReconnectReply | Acknowledged


class Lock(Enum):
    """Whether pcscd's lock is ours; see the module."""

    FREE = auto()
    ASKED = auto()
    HELD = auto()


class Outcome(Enum):
    """What became of a command."""

    #: It was answered, with the lock ours if we had asked for it.
    ANSWERED = auto()
    #: Somebody else has the lock: not executed.
    REFUSED = auto()
    #: Executed although the lock, which we had asked for, was not ours.
    OUTSIDE = auto()


@dataclass(frozen=True, slots=True)
class Opening:
    """What a handle is opened for.

    Attributes:
        reader: the reader's name.
        share: `ShareMode.SHARED` or `ShareMode.DIRECT`.
        protocols: the wanted ones, as a mask.
    """

    reader: str
    share: ShareMode
    protocols: Protocol


class CardHandle:
    """A handle at pcscd; make it by `CardHandle.open`.

    Attributes:
        protocol: the protocol in force.
        exclusive: pcscd refuses everybody else, and the lock is ours.
        closed: no request may use the handle any more: pcscd ends connections that do.
    """

    def __init__(self, connection: Connection, card: int, protocol: int, others: Callable[[], None]) -> None:
        self._connection = connection
        self._card = card
        self._others = others
        self._loop = asyncio.get_running_loop()
        #: Replies to the BEGINs that are not ended and not known to have failed.
        self._begins: list[Pending] = []
        #: One of them has come.
        self._ours = False
        self.protocol = in_force(protocol)
        self.exclusive = False
        self.closed = False

    @classmethod
    async def open(
        cls,
        connection: Connection,
        context: int,
        opening: Opening,
        others: Callable[[], None],
        *,
        before: Request | None = None,
        behind: Request | None = None,
    ) -> tuple[CardHandle, Any]:
        """Connect to a reader. pcscd answers when nobody else has the lock.

        Args:
            connection: the way to pcscd.
            context: our context there.
            opening: what for.
            others: called when others turn out to use the reader.
            before: sent in front, its reply is not waited for.
            behind: sent behind in the same write; its reply is returned.

        Raises:
            PcscError: pcscd's answer, or the connection was lost.
        """
        requests: list[Request] = [] if before is None else [before]
        requests.append(Connect(context, opening.reader, opening.share, opening.protocols))
        connecting = len(requests) - 1
        if behind is not None:
            requests.append(behind)
        replies = connection.post_all(*requests)
        try:
            reply = cast(ConnectReply, await asyncio.shield(replies[connecting]))
        except asyncio.CancelledError:
            replies[connecting].then(partial(_abandon, connection))
            raise
        if reply.rv:
            raise PcscError(reply.rv, opening.reader)
        return cls(connection, reply.card, reply.protocol, others), replies[-1]

    @property
    def lock(self) -> Lock:
        """Whether pcscd's lock is ours, as far as its answers have come."""
        if self._ours or self.exclusive:
            return Lock.HELD
        return Lock.ASKED if self._begins else Lock.FREE

    def _asked_for(self, begin: Pending) -> None:
        """A BEGIN was sent."""
        self._begins.append(begin)
        begin.then(self._begun)

    def _begun(self, begin: Pending) -> None:
        if begin not in self._begins:
            return  # given back since it was sent
        if _rv(begin):
            self._begins.remove(begin)
        else:
            self._ours = True

    def _have_none(self) -> None:
        """All were given back, or are lost."""
        self._begins, self._ours = [], False

    def post_soon(self, request: Request) -> Pending:
        """Send a request that is not about the handle, along with the next one."""
        return self._connection.post_soon(request)[0]

    async def ask_lock(self) -> None:
        """Ask for pcscd's lock without waiting. (It waits when pcscd has left many requests unanswered.)"""
        if self._connection.full:
            await self._connection.drain()
        if not self.closed:
            self._asked_for(self.post_soon(BeginTransaction(self._card)))

    async def take_lock(self, sleep: Callable[[float], Awaitable[object]]) -> int:
        """Wait until the lock is ours, or until it cannot be. Returns pcscd's answer, 0 when it is ours."""
        while True:
            await self._connection.drain()
            if self.closed:
                return ReturnCode.W_RESET_CARD
            asked = self._loop.time()
            begin = self._connection.post(BeginTransaction(self._card))
            try:
                reply = cast(Acknowledged, await asyncio.shield(begin))
            except asyncio.CancelledError:
                self._end(1)
                raise
            if reply.rv == 0:
                self._asked_for(begin)
            if reply.rv != ReturnCode.E_SHARING_VIOLATION:
                return reply.rv
            self._others()
            await sleep(max(0.0, asked + RETRY - self._loop.time()))

    async def exclude(self) -> bool:
        """Make the handle exclusive, if nobody else is connected or has the lock; whether it is."""
        await self._connection.drain()
        if self.closed:
            return False
        reconnect = self._connection.post(self._reconnect(ShareMode.EXCLUSIVE, Protocol.ANY))
        try:
            reply = cast(ReconnectReply, await asyncio.shield(reconnect))
        except asyncio.CancelledError:
            self.exclusive = True  # perhaps
            self.drop_lock()
            raise
        if not reply.rv:
            self.exclusive = True
            self.protocol = in_force(reply.protocol)
        return self.exclusive

    def _reconnect(
        self, share: ShareMode, protocols: Protocol, initialization: Disposition = Disposition.LEAVE
    ) -> Reconnect:
        return Reconnect(self._card, share, protocols, initialization)

    def drop_lock(self, behind: Request | None = None) -> Pending | None:
        """Give the lock back without waiting; returns the reply to ``behind``, sent in the same write."""
        if self.lock is Lock.FREE:
            return None
        count = len(self._begins)
        self._have_none()
        if self.exclusive:
            self.exclusive = False
            count += 1
            if not self.closed:
                (shared,) = self._connection.post_soon(self._reconnect(ShareMode.SHARED, Protocol.ANY))
                shared.then(self._shared)
        return self._end(count, behind)

    def _shared(self, reconnect: Pending) -> None:
        # A card that does not answer any more is in the way of this, too. Others must not be shut out because of that.
        if _rv(reconnect) not in (0, ReturnCode.E_SHARING_VIOLATION):
            self.close(Disposition.LEAVE)

    def _end(self, count: int, behind: Request | None = None) -> Pending | None:
        if self.closed:
            return None
        requests: list[Request] = [EndTransaction(self._card, Disposition.LEAVE)] * count
        replies = self._connection.post_soon(*requests, *([] if behind is None else [behind]))
        for end in replies[:count]:
            end.then(self._ended)
        return replies[count] if behind is not None else None

    def _ended(self, end: Pending) -> None:
        if _rv(end) == ReturnCode.W_RESET_CARD:
            self._others()
            self.close(Disposition.LEAVE)

    async def exchange(self, request: CardRequest) -> tuple[Outcome, CardReply]:
        """Send a request about the card or reader and wait for its reply.

        Raises:
            PcscError: the connection was lost.
        """
        if self._connection.full:
            await self._connection.drain()
        if self.closed:
            return Outcome.ANSWERED, Acknowledged(ReturnCode.W_RESET_CARD)
        if self.lock is not Lock.ASKED:
            answered = cast(CardReply, await self._connection.post(request))
            if answered.rv == ReturnCode.E_SHARING_VIOLATION:
                self._have_none()
                self._others()
                return Outcome.REFUSED, answered
            return Outcome.ANSWERED, answered
        answer, begin = self._connection.post_all(request, BeginTransaction(self._card))
        self._asked_for(begin)
        return await self._outcome(cast(CardReply, await answer), begin)

    async def _outcome(self, reply: CardReply, begin: Pending) -> tuple[Outcome, CardReply]:
        """What the reply to a request means that was sent when the lock was ASKED.

        Args:
            reply: the reply.
            begin: the reply to the BEGIN behind it.
        """
        if reply.rv == ReturnCode.E_SHARING_VIOLATION:
            outcome = Outcome.REFUSED
        elif reply.rv or self.is_ours:
            return Outcome.ANSWERED, reply
        else:
            outcome = Outcome.OUTSIDE
        self._others()
        await asyncio.wait((cast("asyncio.Future[Any]", begin),))
        if outcome is Outcome.OUTSIDE and self.is_ours:
            outcome = Outcome.ANSWERED
        return outcome, reply

    @property
    def is_ours(self) -> bool:
        """Whether pcscd has said that the lock is ours."""
        return self.lock is Lock.HELD

    def transmit(self, apdu: bytes, protocol: int) -> Transmit:
        """A request for `exchange`."""
        return Transmit(self._card, protocol, apdu)

    def control(self, code: int, data: bytes, max_response: int) -> Control:
        """A request for `exchange`."""
        return Control(self._card, code, data, max_response)

    def get_attribute(self, attribute: int) -> GetAttribute:
        """A request for `exchange`."""
        return GetAttribute(self._card, attribute)

    def set_attribute(self, attribute: int, value: bytes) -> SetAttribute:
        """A request for `exchange`."""
        return SetAttribute(self._card, attribute, value)

    def reset(self, disposition: Disposition, protocols: Protocol) -> Reconnect:
        """A request for `exchange`: reset the card, warm or cold."""
        return self._reconnect(ShareMode.EXCLUSIVE if self.exclusive else ShareMode.SHARED, protocols, disposition)

    def ask_status(self, told: Callable[[int], None]) -> None:
        """Ask what pcscd says about this handle, without waiting: ``told`` gets the return value. Changes nothing."""
        if not self.closed and not self._connection.full:
            self._connection.post(Status(self._card)).then(lambda status: told(_rv(status)))

    def closing(self) -> Disconnect | None:
        """Close the handle by this request, which the caller sends with others; None when it is closed."""
        if self.closed:
            return None
        self._forget()
        return Disconnect(self._card, Disposition.LEAVE)

    def close(self, disposition: Disposition) -> None:
        """Close the handle without waiting; with it goes the lock."""
        if self.closed:
            return
        self._forget()
        reply = self._connection.post(Disconnect(self._card, disposition))
        reply.then(self._disconnected)

    def _disconnected(self, disconnect: Pending) -> None:
        # A disposition that touches the card can be refused because of somebody else's lock; leaving cannot.
        if _rv(disconnect) == ReturnCode.E_SHARING_VIOLATION:
            self._connection.post(Disconnect(self._card, Disposition.LEAVE))

    def _forget(self) -> None:
        self.closed, self.exclusive = True, False
        self._have_none()


def in_force(protocol: int) -> Protocol:
    """The protocol that pcscd names, without bits that no protocol has."""
    return Protocol(protocol & (Protocol.ANY | Protocol.RAW | Protocol.T15))


def _rv(reply: Pending) -> int:
    """The return value of a reply that nobody waits for; of a lost connection that of its error."""
    error = reply.error
    if error is None:
        rv: int = reply.result().rv
        return rv
    return error.code if isinstance(error, PcscError) else ReturnCode.E_CANCELLED


def _abandon(connection: Connection, connecting: Pending) -> None:
    """Close the handle that came after its caller had gone."""
    if _rv(connecting) == 0:
        connection.post(Disconnect(connecting.result().card, Disposition.LEAVE))
