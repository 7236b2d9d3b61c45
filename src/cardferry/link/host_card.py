"""One of a guest's card handles, on the host: carries calls out, and remembers what went wrong unseen.

A guest sends calls without waiting that it expects to succeed. When one fails, the program has been told otherwise
already, so the handle is *broken*: nothing more is done with the card, and every call that somebody waits for
gets the error, until the guest mends the handle. A connect that failed is mended by reconnect; a begin that failed by
reconnect, by the end of the transaction, or by another begin. A begin that only has not had its turn yet is *owed*, and
comes before the next call.

A command with call 0 was *believed*: the program has been given what the card has said before (``docs/memory.md``).
When the card says something else now, the handle is broken until it is connected anew, and the card is reset.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, TypeVar

import msgspec

from cardferry.link import messages as m
from cardferry.link.digest import digest_of
from cardferry.link.facts import ASKED_NEXT, About, Fact, Known, static_codes
from cardferry.link.host_run_ahead import RunAhead
from cardferry.pcsc.caller import by_host_itself
from cardferry.pcsc.constants import GET_FEATURE_REQUEST, MAX_ATTRIBUTE_SIZE, Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.interface import Card, Context
from cardferry.pcsc.reply import DONE, Reply, Start, in_task, replying, straight

T = TypeVar("T")

log = logging.getLogger(__name__)

#: s that a call which no library repeats may wait for a transaction that is owed, in all.
UNREPEATED_PATIENCE: Final = 60.0
#: What a program is told at its next call when a connect has failed that it believes to have succeeded: what it
#: would be told had the card been taken away right after the connect. Codes that are not here stay as they are.
_AFTER_CONNECT: Final = {
    ReturnCode.E_NO_SMARTCARD: ReturnCode.W_REMOVED_CARD,
    ReturnCode.E_UNKNOWN_READER: ReturnCode.E_READER_UNAVAILABLE,
    ReturnCode.E_NO_READERS_AVAILABLE: ReturnCode.E_READER_UNAVAILABLE,
    ReturnCode.E_SHARING_VIOLATION: ReturnCode.W_RESET_CARD,
    ReturnCode.E_PROTO_MISMATCH: ReturnCode.W_RESET_CARD,
}
#: s by which a guest's connect may take longer because the host asks the reader what programs will ask next.
_ASKING: Final = 0.1
#: A refusal that comes within so many s is one for which waiting does not help.
_AT_ONCE: Final = 0.05
_RESETS: Final = (Disposition.RESET, Disposition.UNPOWER)
#: What has become of a card, or its reader, so that it cannot be asked any more.
_LOST: Final = frozenset({ReturnCode.W_RESET_CARD, ReturnCode.W_REMOVED_CARD, ReturnCode.E_READER_UNAVAILABLE})
#: After these codes the transaction is over, whatever it was.
_TRANSACTION_LOST: Final = frozenset(
    {ReturnCode.W_RESET_CARD, ReturnCode.W_REMOVED_CARD, ReturnCode.E_READER_UNAVAILABLE, ReturnCode.E_NOT_TRANSACTED}
)

#: Opens the context that the handle belongs to.
OpenContext = Callable[[], Awaitable[Context]]


@dataclass(slots=True)
class Broken:
    """Why nothing is done with a handle.

    Attributes:
        code: what its calls get.
        believed: a command was believed and refuted: only `Reconnect` mends that.
        reset: the card was not reset for it yet: the reconnect does.
    """

    code: ReturnCode
    believed: bool = False
    reset: bool = False


@dataclass(slots=True, eq=False)
class HostCard:
    """A handle of a guest.

    Attributes:
        handle: its number.
        reader: the reader's name.
        context: opens the manager's context, or returns the open one.
        share: how it is connected, or was meant to be.
        card: the manager's handle, None when the connect failed.
        broken: why nothing is done with it.
        depth: transactions that the manager has granted, one inside the other.
        owed: transactions that the program believes to have begun and that wait for their turn.
        ahead: what the host foresees, None when it does not run ahead.
        promised: the command that the host has told the guest it would carry out next.
        origin, protocol: of the transmit that the promise follows.
        seconds: how long the card took for the last command.
        unsettled: it is being connected or closed: the manager counts it already, or still, or not.
        asks_reader: whether to ask the reader, after the connect, what programs ask next.
        learnt: what came of that.
        believes: whether the guest has believed anything through it.
        dismissed: the program has closed the handle, or its context; nobody is told any more what becomes of it.
        time: the clock, in s.
    """

    handle: int
    reader: str
    context: OpenContext
    share: ShareMode
    ahead: RunAhead | None = None
    card: Card | None = None
    broken: Broken | None = None
    depth: int = 0
    owed: int = 0
    promised: bytes | None = None
    origin: int = 0
    protocol: int = 0
    seconds: float = 0.0
    unsettled: bool = False
    asks_reader: bool = False
    learnt: list[Fact] = field(default_factory=list)
    time: Callable[[], float] = time.monotonic
    believes: bool = False
    dismissed: bool = False
    _began: float | None = None

    @property
    def has_card(self) -> bool:
        """Whether nobody else can do anything with the card."""
        return self.depth > 0 or (self.share is ShareMode.EXCLUSIVE and self.card is not None)

    @property
    def counted(self) -> bool:
        """Whether `ReaderState.sharing` counts this handle."""
        return self.card is not None and self.card.counted

    @straight
    def perform(self, message: m.Call, start: Start) -> Reply[Any]:
        """Carry out a call.

        Args:
            message: which.
            start: makes a task that somebody owns, for what needs one.

        Returns:
            what the answer carries: the protocol of a connect or reconnect, or bytes, or nothing.
        """
        if self.ahead is not None and not isinstance(message, m.Transmit):
            self.ahead.stop()
        self.promised = None
        self._began = None
        perform = self._STRAIGHT.get(type(message))
        if perform is not None:
            return perform(self, message)
        return in_task(start, self._IN_TASK[type(message)](self, message))

    def failed(self, error: PcscError) -> None:
        """A call about this handle has failed."""
        if error.code in _TRANSACTION_LOST:
            self.depth = self.owed = 0

    def _usable(self) -> Card:
        if self.broken is not None:
            raise PcscError(self.broken.code, "because of a call before")
        if self.card is None:
            raise PcscError(ReturnCode.E_INVALID_HANDLE)
        return self.card

    # connections

    async def _connect(self, message: m.Connect) -> Protocol:
        protocols = Protocol(message.protocols)
        self.unsettled = True
        try:
            card = await (await self.context()).connect(self.reader, self.share, protocols)
        except PcscError as error:
            if not message.call:
                self.broken = Broken(_AFTER_CONNECT.get(error.code, error.code))
                raise PcscError(self.broken.code, f"connect: {error}") from error
            raise
        finally:
            self.unsettled = False
        if not message.call and self.share is not ShareMode.DIRECT and card.protocol != message.expected:
            self.broken = Broken(ReturnCode.W_RESET_CARD)
            await card.disconnect(Disposition.LEAVE)
            raise PcscError(ReturnCode.W_RESET_CARD, "the card speaks another protocol than before")
        self.card = card
        if self.asks_reader:
            try:
                await self._ask_reader_briefly(card)
            except asyncio.CancelledError:
                await self._disconnect_unseen()
                raise
        return card.protocol

    async def _reconnect(self, message: m.Reconnect) -> Protocol:
        share, protocols = ShareMode(message.share), Protocol(message.protocols)
        initialization = Disposition(message.initialization)
        if self.broken is not None and self.broken.reset and initialization not in _RESETS:
            initialization = Disposition.RESET
        if self.owed:
            await self._settle_unless_broken()
        if self.ahead is not None:
            self.ahead.forget()
        if self.card is None:
            if self.broken is not None and self.broken.code is ReturnCode.E_READER_UNAVAILABLE:
                raise PcscError(self.broken.code, "another reader may have the name by now")
            self.card = await (await self.context()).connect(self.reader, share, protocols)
            self.broken, self.share = None, share
            if initialization not in _RESETS:
                return self.card.protocol
        protocol = await self.card.reconnect(share, protocols, initialization)
        self.broken, self.share = None, share
        return protocol

    async def _settle_unless_broken(self) -> None:
        """Begin what is owed. If that fails for another reason than the turn, the reconnect finds out what is wrong."""
        try:
            await self._settle()
        except PcscError as error:
            if error.code is ReturnCode.E_SHARING_VIOLATION:
                raise
            self.owed = 0

    async def _disconnect(self, message: m.Disconnect) -> None:
        card, self.card = self.card, None
        self.depth = self.owed = 0
        if card is not None:
            self.unsettled = True
            try:
                await card.disconnect(Disposition(message.disposition))
            finally:
                self.unsettled = False

    # transactions

    def _begin(self, message: m.Begin) -> Reply[None]:
        if not message.call:
            return self._begin_unseen()
        if self.card is not None and not (self.broken is not None and self.broken.believed):
            self.broken = None
        begin = self._usable().begin
        return (self._settled(begin) if self.owed else begin()).then(self._begun)

    def _begun(self, reply: Reply[None]) -> None:
        if reply.error is None:
            self.depth += 1

    def _begin_unseen(self) -> Reply[None]:
        if self.broken is not None or self.card is None:
            return DONE
        if self.owed:
            self.owed += 1
            return DONE
        return self.card.begin().then(self._begun_unseen)

    def _begun_unseen(self, reply: Reply[None]) -> None:
        error = reply.error
        if error is None:
            self.depth += 1
        elif isinstance(error, PcscError):
            if error.code is ReturnCode.E_SHARING_VIOLATION:
                self.owed = 1
            else:
                self.broken = Broken(error.code)

    @replying
    async def _settled(self, call: Callable[[], Reply[T]]) -> T:
        """Begin what is owed, and do something then."""
        await self._settle()
        return await call()

    async def _settle(self) -> None:
        """Begin what is owed, or raise what is in the way."""
        while self.owed:
            await self._usable().begin()
            self.owed -= 1
            self.depth += 1

    async def _settle_patiently(self) -> None:
        """Likewise, for a call that no library repeats: one refusal is not the last word."""
        if not self.owed:
            return
        loop = asyncio.get_running_loop()
        until = loop.time() + UNREPEATED_PATIENCE
        while True:
            asked = loop.time()
            try:
                await self._settle()
            except PcscError as error:
                now = loop.time()
                at_once = now - asked < _AT_ONCE
                if error.code is not ReturnCode.E_SHARING_VIOLATION or at_once or now >= until:
                    raise
            else:
                return

    def _end(self, message: m.End) -> Reply[None]:
        disposition = Disposition(message.disposition)
        if self.broken is not None:
            broken = self.broken
            if self.card is not None and not broken.believed:
                self.broken = None
            raise PcscError(broken.code, "because of a call before")
        if not self.owed:
            return self._end_now(disposition)
        if disposition is not Disposition.LEAVE:
            return self._end_later(disposition)
        self.owed -= 1
        return DONE

    @replying
    async def _end_later(self, disposition: Disposition) -> None:
        await self._settle_patiently()
        await self._end_now(disposition)

    def _end_now(self, disposition: Disposition) -> Reply[None]:
        card = self._usable()
        self.depth = max(0, self.depth - 1)
        return card.end(disposition)

    # the card

    def _transmit(self, message: m.Transmit) -> Reply[bytes]:
        if not message.call:
            return self._believed(message)
        card, ahead = self._usable(), self.ahead
        if self.owed or (ahead is not None and ahead.stands_in(message.apdu)):
            return self._transmit_later(message)
        if ahead is not None:
            ahead.arrives(message.apdu)
        return self._transmit_to(card, message)

    @replying
    async def _transmit_later(self, message: m.Transmit) -> bytes:
        """Likewise, when a transaction is owed, or the host may answer in the card's place."""
        await self._settle()
        return await self._carry_out(message)

    async def _carry_out(self, message: m.Transmit) -> bytes:
        card, ahead = self._usable(), self.ahead
        if ahead is not None:
            if ahead.stands_in(message.apdu):
                await card.status()
            response = ahead.arrives(message.apdu)
            if response is not None:
                return response
        return await self._transmit_to(card, message)

    @replying
    async def _believed(self, message: m.Transmit) -> bytes:
        """Carry out a command of which the program has the answer already."""
        self._usable()
        try:
            await (self._settle() if self.dismissed else self._settle_patiently())
            response = await self._carry_out(message)
        except PcscError as error:
            lost = error.code in _LOST
            await self._refute(error.code if lost else ReturnCode.W_RESET_CARD, reset=not lost)
            raise
        if digest_of(response) != message.digest:
            await self._refute(ReturnCode.W_RESET_CARD, reset=True)
            raise PcscError(ReturnCode.W_RESET_CARD, "the card says something else now")
        if self.ahead is not None:
            self.ahead.answered(message.apdu, response, transaction=False, worthwhile=False)
            self.ahead.gave_up()
        return response

    async def _refute(self, code: ReturnCode, *, reset: bool) -> None:
        """The program was given a wrong answer: do nothing more for it, and reset the card if it is to hear that."""
        self.broken = Broken(code, believed=True, reset=reset and not self.dismissed)
        card, depth = self.card, self.depth
        self.depth = self.owed = 0
        if card is None:
            return
        for _ in range(depth - 1 if self.broken.reset else depth):
            with suppress(PcscError):  # it is over all the same
                await card.end(Disposition.LEAVE)
        if not self.broken.reset:
            return
        try:
            if not depth:
                await card.begin()
            await card.end(Disposition.RESET)
            self.broken.reset = False
        except PcscError as error:
            log.debug("%s: the card will be reset later: %s", self.reader, error)

    def _transmit_to(self, card: Card, message: m.Transmit) -> Reply[bytes]:
        self._began = self.time()
        return card.transmit(message.apdu, message.protocol)

    def foresee(self, message: m.Transmit, response: bytes, round_trip: float | None) -> bytes | None:
        """What comes after this command, if the host is to go on with it by itself.

        Args:
            message: the command.
            response: what the card said.
            round_trip: s to the guest and back, None when it is not known.
        """
        if self.ahead is None:
            return None
        if self._began is not None:  # the card was asked, and the response has come in this moment
            self.seconds = self.time() - self._began
        self.promised = self.ahead.answered(
            message.apdu,
            response,
            transaction=self.depth > 0 or self.share is ShareMode.EXCLUSIVE,
            worthwhile=round_trip is not None and round_trip > self.seconds,
        )
        self.origin, self.protocol = message.call, message.protocol
        return self.promised

    async def run_ahead(self) -> m.Ahead:
        """Carry out what was promised, and promise the next command if there is one."""
        command, self.promised = self.promised, None
        ahead = self.ahead
        if command is None or ahead is None or self.card is None:
            return m.Ahead(self.origin, self.handle, m.REVOKED)
        began = self.time()
        try:
            with by_host_itself():
                transmitting = self.card.transmit(command, self.protocol)
            response = await transmitting
            self.seconds = self.time() - began
        except PcscError as error:
            ahead.gave_up()
            code = m.REVOKED if error.code is ReturnCode.E_SHARING_VIOLATION else int(error.code)
            return m.Ahead(self.origin, self.handle, code)
        self.promised = ahead.ran(response)
        return m.Ahead(self.origin, self.handle, 0, response, self.promised)

    def promise_nothing(self, ahead: m.Ahead) -> m.Ahead:
        """The same response without a promise, because something else waits."""
        if self.ahead is not None:
            self.ahead.gave_up()
        self.promised = None
        return msgspec.structs.replace(ahead, foreseen=None)

    # the reader

    async def _control(self, message: m.Control) -> bytes:
        card = self._usable()
        await self._settle_patiently()
        return await card.control(message.code, message.data, message.max_response)

    async def _disconnect_unseen(self) -> None:
        """The connect was given up after it had succeeded."""
        card, self.card = self.card, None
        if card is not None:
            await card.disconnect(Disposition.LEAVE)

    async def _ask_reader_briefly(self, card: Card) -> None:
        """Learn about the reader what programs ask right after a connect, unless that takes long."""
        try:
            with by_host_itself():  # a connect has a task of its own, so this reaches no further
                async with asyncio.timeout(_ASKING):
                    await self._ask_reader(card)
        except TimeoutError:
            return

    async def _ask_reader(self, card: Card) -> None:
        request = card.control(GET_FEATURE_REQUEST, b"", MAX_ATTRIBUTE_SIZE)
        features = await self._learn(About.CONTROL, GET_FEATURE_REQUEST, request)
        if features is None:
            return
        for code in static_codes(features):
            await self._learn(About.CONTROL, code, card.control(code, b"", MAX_ATTRIBUTE_SIZE))
        for attribute in ASKED_NEXT:
            await self._learn(About.ATTRIBUTE, attribute, card.attribute(attribute))

    async def _learn(self, about: About, key: int, question: Awaitable[bytes]) -> bytes | None:
        try:
            known = Known(0, await question)
        except PcscError as error:
            known = Known(error.code, b"")
        self.learnt.append(Fact(about, key, known))
        return None if known.code else known.value

    async def _attribute(self, message: m.Attribute) -> bytes:
        card = self._usable()
        await self._settle_patiently()
        return await card.attribute(message.attribute)

    async def _set_attribute(self, message: m.SetAttribute) -> None:
        card = self._usable()
        await self._settle_patiently()
        await card.set_attribute(message.attribute, message.value)

    async def _status(self, message: m.Status) -> None:
        del message
        await self._usable().status()

    #: What needs no task, and what does.
    _STRAIGHT: ClassVar[dict[type, Callable[..., Reply[Any]]]] = {
        m.Begin: _begin,
        m.End: _end,
        m.Transmit: _transmit,
    }
    _IN_TASK: ClassVar[dict[type, Callable[..., Coroutine[Any, Any, Any]]]] = {
        m.Connect: _connect,
        m.Reconnect: _reconnect,
        m.Disconnect: _disconnect,
        m.Control: _control,
        m.Attribute: _attribute,
        m.SetAttribute: _set_attribute,
        m.Status: _status,
    }
