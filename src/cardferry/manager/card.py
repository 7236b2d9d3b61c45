"""One SCARDHANDLE on a reader of this computer: checks what the caller may do, then asks the slot for a turn."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from cardferry.manager.handle import HandleState, Happened
from cardferry.manager.settings import ExclusivePolicy
from cardferry.manager.slot import Slot
from cardferry.pcsc.applications import TELLING
from cardferry.pcsc.card_name import note_application
from cardferry.pcsc.constants import (
    MAX_APDU_SIZE,
    PROTOCOL_ANY_OLD,
    Disposition,
    Protocol,
    ShareMode,
)
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.reply import DONE, Reply, replying, straight

log = logging.getLogger(__name__)

_RESETS = (Disposition.RESET, Disposition.UNPOWER)


class LocalCard:
    """A handle; see `cardferry.pcsc.interface.Card` for what the calls mean.

    Args:
        slot: the reader it is on.
        state: the handle as the slot sees it.
        patience: s that each call waits for its turn at most, None for ever.
        when_closed: called when the handle has been closed.

    Attributes:
        slot: the reader it is on.
        state: the handle as the slot sees it.
    """

    __slots__ = ("_active", "_patience", "_when_closed", "slot", "state")

    def __init__(
        self, slot: Slot, state: HandleState, patience: float | None, when_closed: Callable[[LocalCard], None]
    ) -> None:
        self.slot = slot
        self.state = state
        self._patience = patience
        self._when_closed = when_closed
        self._active = Protocol.UNDEFINED

    @property
    def reader(self) -> str:
        """The reader's name."""
        return self.slot.name

    @property
    def protocol(self) -> Protocol:
        """The active protocol of this handle."""
        return self._active

    @property
    def exclusive(self) -> bool:
        """Whether this handle holds the reader exclusively at this moment."""
        return self.slot.exclusive_owner is self.state

    @property
    def closed(self) -> bool:
        """Whether the handle is closed, or its context."""
        return self.state.closed

    @property
    def counted(self) -> bool:
        """Whether the reader's `sharing` counts this handle."""
        return self.slot.counts(self.state)

    def _check_open(self) -> None:
        if self.closed:
            raise PcscError(ReturnCode.E_INVALID_HANDLE)
        self.slot.device.check_gone()

    def _check_usable(self) -> None:
        state, device = self.state, self.slot.device
        if state.closed or device.gone or state.happened is not None:
            self._check_open()
            state.check_happened()

    # connect

    async def connect(self, share: ShareMode, protocols: Protocol) -> None:
        """Open the handle. Waits its turn, except inside a transaction of its own context.

        When it fails the caller must call `vanish`.
        """
        protocols = _checked(share, protocols)
        slot = self.slot
        slot.device.check_gone()
        if self._refused_at_once(share):
            raise PcscError(ReturnCode.E_SHARING_VIOLATION, "somebody is connected")
        until = slot.deadline(self._connect_patience)
        if slot.holder is not None and slot.holder.context is self.state.context:
            await self._join(share, protocols, until)
            return
        with slot.coming.one(waits=slot.turns.owner is not None):
            async with slot.turn(self.state, self._connect_patience):
                await self._join(share, protocols, until)

    @property
    def _connect_patience(self) -> float | None:
        return None if self._patience is None else self.slot.settings.connect_patience

    def _refused_at_once(self, share: ShareMode) -> bool:
        """Whether waiting would be of no use, or is not wanted."""
        slot = self.slot
        if share is ShareMode.EXCLUSIVE and slot.sharing > 0:
            return True
        exclusive = slot.exclusive_owner
        if exclusive is None:
            return False
        mine = self.state
        if exclusive.context is mine.context or exclusive.caller.same_process(mine.caller):
            return True
        if exclusive.caller == mine.caller and mine.caller.program.pid is None:
            # Perhaps the same process, perhaps another one of that computer: for all that is known, threads of one
            # process would wait for each other. Another one comes again, when the lease may be over.
            return not slot.turns.owner_yields() or slot.settings.exclusive is ExclusivePolicy.HONOUR
        return slot.settings.exclusive is ExclusivePolicy.HONOUR

    async def _join(self, share: ShareMode, protocols: Protocol, until: float | None) -> None:
        slot = self.slot
        if share is ShareMode.EXCLUSIVE and slot.sharing:
            raise PcscError(ReturnCode.E_SHARING_VIOLATION, "somebody is connected")
        self._active = await slot.power(share, protocols, until)
        if self.closed:
            raise PcscError(ReturnCode.E_CANCELLED, "closed meanwhile")
        self.state.opened = slot.moment()
        slot.add(self.state)
        if share is ShareMode.EXCLUSIVE:
            await slot.exclude(self.state, until)

    async def reconnect(self, share: ShareMode, protocols: Protocol, initialization: Disposition) -> Protocol:
        """Renew the connection: clears what happened; returns the active protocol."""
        if initialization is Disposition.EJECT:
            raise PcscError(ReturnCode.E_INVALID_VALUE, "reconnect cannot eject")
        protocols = _checked(share, protocols)
        self._check_open()
        slot = self.slot
        patience = self._patience
        asked = slot.moment()
        until = slot.deadline(patience)
        async with slot.turn(self.state, patience):
            if share is ShareMode.EXCLUSIVE and slot.others(self.state):
                raise PcscError(ReturnCode.E_SHARING_VIOLATION, "somebody else is connected")
            slot.device.check_card()
            if initialization in _RESETS:
                wanted = Protocol.ANY if Protocol.RAW in protocols or not protocols else protocols
                await self._reset(lambda: slot.device.reset(initialization, wanted), until, asked)
            # What happens from now on counts again, also if it happens before we are through.
            happened, self.state.happened = self.state.happened, None
            self.state.used = self.state.used and happened is None
            try:
                await self._renew(share, protocols, until)
            except BaseException:
                self.state.happened = self.state.happened or happened
                raise
            slot.dispossessed.discard(self.state)
            slot.touch()
        return self._active

    async def _renew(self, share: ShareMode, protocols: Protocol, until: float | None) -> None:
        slot = self.slot
        self._active = await slot.power(share, protocols, slot.deadline(self._connect_patience))
        if share is ShareMode.EXCLUSIVE:
            if not self.exclusive:
                await slot.exclude(self.state, until)
        elif self.exclusive:
            slot.exclusive_owner = None
            await self._unlock_once()

    async def _reset(self, work: Callable[[], Awaitable[None]], until: float | None, asked: int) -> None:
        """Take the card's session, in a turn that we have. If anything was done, the handles are told, this one too.

        But not those that were opened while the reset waited for its turn, when the protocol is the same as before:
        they have lost nothing, and nobody can say which of the two came first. libykpiv gives up when it is told of a
        reset right after its connect, and leaves with a reset itself: several loops of it would stop each other.

        Args:
            work: what resets the card.
            until: see `Slot.insist`.
            asked: when the reset was asked for, see `Slot.moment`.
        """
        executed = False
        protocol = self.slot.device.protocol

        async def watched() -> None:
            nonlocal executed
            executed = True
            try:
                await work()
            except PcscError as error:
                executed = error.code is not ReturnCode.E_SHARING_VIOLATION
                raise

        try:
            await self.slot.insist(self.state, watched, until)
        finally:
            if executed:
                same = self.slot.device.protocol == protocol
                self.slot.tell(Happened.RESET, since=asked if same else None)

    # transactions

    @straight
    def begin(self) -> Reply[None]:
        """Begin a transaction."""
        self._check_usable()
        return self.slot.lock(self.state, self._patience)

    @straight
    def end(self, disposition: Disposition) -> Reply[None]:
        """End a transaction; a disposition that resets marks this handle, too, as pcscd does.

        No reader here can eject a card: ``E_UNSUPPORTED_FEATURE``, after the end, as pcscd says for such readers.

        When others have reset the card in the middle of it, the transaction ends as well, with that error: programs
        that begin anew after it (libykpiv) would have two of them, end one, and shut out everybody.
        """
        self._check_open()
        slot, state = self.slot, self.state
        if state.happened is not None:
            if state.lock_count > self.exclusive:
                return self._end_lost()
            state.check_happened()
        holder = slot.turns.owner
        if holder is not state and isinstance(holder, HandleState) and holder.lock_count:
            raise PcscError(ReturnCode.E_SHARING_VIOLATION, "the transaction is somebody else's")
        if state.lock_count <= (slot.exclusive_owner is state):
            raise PcscError(ReturnCode.E_NOT_TRANSACTED)
        return self._unlock_once() if disposition is Disposition.LEAVE else self._end_by(disposition)

    @replying
    async def _end_lost(self) -> None:
        await self._unlock_once()
        self.state.check_happened()

    @replying
    async def _end_by(self, disposition: Disposition) -> None:
        slot = self.slot
        try:
            if disposition in _RESETS:
                await self._reset(lambda: slot.device.reset(disposition, Protocol.ANY), None, slot.moment())
        finally:
            await self._unlock_once()
        if disposition is Disposition.EJECT:
            raise PcscError(ReturnCode.E_UNSUPPORTED_FEATURE, "the reader does not eject cards")

    def _unlock_once(self) -> Reply[None]:
        state = self.state
        if state.lock_count == 1:
            return self.slot.unlock(state)
        if state.lock_count:
            state.lock_count -= 1
        return DONE

    # one operation each

    @straight
    def transmit(self, apdu: bytes, protocol: int) -> Reply[bytes]:
        """Send a command APDU in this handle's turn."""
        self._check_usable()
        if len(apdu) > MAX_APDU_SIZE:
            raise PcscError(ReturnCode.E_INSUFFICIENT_BUFFER, "command too long")
        slot = self.slot
        reply = slot.operate(
            self.state,
            lambda: slot.transmit(self.state, apdu, self._transmit_protocol(protocol)),
            self._patience,
        )
        return reply.then(partial(self._answered, apdu)) if apdu[1:3] in TELLING else reply

    def _answered(self, apdu: bytes, reply: Reply[bytes]) -> None:
        if reply.error is None:
            note_application(self.slot.device.applications, apdu, reply.result())

    def _transmit_protocol(self, protocol: int) -> Protocol:
        device = self.slot.device
        if protocol and protocol == device.protocol:
            return device.protocol  # there is a card: it has this protocol
        if protocol == Protocol.RAW:
            return Protocol.RAW
        if not device.card_present:
            raise PcscError(ReturnCode.E_NO_SMARTCARD)
        if protocol not in (device.protocol, PROTOCOL_ANY_OLD) or not device.protocol:
            raise PcscError(ReturnCode.E_PROTO_MISMATCH, f"protocol {protocol:#x}")
        return device.protocol

    async def control(self, code: int, data: bytes, max_response: int) -> bytes:
        """Send a control code in this handle's turn. Works without a card, and whatever happened to it."""
        self._check_open()
        slot = self.slot
        until = slot.deadline(self._patience)

        def work() -> Coroutine[Any, Any, bytes]:
            return slot.device.control(self.state.caller, code, data, max_response)

        async with slot.turn(self.state, self._patience):
            return await slot.insist(self.state, work, until)

    async def attribute(self, attribute: int) -> bytes:
        """A reader attribute. It concerns the reader, not the card, so it needs no turn.

        While another user of the reader has it exclusively, the handle's turn is what waits for that.
        """
        self._check_usable()
        slot = self.slot
        try:
            return await self.state.spare(lambda: slot.device.call(lambda: slot.device.reader.attribute(attribute)))
        except PcscError as error:
            if error.code is not ReturnCode.E_SHARING_VIOLATION:
                raise
        return await slot.operate(self.state, lambda: slot.device.reader.attribute(attribute), self._patience)

    async def set_attribute(self, attribute: int, value: bytes) -> None:
        """Set a reader attribute in this handle's turn."""
        self._check_usable()
        slot = self.slot
        caller = self.state.caller
        await slot.operate(self.state, lambda: slot.device.set_attribute(caller, attribute, value), self._patience)

    async def status(self) -> None:
        """Raise what ``SCardStatus`` would return. During somebody's transaction it waits, as with pcscd.

        What happens while it waits is left to the next call. libykpiv asks right after its connect, and gives up when
        it is told of a reset there: it would be told of every reset by those whose turn comes before.
        """
        self._check_usable()
        async with self.slot.turn(self.state, self._patience):
            pass

    # the end

    async def disconnect(self, disposition: Disposition) -> None:
        """Close the handle. A card that cannot be reset is no reason to fail, as with pcscd."""
        if self.closed:
            raise PcscError(ReturnCode.E_INVALID_HANDLE)
        device = self.slot.device
        try:
            if disposition in _RESETS and device.card_present and not device.gone:
                await self._dispose(disposition)
        finally:
            await self._close()

    async def _dispose(self, disposition: Disposition) -> None:
        slot, device = self.slot, self.slot.device
        asked = slot.moment()
        until = slot.deadline(self._connect_patience)
        async with slot.turn(self.state, self._connect_patience):
            try:
                if disposition is Disposition.UNPOWER:
                    await self._reset(device.unpower, until, asked)
                else:
                    await self._reset(lambda: device.reset(disposition, Protocol.ANY), until, asked)
            except PcscError as error:
                if error.code is ReturnCode.E_SHARING_VIOLATION:
                    raise
                log.info("%s: the card could not be reset: %s", self.reader, error)

    async def _close(self) -> None:
        if self._forget() and self.state.lock_count:
            await self.slot.unlock(self.state)

    def _forget(self) -> bool:
        if self.closed:
            return False
        self.state.closed = True
        self._when_closed(self)
        self.slot.discard(self.state)
        return True

    def vanish(self) -> None:
        """The client went without a word: a card that it held is reset, everything is freed. Never raises."""
        slot = self.slot
        slot.closing(self.state)
        self._forget()
        if self.state.lock_count:
            slot.take_away(self.state, reset=self.state.happened is None)


def _checked(share: ShareMode, protocols: Protocol) -> Protocol:
    """The protocols a caller allows, checked as ``SCardConnect`` checks them."""
    if protocols & PROTOCOL_ANY_OLD:
        protocols |= Protocol.ANY
    allowed = Protocol(int(protocols) & (Protocol.ANY | Protocol.RAW))
    if not allowed and share is not ShareMode.DIRECT:
        raise PcscError(ReturnCode.E_PROTO_MISMATCH, "no protocol allowed")
    return allowed
