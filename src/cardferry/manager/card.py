"""One SCARDHANDLE on a reader of this computer: checks what the caller may do, then asks the slot for a turn."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from cardferry.manager.settings import ExclusivePolicy
from cardferry.manager.slot import Happened, Slot
from cardferry.pcsc.constants import (
    MAX_APDU_SIZE,
    PROTOCOL_ANY_OLD,
    Disposition,
    Protocol,
    ShareMode,
)
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.interface import Done

if TYPE_CHECKING:
    from cardferry.manager.context import LocalContext

log = logging.getLogger(__name__)

_RESETS = (Disposition.RESET, Disposition.UNPOWER)


class LocalCard:
    """A handle; see `cardferry.pcsc.interface.Card` for what the calls mean.

    Args:
        context: whose handle it is.
        slot: the reader it is on.

    Attributes:
        happened: what the caller must be told before it may go on.
        lock_count: open transactions, one inside the other; an exclusive connection counts as one.
        closed: whether the handle is closed, or its context.
    """

    __slots__ = ("_active", "closed", "context", "happened", "lock_count", "slot")

    def __init__(self, context: LocalContext, slot: Slot) -> None:
        self.context = context
        self.slot = slot
        self.happened: Happened | None = None
        self.lock_count = 0
        self.closed = False
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
        return self.slot.exclusive_owner is self

    def check_happened(self) -> None:
        """Raise when the card was reset or removed and this handle has not reconnected yet."""
        if self.happened is not None:
            raise PcscError(self.happened.value)

    def _check_open(self) -> None:
        if self.closed:
            raise PcscError(ReturnCode.E_INVALID_HANDLE)
        self.slot.device.check_gone()

    def _check_usable(self) -> None:
        self._check_open()
        self.check_happened()

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
        if slot.holder is not None and slot.holder.context is self.context:
            await self._join(share, protocols, until)
            return
        async with slot.turn(self, self._connect_patience):
            await self._join(share, protocols, until)

    @property
    def _connect_patience(self) -> float | None:
        return None if self.context.patience is None else self.slot.settings.connect_patience

    def _refused_at_once(self, share: ShareMode) -> bool:
        """Whether waiting would be of no use, or is not wanted."""
        slot = self.slot
        if share is ShareMode.EXCLUSIVE and slot.sharing > 0:
            return True
        exclusive = slot.exclusive_owner
        if exclusive is None:
            return False
        mine, its = self.context.peer, exclusive.context.peer
        if mine == its and mine.pid is None and exclusive.context is not self.context:
            # Perhaps the same process, perhaps another one of that computer: for all that is known, threads of one
            # process would wait for each other. Another one comes again, when the lease may be over.
            return not slot.turns.owner_yields() or slot.settings.exclusive is ExclusivePolicy.HONOUR
        same_process = exclusive.context is self.context or mine == its
        return same_process or slot.settings.exclusive is ExclusivePolicy.HONOUR

    async def _join(self, share: ShareMode, protocols: Protocol, until: float | None) -> None:
        slot = self.slot
        if share is ShareMode.EXCLUSIVE and slot.sharing:
            raise PcscError(ReturnCode.E_SHARING_VIOLATION, "somebody is connected")
        self._active = await slot.power(share, protocols, until)
        if self.closed:
            raise PcscError(ReturnCode.E_CANCELLED, "closed meanwhile")
        slot.add(self)
        if share is ShareMode.EXCLUSIVE:
            await slot.exclude(self, until)

    async def reconnect(self, share: ShareMode, protocols: Protocol, initialization: Disposition) -> Protocol:
        """Renew the connection: clears what happened; returns the active protocol."""
        if initialization is Disposition.EJECT:
            raise PcscError(ReturnCode.E_INVALID_VALUE, "reconnect cannot eject")
        protocols = _checked(share, protocols)
        self._check_open()
        slot = self.slot
        patience = self.context.patience
        until = slot.deadline(patience)
        async with slot.turn(self, patience):
            if share is ShareMode.EXCLUSIVE and slot.others(self):
                raise PcscError(ReturnCode.E_SHARING_VIOLATION, "somebody else is connected")
            slot.device.check_card()
            if initialization in _RESETS:
                wanted = Protocol.ANY if Protocol.RAW in protocols or not protocols else protocols
                await self._reset(lambda: slot.device.reset(initialization, wanted), until)
            # What happens from now on counts again, also if it happens before we are through.
            happened, self.happened = self.happened, None
            try:
                await self._renew(share, protocols, until)
            except BaseException:
                self.happened = self.happened or happened
                raise
            slot.dispossessed.discard(self)
            slot.touch()
        return self._active

    async def _renew(self, share: ShareMode, protocols: Protocol, until: float | None) -> None:
        slot = self.slot
        self._active = await slot.power(share, protocols, slot.deadline(self._connect_patience))
        if share is ShareMode.EXCLUSIVE:
            if not self.exclusive:
                await slot.exclude(self, until)
        elif self.exclusive:
            slot.exclusive_owner = None
            await self._unlock_once()

    async def _reset(self, work: Callable[[], Awaitable[None]], until: float | None) -> None:
        """Take the card's session, in a turn that we have. All handles are told, this one too, if anything was done."""
        executed = False

        async def watched() -> None:
            nonlocal executed
            executed = True
            try:
                await work()
            except PcscError as error:
                executed = error.code is not ReturnCode.E_SHARING_VIOLATION
                raise

        try:
            await self.slot.insist(self, watched, until)
        finally:
            if executed:
                self.slot.tell(Happened.RESET)

    # transactions

    async def begin(self) -> None:
        """Begin a transaction."""
        self._check_usable()
        await self.slot.lock(self, self.context.patience)

    async def end(self, disposition: Disposition) -> None:
        """End a transaction; a disposition that resets marks this handle, too, as pcscd does."""
        self._check_usable()
        slot = self.slot
        if slot.holder is not None and slot.holder is not self and slot.holder.lock_count:
            raise PcscError(ReturnCode.E_SHARING_VIOLATION, "the transaction is somebody else's")
        if self.lock_count <= self.exclusive:
            raise PcscError(ReturnCode.E_NOT_TRANSACTED)
        try:
            if disposition in _RESETS:
                await self._reset(lambda: slot.device.reset(disposition, Protocol.ANY), None)
        finally:
            await self._unlock_once()

    async def _unlock_once(self) -> None:
        if self.lock_count > 1:
            self.lock_count -= 1
        elif self.lock_count:
            await self.slot.unlock(self)

    # at once

    @property
    def _in_order(self) -> bool:
        return self.happened is None and not self.closed

    def begin_at_once(self) -> bool:
        """Begin a transaction, if nobody is in the way."""
        return self._in_order and not self.slot.device.gone and self.slot.lock_at_once(self)

    def end_at_once(self, disposition: Disposition) -> bool:
        """End a transaction that leaves the card as it is."""
        if disposition is not Disposition.LEAVE or not self._in_order or self.lock_count <= self.exclusive:
            return False
        if self.slot.device.gone:
            return False
        if self.lock_count > 1:
            self.lock_count -= 1
            return True
        return self.slot.unlock_at_once(self)

    def transmit_at_once(self, apdu: bytes, protocol: int, done: Done) -> bool:
        """Send a command APDU, if nobody is in the way."""
        device = self.slot.device
        if not self._in_order or len(apdu) > MAX_APDU_SIZE or protocol != device.protocol or not protocol:
            return False
        return self.slot.transmit_at_once(self, apdu, device.protocol, done)

    # one operation each

    async def transmit(self, apdu: bytes, protocol: int) -> bytes:
        """Send a command APDU in this handle's turn."""
        self._check_usable()
        if len(apdu) > MAX_APDU_SIZE:
            raise PcscError(ReturnCode.E_INSUFFICIENT_BUFFER, "command too long")
        slot = self.slot
        return await slot.operate(
            self,
            lambda: slot.device.reader.transmit(apdu, self._transmit_protocol(protocol)),
            self.context.patience,
        )

    def _transmit_protocol(self, protocol: int) -> Protocol:
        if protocol == Protocol.RAW:
            return Protocol.RAW
        device = self.slot.device
        if not device.card_present:
            raise PcscError(ReturnCode.E_NO_SMARTCARD)
        if protocol not in (device.protocol, PROTOCOL_ANY_OLD) or not device.protocol:
            raise PcscError(ReturnCode.E_PROTO_MISMATCH, f"protocol {protocol:#x}")
        return device.protocol

    async def control(self, code: int, data: bytes, max_response: int) -> bytes:
        """Send a control code in this handle's turn. Works without a card, and whatever happened to it."""
        self._check_open()
        slot = self.slot
        until = slot.deadline(self.context.patience)
        async with slot.turn(self, self.context.patience):
            return await slot.insist(self, lambda: slot.device.control(code, data, max_response), until)

    async def attribute(self, attribute: int) -> bytes:
        """A reader attribute. It concerns the reader, not the card, so it needs no turn.

        Unless another user of the reader has it to himself: then the turn is the way to wait for him.
        """
        self._check_usable()
        slot = self.slot
        try:
            return await slot.device.call(lambda: slot.device.reader.attribute(attribute))
        except PcscError as error:
            if error.code is not ReturnCode.E_SHARING_VIOLATION:
                raise
        return await slot.operate(self, lambda: slot.device.reader.attribute(attribute), self.context.patience)

    async def set_attribute(self, attribute: int, value: bytes) -> None:
        """Set a reader attribute in this handle's turn."""
        self._check_usable()
        slot = self.slot
        await slot.operate(self, lambda: slot.device.reader.set_attribute(attribute, value), self.context.patience)

    async def status(self) -> None:
        """Raise what ``SCardStatus`` would return."""
        self._check_usable()
        async with self.slot.turn(self, self.context.patience):
            self.check_happened()

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
        until = slot.deadline(self._connect_patience)
        async with slot.turn(self, self._connect_patience):
            try:
                if disposition is Disposition.UNPOWER:
                    await self._reset(device.unpower, until)
                else:
                    await self._reset(lambda: device.reset(disposition, Protocol.ANY), until)
            except PcscError as error:
                if error.code is ReturnCode.E_SHARING_VIOLATION:
                    raise
                log.info("%s: the card could not be reset: %s", self.reader, error)

    async def _close(self) -> None:
        if self._forget() and self.lock_count:
            await self.slot.unlock(self)

    def _forget(self) -> bool:
        if self.closed:
            return False
        self.closed = True
        self.context.handles.discard(self)
        self.slot.discard(self)
        return True

    def vanish(self) -> None:
        """The client went without a word: a card that it held is reset, everything is freed. Never raises."""
        slot = self.slot
        slot.closing(self)
        self._forget()
        if self.lock_count:
            slot.take_away(self, reset=self.happened is None)


def _checked(share: ShareMode, protocols: Protocol) -> Protocol:
    """The protocols a caller allows, checked as ``SCardConnect`` checks them."""
    if protocols & PROTOCOL_ANY_OLD:
        protocols |= Protocol.ANY
    allowed = Protocol(int(protocols) & (Protocol.ANY | Protocol.RAW))
    if not allowed and share is not ShareMode.DIRECT:
        raise PcscError(ReturnCode.E_PROTO_MISMATCH, "no protocol allowed")
    return allowed
