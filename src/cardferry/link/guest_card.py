"""One SCARDHANDLE whose card is on another computer: answers what it can, sends what it must.

Begin, end and disconnect are sent without waiting as long as all is well: the handle has not heard of an error, and
nobody has marked handles on its reader since it was known to be in order (`Marks`). After an error the next calls wait
for the host until one has succeeded that mends the handle.

Begin waits for the host, too, while somebody else could be in its way: programs act on what begin returns (libykpiv,
yubikey.rs and pivy reconnect when it says ``W_RESET_CARD``, and after no other call). Programs on the host itself come,
reset the card and go unseen. So it waits also when the handle has used the card, and nothing was heard of the card for
a moment: the host looks then.

A command is sent without waiting, too, when somebody knows the answer: the host has run ahead with it (`Foreseen`), or
the card has said so before (`CardCopy`); see ``docs/memory.md``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from cardferry.link import messages as m
from cardferry.link.digest import digest_of
from cardferry.link.facts import About
from cardferry.link.guest_foreseen import Foreseen
from cardferry.link.guest_memory import CardCopy
from cardferry.link.guest_session import GONE, Call, GuestSession, Marks
from cardferry.link.guest_unseen import Unseen
from cardferry.pcsc.constants import MAX_APDU_SIZE, MAX_ATTRIBUTE_SIZE, Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.reply import DONE, Reply, answered, replying, straight

#: These errors say nothing about the handle.
_PASSING: Final = frozenset(
    {
        ReturnCode.E_SHARING_VIOLATION,
        ReturnCode.E_CANCELLED,
        ReturnCode.E_NO_MEMORY,
        ReturnCode.E_INSUFFICIENT_BUFFER,
        ReturnCode.E_UNSUPPORTED_FEATURE,
        ReturnCode.E_PROTO_MISMATCH,
        ReturnCode.E_INVALID_PARAMETER,
        ReturnCode.E_INVALID_VALUE,
    }
)

#: How long it counts that the host has reached the card through the handle, in s. A program of the host's that comes,
#: resets the card and leaves takes longer.
RECENT: Final = 0.05
_RESETS: Final = (Disposition.RESET, Disposition.UNPOWER)
#: Messages after which the card may be somebody else's.
_GIVING_BACK: Final = (m.End, m.Disconnect)


class _Transmit(Call[bytes]):
    """A command on its way: the message of that number about its handle."""

    __slots__ = ("_apdu", "_card", "_protocol", "_sequence")

    def __init__(self, session: GuestSession, apdu: bytes, card: GuestCard, sequence: int, protocol: int) -> None:
        Call.__init__(self, session, len(apdu))
        self._apdu, self._card, self._sequence, self._protocol = apdu, card, sequence, protocol

    def answered(self, answer: m.Answer) -> None:
        self._card.moved(self._apdu, answer)
        if answer.foreseen is not None:
            self._card.promised(answer, self._sequence, self._protocol)  # before what comes behind it is looked at
        self.resolve(answer.data)


class GuestCard:
    """A handle; see `cardferry.pcsc.interface.Card`.

    Args:
        session: the session in which it was opened; it lives no longer.
        unseen: how far ahead of the host its context is.
        when_closed: called when the handle is no more.
        handle: its number in that session.
        reader: the reader's name.
        share: how it is connected.
        protocol: the active protocol.
        marks: of the reader, when the handle was known to be in order.

    Attributes:
        foreseen: responses that have come before the program asked for them.
    """

    __slots__ = (
        "_closed",
        "_copy",
        "_depth",
        "_failed",
        "_handle",
        "_marks",
        "_protocol",
        "_reached_at",
        "_reader",
        "_resetting",
        "_sequence",
        "_session",
        "_share",
        "_time",
        "_unseen",
        "_unsure",
        "_when_closed",
        "foreseen",
    )

    def __init__(
        self,
        session: GuestSession,
        unseen: Unseen,
        when_closed: Callable[[GuestCard], None],
        *,
        handle: int,
        reader: str,
        share: ShareMode,
        protocol: Protocol,
        marks: Marks | None,
    ) -> None:
        self.foreseen = Foreseen()
        self._session = session
        #: What the card has said before; None where nothing is remembered.
        self._copy: CardCopy | None = None if session.memory is None else session.memory.card(reader)
        self._time = asyncio.get_running_loop().time
        self._unseen = unseen
        self._when_closed = when_closed
        self._handle = handle
        self._reader = reader
        self._share = share
        self._protocol = protocol
        self._marks = marks
        #: Transactions that the program has begun, one inside the other.
        self._depth = 0
        #: Whether it has a transaction, or had, of which only the host knows whether it has survived.
        self._unsure = False
        #: Whether it is resetting the card.
        self._resetting = False
        #: A call about the handle has failed, and none that succeeded since has shown that it is in order.
        self._failed = False
        self._closed = False
        #: When the host has last reached the card through the handle; None while the handle has not used the card.
        self._reached_at: float | None = None
        #: Counts messages about this handle: a promise holds only until the next one.
        self._sequence = 0
        if self._copy is not None:
            self._copy.handles += 1
        self._account()

    @property
    def reader(self) -> str:
        """The reader's name."""
        return self._reader

    @property
    def protocol(self) -> Protocol:
        """The active protocol, as far as it is known here."""
        return self._protocol

    @property
    def counted(self) -> bool:
        """Whether the reader's `sharing` counts this handle, as far as it is known here."""
        return not self._closed and not self._session.dead

    @property
    def _has_card(self) -> bool:
        """Whether the program believes to have the card for itself."""
        return self._depth > 0 or self._share is ShareMode.EXCLUSIVE

    def _account(self) -> None:
        """Keep the list of those who may have the card, or have asked for it, or are resetting it."""
        in_the_way = (not self._closed and (self._has_card or self._unsure)) or self._resetting
        self._session.in_the_way(self, self._reader, in_the_way)

    # what has become of the handle

    def failed(self, code: int) -> None:
        """A call has failed that nobody waited for: the next one must hear of it."""
        del code
        self._failed = True
        self.foreseen.drop()
        if self._copy is not None:
            self._copy.lose()

    def session_over(self) -> None:
        """The session is over."""
        self._failed = True
        self.foreseen.drop()

    @property
    def _shared(self) -> bool:
        """Whether others may be waiting for the card."""
        state = self._session.readers.find(self._reader)
        return state is None or state.sharing > 1

    @property
    def _in_order(self) -> bool:
        """Whether a call that only fails when the handle was marked can be believed to succeed."""
        marks = self._marks
        return not self._failed and marks is not None and marks == self._session.marks(self._reader)

    @property
    def _may_begin(self) -> bool:
        """Whether a transaction may begin without waiting: what the host will say is known."""
        return (
            self._in_order
            and self._unseen.may_begin(self._session)
            and (self._has_card or (self._lately and not self._contended))
        )

    @property
    def _contended(self) -> bool:
        """Whether somebody else may be in the way."""
        return self._session.contended(self, self._reader)

    @property
    def _lately(self) -> bool:
        """Whether nobody can have reset the card unseen since the handle has used it."""
        return self._reached_at is None or self._time() - self._reached_at < RECENT

    def _check(self) -> None:
        if self._closed:
            raise PcscError(ReturnCode.E_INVALID_HANDLE)
        if self._session.dead:
            raise PcscError(GONE, "the link was away for too long")

    # what the card has said before

    @property
    def _alone(self) -> bool:
        """Whether what the card answers to this handle is decided by what this handle does."""
        return self._has_card or (
            self._copy is not None and self._copy.handles == 1 and self._lately and not self._contended
        )

    def _stands(self, answer: m.Answer) -> None:
        """The host says where the card stands after a call."""
        if self._copy is not None:
            if self._has_card or self._copy.handles == 1:
                self._copy.stands(answer)
            else:
                self._copy.lose()

    def _believed(self, copy: CardCopy, apdu: bytes, protocol: int) -> bytes | None:
        """What the card says to a command, if it is known; the command is on its way to the card from now on."""
        known, memory = copy.find(apdu), self._session.memory
        if (
            known is None
            or memory is None
            or not memory.may_believe
            or protocol != self._protocol
            or not (self._in_order and self._alone)
            or self._session.full
        ):
            return None
        self._speak()
        self._session.tell(m.Transmit(0, self._handle, apdu, protocol, digest_of(known.answer)))
        memory.believed += 1
        self._session.counters.believed += 1
        copy.believe(apdu, known)
        if self._reached_at is None:
            self._reached_at = asyncio.get_running_loop().time()
        return known.answer

    # sending

    def _speak(self) -> None:
        """A message about this handle goes out: what has come ahead is dropped."""
        self._sequence += 1
        foreseen = self.foreseen
        if foreseen.origin:
            if foreseen.used:
                self._session.tell(m.Used(self._handle, foreseen.origin, foreseen.used))
            foreseen.drop()
            self._session.counters.account(foreseen)

    async def _ask(self, make: m.MakeCall, size: int = 0) -> m.Answer:
        """Make a call about this handle and wait for the answer."""
        self._check()
        if self._session.full:
            await self._session.drain()
        self._speak()
        try:
            answer = await self._session.ask(make, size)
        except PcscError as error:
            self._heard_of(error.code)
            raise
        self._unseen.seen(self._session)
        return answer

    def _heard_of(self, code: int) -> None:
        """A call has failed."""
        if self._copy is not None:
            self._copy.lose()
        if code not in _PASSING:
            self._failed = True
            self.foreseen.drop()

    async def _mending(self, make: m.MakeCall) -> m.Answer:
        """Likewise, for a call that finds out whether the handle is in order."""
        marks = self._session.marks(self._reader)
        answer = await self._ask(make)
        self._marks, self._failed = marks, False
        return answer

    def _reached(self) -> None:
        """The host has reached the card, or the program has begun anew."""
        if self._reached_at is not None:
            self._reached_at = self._time()

    def _tell(self, message: m.Call) -> Reply[None]:
        """Make a call without waiting, or as soon as there is room for it."""
        if self._session.full:
            return self._tell_later(message)
        self._speak()
        self._session.tell(message, soon=isinstance(message, _GIVING_BACK) and self._shared)
        self._unseen.sent(self._session)
        return DONE

    @replying
    async def _tell_later(self, message: m.Call) -> None:
        await self._session.drain()
        await self._tell(message)

    # calls

    async def reconnect(self, share: ShareMode, protocols: Protocol, initialization: Disposition) -> Protocol:
        """Renew the connection."""
        was_in_order = self._in_order
        self._resetting = initialization in _RESETS
        self._account()
        try:
            answer = await self._mending(
                lambda call: m.Reconnect(call, self._handle, share, int(protocols), initialization)
            )
            self._share = share
            self._protocol = Protocol(answer.protocol)
            self._reached()
            self._stands(answer)
            if not was_in_order:
                self._unsure = self._unsure or self._depth > 0
                self._depth = 0
        finally:
            self._resetting = False
            self._account()
        return self._protocol

    @straight
    def begin(self) -> Reply[None]:
        """Begin a transaction; without waiting for the turn when nobody is in the way."""
        self._check()
        at_once = self._may_begin
        self._depth += 1
        self._account()
        return self._tell(m.Begin(0, self._handle)) if at_once else self._begin_by_turn()

    @replying
    async def _begin_by_turn(self) -> None:
        try:
            self._stands(await self._mending(lambda call: m.Begin(call, self._handle)))
        except BaseException:
            self._depth = max(0, self._depth - 1)
            self._account()
            raise
        self._reached()

    @straight
    def end(self, disposition: Disposition) -> Reply[None]:
        """End a transaction."""
        self._check()
        if not self._may_end(disposition):
            return self._end_seen(disposition)
        self._reached()  # until now the card was the handle's
        self._ended()
        return self._tell(m.End(0, self._handle, disposition))

    @replying
    async def _end_seen(self, disposition: Disposition) -> None:
        self._resetting = disposition in _RESETS
        self._ended()
        try:
            self._stands(await self._ask(lambda call: m.End(call, self._handle, disposition)))
        finally:
            self._resetting = False
            self._account()

    def _may_end(self, disposition: Disposition) -> bool:
        """Whether a transaction may end without waiting."""
        return (
            disposition is Disposition.LEAVE
            and self._depth > 0
            and self._in_order
            and self._unseen.may_go_on(self._session)
        )

    def _ended(self) -> None:
        self._depth = max(0, self._depth - 1)
        self._unsure = False
        self._account()
        if self._copy is not None and not self._has_card and self._session.readers.others(self._reader):
            self._copy.lose()

    @straight
    def transmit(self, apdu: bytes, protocol: int) -> Reply[bytes]:
        """Send a command APDU, unless somebody knows the answer."""
        self._check()
        if len(apdu) > MAX_APDU_SIZE:
            raise PcscError(ReturnCode.E_INSUFFICIENT_BUFFER, "command too long")
        if self._session.full or (self.foreseen.origin and self._in_order):
            return self._transmit_later(apdu, protocol)
        return self._transmit(apdu, protocol)

    @replying
    async def _transmit_later(self, apdu: bytes, protocol: int) -> bytes:
        """Likewise, when the response may be here, or is on its way, or the host does not keep up."""
        if self.foreseen.origin and self._in_order:
            response = await self.foreseen.take(apdu, protocol)
            if response is not None:
                if self._copy is not None:
                    self._copy.answered(apdu, response)
                return response
            self._check()
        while self._session.full:
            await self._session.drain()
        return await self._transmit(apdu, protocol)

    def _transmit(self, apdu: bytes, protocol: int) -> Reply[bytes]:
        copy = self._copy
        if copy is not None and copy.level:
            believed = self._believed(copy, apdu, protocol)
            if believed is not None:
                return answered(believed)
            if not self._has_card and copy.handles > 1:
                copy.lose()  # nobody knows what comes before what
        self._speak()
        call = _Transmit(self._session, apdu, self, self._sequence, protocol)
        make = lambda number: m.Transmit(number, self._handle, apdu, protocol)  # noqa: E731
        return self._session.make(call, make).then(self._transmitted)

    def _transmitted(self, reply: Reply[bytes]) -> None:
        error = reply.error
        if error is None:
            self._unseen.seen(self._session)
            self._reached_at = self._time()
        elif isinstance(error, PcscError):
            self._heard_of(error.code)

    def moved(self, apdu: bytes, answer: m.Answer) -> None:
        """The card has answered a command of this handle: where it stands now."""
        if self._copy is not None:
            self._stands(answer)
            self._copy.answered(apdu, answer.data)

    def promised(self, answer: m.Answer, sequence: int, protocol: int) -> None:
        """The host goes on by itself after the transmit that was the message of that number about this handle.

        That is worth nothing if we have said more since.
        """
        if sequence == self._sequence and not self._failed:
            self.foreseen.promised(answer.call, protocol, answer.foreseen)

    async def control(self, code: int, data: bytes, max_response: int) -> bytes:
        """Send a control code to the reader, unless the answer is a fact."""
        self._check()
        if len(data) > MAX_APDU_SIZE:
            raise PcscError(ReturnCode.E_INSUFFICIENT_BUFFER, "command too long")
        if not data:
            known = self._fact(About.CONTROL, code)
            if known is not None and len(known) <= max_response:
                return known
        if data and self._copy is not None:
            self._copy.lose()
        answer = await self._ask(lambda call: m.Control(call, self._handle, code, data, max_response), len(data))
        return answer.data

    async def attribute(self, attribute: int) -> bytes:
        """A reader attribute."""
        self._check()
        if self._in_order:
            known = self._fact(About.ATTRIBUTE, attribute)
            if known is not None:
                return known
        return (await self._ask(lambda call: m.Attribute(call, self._handle, attribute))).data

    def _fact(self, about: About, key: int) -> bytes | None:
        known = self._session.facts.find(self._reader, about, key)
        if known is None:
            return None
        self._session.counters.local += 1
        if known.code:
            raise PcscError(known.code, "as before")
        return known.value

    async def set_attribute(self, attribute: int, value: bytes) -> None:
        """Set a reader attribute."""
        self._check()
        if len(value) > MAX_ATTRIBUTE_SIZE:
            raise PcscError(ReturnCode.E_INSUFFICIENT_BUFFER, "attribute too long")
        await self._ask(lambda call: m.SetAttribute(call, self._handle, attribute, value))

    async def status(self) -> None:
        """Raise what ``SCardStatus`` would return; waits for the host while somebody else may have the card."""
        self._check()
        if self._in_order and (self._has_card or not self._contended):
            self._session.counters.local += 1
            return
        await self._mending(lambda call: m.Status(call, self._handle))

    async def disconnect(self, disposition: Disposition) -> None:
        """Close the handle."""
        if self._closed:
            raise PcscError(ReturnCode.E_INVALID_HANDLE)
        self._closed = True
        session = self._session
        if session.dead:
            return
        self._resetting = disposition in _RESETS
        self._account()
        try:
            if disposition is Disposition.LEAVE and self._unseen.may_go_on(session):
                await self._tell(m.Disconnect(0, self._handle, disposition))
            else:
                await session.drain()
                self._speak()
                self._stands(await session.ask(lambda call: m.Disconnect(call, self._handle, disposition)))
                self._unseen.seen(session)
        finally:
            self.dismiss()

    def dismiss(self, *, vanishes: bool = False) -> None:
        """The handle is no more; its number is not used again.

        Args:
            vanishes: whether it was not closed, so that the host resets the card if the handle had it.
        """
        if vanishes and (self._has_card or self._unsure or self._resetting):
            self._session.mark(self._reader)
            if self._copy is not None:
                self._copy.lose()
        if self._copy is not None:
            self._copy.handles -= 1
            self._copy = None
        self._closed = True
        self._resetting = False
        self._account()
        self._speak()
        self._session.close_handle(self._handle)
        self._when_closed(self)
