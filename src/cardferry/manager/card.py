"""One SCARDHANDLE on a reader of this computer: checks what the caller may do, then asks the slot for a turn."""

from __future__ import annotations

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

if TYPE_CHECKING:
    from cardferry.manager.context import LocalContext

_RESETS = (Disposition.RESET, Disposition.UNPOWER)


class LocalCard:
    """A handle; see `cardferry.pcsc.interface.Card` for what the calls mean.

    Args:
        context: whose handle it is.
        slot: the reader it is on.
    """

    __slots__ = ("active", "closed", "context", "happened", "lock_count", "slot")

    def __init__(self, context: LocalContext, slot: Slot) -> None:
        self.context = context
        self.slot = slot
        self.active = Protocol.UNDEFINED
        self.happened: Happened | None = None
        #: Open transactions, one inside the other; an exclusive connection counts as one.
        self.lock_count = 0
        self.closed = False

    @property
    def reader(self) -> str:
        """The reader's name."""
        return self.slot.reader.name

    @property
    def protocol(self) -> Protocol:
        """The active protocol of this handle."""
        return self.active

    @property
    def exclusive(self) -> bool:
        """Whether this handle holds the reader exclusively at this moment."""
        return self.slot.exclusive_owner is self

    def check_happened(self) -> None:
        """Raise when the card was reset or removed and this handle has not reconnected yet."""
        if self.happened is not None:
            raise PcscError(self.happened.value)

    def _check_usable(self) -> None:
        if self.closed:
            raise PcscError(ReturnCode.E_INVALID_HANDLE)
        self.slot.check_gone()
        self.check_happened()

    async def connect(self, share: ShareMode, protocols: Protocol) -> None:
        """Open the handle. Waits its turn, except inside a transaction of its own context."""
        protocols = _checked(share, protocols)
        slot, context = self.slot, self.context
        slot.check_gone()
        if self._must_not_wait(share):
            raise PcscError(ReturnCode.E_SHARING_VIOLATION, "held exclusively")
        if slot.holder is not None and slot.holder.context is context:
            if share is ShareMode.EXCLUSIVE:
                raise PcscError(ReturnCode.E_SHARING_VIOLATION, "this context has another handle")
            self.active = await slot.power(share, protocols)
            slot.add(self)
            return
        async with slot.turn(self, self._connect_patience):
            await self._join(share, protocols)

    @property
    def _connect_patience(self) -> float | None:
        return None if self.context.patience is None else self.slot.settings.connect_patience

    def _must_not_wait(self, share: ShareMode) -> bool:
        slot = self.slot
        if share is ShareMode.EXCLUSIVE and slot.sharing > 0:
            return True
        holder = slot.exclusive_owner
        if holder is None:
            return False
        mine, its = self.context.peer.pid, holder.context.peer.pid
        same_process = holder.context is self.context or (mine is not None and mine == its)
        return same_process or slot.settings.exclusive is ExclusivePolicy.HONOUR

    async def _join(self, share: ShareMode, protocols: Protocol) -> None:
        slot = self.slot
        if share is ShareMode.EXCLUSIVE and slot.sharing:
            raise PcscError(ReturnCode.E_SHARING_VIOLATION, "somebody is connected")
        self.active = await slot.power(share, protocols)
        if self.closed:
            raise PcscError(ReturnCode.E_CANCELLED, "the context was closed")
        slot.add(self)
        if share is ShareMode.EXCLUSIVE:
            try:
                await self._become_exclusive()
            except BaseException:
                slot.discard(self)
                raise

    async def _become_exclusive(self) -> None:
        self.slot.exclusive_owner = self
        await self.slot.claim(self, None)
        self.lock_count += 1
        self.slot.touch()

    async def reconnect(self, share: ShareMode, protocols: Protocol, initialization: Disposition) -> Protocol:
        """Renew the connection: clears what happened; returns the active protocol."""
        if initialization is Disposition.EJECT:
            raise PcscError(ReturnCode.E_INVALID_VALUE, "reconnect cannot eject")
        protocols = _checked(share, protocols)
        if self.closed:
            raise PcscError(ReturnCode.E_INVALID_HANDLE)
        slot = self.slot
        async with slot.turn(self, self.context.patience):
            if share is ShareMode.EXCLUSIVE and slot.others(self):
                raise PcscError(ReturnCode.E_SHARING_VIOLATION, "somebody else is connected")
            if not slot.card_present:
                raise PcscError(ReturnCode.E_NO_SMARTCARD)
            if initialization in _RESETS:
                slot.tell(Happened.RESET, but=self)
                await slot.reset(initialization, protocols or Protocol.ANY)
            slot.check_card()
            self.active = await slot.power(share, protocols)
            self.happened = None
            slot.dispossessed.discard(self)
            if share is ShareMode.EXCLUSIVE:
                if not self.exclusive:
                    await self._become_exclusive()
            elif self.exclusive:
                slot.exclusive_owner = None
                await self._unlock_once()
            slot.touch()
        return self.active

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
                slot.tell(Happened.RESET)
                await slot.reset(disposition, Protocol.ANY)
        finally:
            await self._unlock_once()

    async def _unlock_once(self) -> None:
        if self.lock_count > 1:
            self.lock_count -= 1
        elif self.lock_count:
            await self.slot.unlock(self)

    async def transmit(self, apdu: bytes, protocol: int) -> bytes:
        """Send a command APDU in this handle's turn."""
        self._check_usable()
        if len(apdu) > MAX_APDU_SIZE:
            raise PcscError(ReturnCode.E_INSUFFICIENT_BUFFER, "command too long")
        slot = self.slot
        async with slot.turn(self, self.context.patience):
            self.check_happened()
            chosen = self._transmit_protocol(protocol)
            async with slot.working() as reader:
                return await reader.transmit(apdu, chosen)

    def _transmit_protocol(self, protocol: int) -> Protocol:
        if protocol == Protocol.RAW:
            return Protocol.RAW
        if not self.slot.card_present:
            raise PcscError(ReturnCode.E_NO_SMARTCARD)
        if protocol not in (self.slot.protocol, PROTOCOL_ANY_OLD) or not self.slot.protocol:
            raise PcscError(ReturnCode.E_PROTO_MISMATCH, f"protocol {protocol:#x}")
        return self.slot.protocol

    async def control(self, code: int, data: bytes, max_response: int) -> bytes:
        """Send a control code in this handle's turn. Works without a card, and whatever happened to it."""
        if self.closed:
            raise PcscError(ReturnCode.E_INVALID_HANDLE)
        slot = self.slot
        async with slot.turn(self, self.context.patience), slot.working() as reader:
            return await reader.control(code, data, max_response)

    async def attribute(self, attribute: int) -> bytes:
        """A reader attribute. It concerns the reader, not the card, so it needs no turn."""
        self._check_usable()
        async with self.slot.working() as reader:
            return await reader.attribute(attribute)

    async def set_attribute(self, attribute: int, value: bytes) -> None:
        """Set a reader attribute in this handle's turn."""
        self._check_usable()
        slot = self.slot
        async with slot.turn(self, self.context.patience), slot.working() as reader:
            await reader.set_attribute(attribute, value)

    async def status(self) -> None:
        """Raise what ``SCardStatus`` would return."""
        self._check_usable()
        async with self.slot.turn(self, self.context.patience):
            self.check_happened()

    async def disconnect(self, disposition: Disposition) -> None:
        """Close the handle."""
        if self.closed:
            raise PcscError(ReturnCode.E_INVALID_HANDLE)
        slot = self.slot
        try:
            if disposition in _RESETS and not slot.gone and slot.card_present:
                async with slot.turn(self, self._connect_patience):
                    await self._dispose(disposition)
        finally:
            await self._close()

    async def _dispose(self, disposition: Disposition) -> None:
        slot = self.slot
        slot.tell(Happened.RESET, but=self)
        if disposition is Disposition.UNPOWER:
            await slot.unpower()
        else:
            await slot.reset(disposition, Protocol.ANY)

    async def vanish(self) -> None:
        """The client went without a word: a card that it held is reset, everything is freed."""
        if self.lock_count and self.happened is None:
            await self.slot.reset_for_others(self)
        await self._close()

    async def _close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.context.handles.discard(self)
        if self.lock_count:
            await self.slot.unlock(self)
        self.slot.discard(self)


def _checked(share: ShareMode, protocols: Protocol) -> Protocol:
    """The protocols a caller allows, checked as ``SCardConnect`` checks them."""
    if protocols & PROTOCOL_ANY_OLD:
        protocols |= Protocol.ANY
    allowed = Protocol(int(protocols) & (Protocol.ANY | Protocol.RAW))
    if not allowed and share is not ShareMode.DIRECT:
        raise PcscError(ReturnCode.E_PROTO_MISMATCH, "no protocol allowed")
    return allowed
