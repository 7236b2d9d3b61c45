"""One SCARDHANDLE whose card is on another computer: answers what it can, sends what it must.

Begin, end and disconnect are sent without waiting as long as all is well: the handle has not heard of an error, and
nobody has marked handles on its reader since it was known to be in order (`ReaderState.marks`). After an error the
next calls wait for the host until one has succeeded that mends the handle.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from cardferry.link import messages as m
from cardferry.link.facts import About
from cardferry.link.foreseen import Foreseen
from cardferry.link.guest_session import GONE, GuestSession
from cardferry.pcsc.constants import MAX_APDU_SIZE, MAX_ATTRIBUTE_SIZE, Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.interface import Done

if TYPE_CHECKING:
    from cardferry.link.guest_context import GuestContext

log = logging.getLogger(__name__)

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

#: Messages after which the card may be somebody else's.
_GIVING_BACK: Final = (m.End, m.Disconnect)


class GuestCard:
    """A handle; see `cardferry.pcsc.interface.Card`.

    Args:
        context: whose handle it is.
        session: the session in which it was opened; it lives no longer.
        handle: its number in that session.
        reader: the reader's name.
        share: how it is connected.
        protocol: the active protocol.
        marks: of the reader, when the handle was known to be in order.
    """

    __slots__ = (
        "_closed",
        "_context",
        "_depth",
        "_handle",
        "_marks",
        "_protocol",
        "_reader",
        "_sequence",
        "_session",
        "_share",
        "_transmitted",
        "_troubled",
        "foreseen",
    )

    def __init__(
        self,
        context: GuestContext,
        session: GuestSession,
        *,
        handle: int,
        reader: str,
        share: ShareMode,
        protocol: Protocol,
        marks: int | None,
    ) -> None:
        self.foreseen = Foreseen()
        self._context = context
        self._session = session
        self._handle = handle
        self._reader = reader
        self._share = share
        self._protocol = protocol
        self._marks = marks
        #: Transactions that the program has begun, one inside the other.
        self._depth = 0
        self._troubled = self._closed = False
        #: Counts messages about this handle: a promise holds only until the next one.
        self._sequence = 0
        #: Of the last transmit: the count with it, and its protocol.
        self._transmitted = (0, 0)

    @property
    def reader(self) -> str:
        """The reader's name."""
        return self._reader

    @property
    def protocol(self) -> Protocol:
        """The active protocol, as far as it is known here."""
        return self._protocol

    @property
    def holds(self) -> bool:
        """Whether the program believes to have the card for itself."""
        return self._depth > 0 or self._share is ShareMode.EXCLUSIVE

    # what has become of the handle

    def failed(self, code: int) -> None:
        """A call has failed that nobody waited for: the next one must hear of it."""
        del code
        self._troubled = True
        self.foreseen.drop()

    def session_over(self) -> None:
        """The session is over."""
        self._troubled = True
        self.foreseen.drop()

    @property
    def _current_marks(self) -> int | None:
        state = self._context.guest.readers.find(self._reader)
        return None if state is None else state.marks

    @property
    def _shared(self) -> bool:
        """Whether others may be waiting for the card."""
        state = self._context.guest.readers.find(self._reader)
        return state is None or state.sharing > 1

    @property
    def _well(self) -> bool:
        """Whether a call that only fails when the handle was marked can be believed to succeed."""
        return not self._troubled and self._marks is not None and self._marks == self._current_marks

    def _check(self) -> None:
        if self._closed:
            raise PcscError(ReturnCode.E_INVALID_HANDLE)
        if self._session.dead:
            raise PcscError(GONE, "the link was away for too long")

    # sending

    def _speak(self) -> None:
        """A message about this handle goes out: what has come ahead is dropped."""
        self._sequence += 1
        foreseen = self.foreseen
        if foreseen.origin:
            if foreseen.used:
                self._session.tell(m.Used(self._handle, foreseen.origin, foreseen.used))
            foreseen.drop()
            self._context.guest.account(foreseen)

    async def _ask(self, make: m.MakeCall, size: int = 0, card: GuestCard | None = None) -> m.Answer:
        """Make a call about this handle and wait for the answer."""
        self._check()
        if self._session.crowded:
            await self._session.ready()
        self._speak()
        try:
            answer = await self._session.ask(make, size, card)
        except PcscError as error:
            self._heard_of(error.code)
            raise
        self._context.seen(self._session)
        return answer

    def _heard_of(self, code: int) -> None:
        """A call has failed."""
        if code not in _PASSING:
            self._troubled = True
            self.foreseen.drop()

    async def _mending(self, make: m.MakeCall) -> m.Answer:
        """Likewise, for a call that finds out whether the handle is in order."""
        marks = self._current_marks
        answer = await self._ask(make)
        self._marks, self._troubled = marks, False
        return answer

    async def _tell(self, message: m.Call) -> None:
        """Make a call without waiting."""
        if self._session.crowded:
            await self._session.ready()
        self._tell_now(message)

    def _tell_now(self, message: m.Call) -> None:
        self._speak()
        self._session.tell(message, soon=isinstance(message, _GIVING_BACK) and self._shared)
        self._context.unseen(self._session)

    # calls

    async def reconnect(self, share: ShareMode, protocols: Protocol, initialization: Disposition) -> Protocol:
        """Renew the connection."""
        was_well = self._well
        answer = await self._mending(
            lambda call: m.Reconnect(call, self._handle, share, int(protocols), initialization)
        )
        self._share = share
        self._protocol = Protocol(answer.protocol)
        if not was_well:
            self._depth = 0  # whether a transaction has survived, only the host knows
        return self._protocol

    async def begin(self) -> None:
        """Begin a transaction; the turn comes at the latest with the first call that needs it."""
        self._check()
        if self._well and self._context.may_begin(self):
            self._depth += 1
            await self._tell(m.Begin(0, self._handle))
        else:
            await self._mending(lambda call: m.Begin(call, self._handle))
            self._depth += 1

    async def end(self, disposition: Disposition) -> None:
        """End a transaction."""
        self._check()
        if disposition is Disposition.LEAVE and self._depth and self._well and self._context.may_go_on(self._session):
            self._depth -= 1
            await self._tell(m.End(0, self._handle, disposition))
            return
        self._depth = max(0, self._depth - 1)
        await self._ask(lambda call: m.End(call, self._handle, disposition))

    async def transmit(self, apdu: bytes, protocol: int) -> bytes:
        """Send a command APDU, unless the host has done so already."""
        self._check()
        if len(apdu) > MAX_APDU_SIZE:
            raise PcscError(ReturnCode.E_INSUFFICIENT_BUFFER, "command too long")
        if self._well:
            response = await self.foreseen.take(apdu, protocol)
            if response is not None:
                return response
        self._transmitted = (self._sequence + 1, protocol)
        answer = await self._ask(lambda call: m.Transmit(call, self._handle, apdu, protocol), len(apdu), self)
        return answer.data

    # at once

    def begin_at_once(self) -> bool:
        """Begin a transaction, if nothing has to be asked or waited for."""
        if self._closed or self._session.crowded or not self._well or not self._context.may_begin(self):
            return False
        self._depth += 1
        self._tell_now(m.Begin(0, self._handle))
        return True

    def end_at_once(self, disposition: Disposition) -> bool:
        """End a transaction, if nothing has to be asked or waited for."""
        session = self._session
        if disposition is not Disposition.LEAVE or self._closed or session.crowded:
            return False
        if not self._depth or not self._well or not self._context.may_go_on(session):
            return False
        self._depth -= 1
        self._tell_now(m.End(0, self._handle, disposition))
        return True

    def transmit_at_once(self, apdu: bytes, protocol: int, done: Done) -> bool:
        """Send a command APDU, unless the host may have done so already."""
        if self._closed or self.foreseen.origin or len(apdu) > MAX_APDU_SIZE:
            return False

        def take(answer: m.Answer | None, error: PcscError | None) -> None:
            try:
                response = self._answered(answer, error)
            except PcscError as failure:
                done(b"", failure)
            except Exception:  # whoever waits must hear of it
                log.exception("%s: a bug behind an answer", self._reader)
                done(b"", PcscError(ReturnCode.F_INTERNAL_ERROR, "a bug; the log has it"))
            else:
                done(response, None)

        if not self._session.transmit_at_once(self._handle, apdu, protocol, take):
            return False
        self._sequence += 1
        self._transmitted = (self._sequence, protocol)
        return True

    def _answered(self, answer: m.Answer | None, error: PcscError | None) -> bytes:
        """The response in the answer to a transmit; raises the error that there is instead."""
        if answer is not None and not answer.code:
            if answer.foreseen is not None:
                self.promised(answer.call, answer.foreseen)
            self._context.seen(self._session)
            return answer.data
        error = error or PcscError(answer.code if answer is not None else GONE, "the host says")
        self._heard_of(error.code)
        raise error

    def promised(self, call: int, command: bytes) -> None:
        """The answer to a transmit says what the host does next; worth nothing if we have said more since."""
        sequence, protocol = self._transmitted
        if sequence == self._sequence and not self._troubled:
            self.foreseen.promised(call, protocol, command)

    async def control(self, code: int, data: bytes, max_response: int) -> bytes:
        """Send a control code to the reader, unless the answer is a fact."""
        self._check()
        if len(data) > MAX_APDU_SIZE:
            raise PcscError(ReturnCode.E_INSUFFICIENT_BUFFER, "command too long")
        if not data:
            known = self._fact(About.CONTROL, code)
            if known is not None and len(known) <= max_response:
                return known
        answer = await self._ask(lambda call: m.Control(call, self._handle, code, data, max_response), len(data))
        return answer.data

    async def attribute(self, attribute: int) -> bytes:
        """A reader attribute."""
        self._check()
        if self._well:
            known = self._fact(About.ATTRIBUTE, attribute)
            if known is not None:
                return known
        return (await self._ask(lambda call: m.Attribute(call, self._handle, attribute))).data

    def _fact(self, about: About, key: int) -> bytes | None:
        known = self._session.facts.find(self._reader, about, key)
        if known is None:
            return None
        self._context.guest.counters.local += 1
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
        """Raise what ``SCardStatus`` would return."""
        self._check()
        if self._well:
            self._context.guest.counters.local += 1
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
        try:
            if disposition is Disposition.LEAVE and self._context.may_go_on(session):
                await self._tell(m.Disconnect(0, self._handle, disposition))
            else:
                await session.ready()
                self._speak()
                await session.ask(lambda call: m.Disconnect(call, self._handle, disposition))
                self._context.seen(session)
        finally:
            self.dismiss()

    def dismiss(self) -> None:
        """The handle is no more; its number is not used again."""
        self._closed = True
        self._speak()
        if self._session.cards.pop(self._handle, None) is not None:
            self._session.handles -= 1
        self._context.cards.discard(self)
