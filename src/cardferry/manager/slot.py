"""One reader with everything that its handles share: the card's state, the queue, the open transaction.

A call takes the way `LocalCard` -> `Slot.turn` (wait until the card is ours) -> `Reader` -> card. The semantics are
PC/SC's as pcsc-lite has them (``winscard.c``, ``readerfactory.c``); where this differs on purpose, ``docs/semantics.md``
says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from enum import Enum
from typing import TYPE_CHECKING, cast

from cardferry.manager.settings import ExclusivePolicy, Settings
from cardferry.manager.turns import Turns
from cardferry.pcsc.constants import (
    SHARING_EXCLUSIVE,
    CardState,
    Disposition,
    Protocol,
    ShareMode,
)
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.reader_state import ReaderState
from cardferry.readers.base import Reader

if TYPE_CHECKING:
    from cardferry.manager.card import LocalCard

log = logging.getLogger(__name__)

_POWERED = CardState.PRESENT | CardState.POWERED | CardState.NEGOTIABLE
_MUTE = CardState.PRESENT | CardState.SWALLOWED


class Happened(Enum):
    """What a handle must be told before it may go on (pcsc-lite's reader event state)."""

    RESET = ReturnCode.W_RESET_CARD
    REMOVED = ReturnCode.W_REMOVED_CARD


class Slot:
    """One reader, shared.

    Args:
        reader: what does the work.
        settings: bounds.
        publish: called whenever `state` has become another one.
        start: runs a coroutine in a task that somebody owns, for what no call waits for.
    """

    def __init__(
        self,
        reader: Reader,
        settings: Settings,
        publish: Callable[[], None],
        start: Callable[[Coroutine[object, object, None]], None],
    ) -> None:
        self.reader = reader
        self.settings = settings
        self.turns = Turns(settings.max_idle, settings.ticket_life, self._evict)
        self.cards: set[LocalCard] = set()
        self.exclusive_owner: LocalCard | None = None
        self.dispossessed: set[LocalCard] = set()
        self.protocol = Protocol.UNDEFINED
        self.gone = False
        self._publish = publish
        self._start = start
        self._at_reader = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._connected: ShareMode | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._event_counter = 0
        self._state = CardState.ABSENT
        self._atr = b""
        self._reader_state: ReaderState | None = None

    # what everybody may know

    @property
    def state(self) -> ReaderState:
        """The reader as applications see it now."""
        if self._reader_state is None:
            self._reader_state = ReaderState(
                self.reader.name, self._event_counter, self._state, self.sharing, self._atr, self.protocol
            )
        return self._reader_state

    @property
    def sharing(self) -> int:
        """0 nobody, n shared handles, -1 exclusive."""
        if self.exclusive_owner is not None:
            return SHARING_EXCLUSIVE
        return len(self.cards) - len(self.dispossessed)

    def others(self, card: LocalCard) -> int:
        """How many handles besides that one are connected."""
        return len(self.cards) - len(self.dispossessed) - (card in self.cards and card not in self.dispossessed)

    @property
    def card_present(self) -> bool:
        """Whether there is a card, answering or not."""
        return bool(self._state & CardState.PRESENT)

    @property
    def holder(self) -> LocalCard | None:
        """The handle whose turn it is."""
        owner = self.turns.owner
        return None if owner is None or owner is self else cast("LocalCard", owner)

    def touch(self) -> None:
        """The state may be another one from now on."""
        self._reader_state = None
        self._publish()

    # what the reader reports

    def card_inserted(self, atr: bytes) -> None:
        """A card came; an empty ATR says that it is mute."""
        self._count_event()
        self._state, self._atr = (_POWERED if atr else _MUTE), atr
        self.protocol = Protocol.UNDEFINED
        self.touch()

    def card_removed(self) -> None:
        """The card went: every handle must learn it, and the lock is nobody's any more."""
        self._count_event()
        self._state, self._atr = CardState.ABSENT, b""
        self.protocol = Protocol.UNDEFINED
        self.tell(Happened.REMOVED)
        self._unlock()
        self.touch()

    def removed(self) -> None:
        """The reader itself is gone: its handles are dead, whoever waits learns it at once."""
        self.gone = True
        self._cancel_linger()
        self.tell(Happened.REMOVED)
        self._unlock()

    def _count_event(self) -> None:
        self._event_counter = (self._event_counter + 1) & 0xFFFF

    def _unlock(self) -> None:
        owner = self.turns.owner
        if owner is not None:
            if holder := self.holder:
                holder.lock_count = 0
            self.turns.leave(owner)

    def tell(self, happened: Happened, *, but: LocalCard | None = None) -> None:
        """Mark all handles, except one, so that their next call says what happened."""
        for card in self.cards:
            if card is not but:
                card.happened = happened

    # turns

    @asynccontextmanager
    async def turn(self, card: LocalCard, patience: float | None) -> AsyncIterator[None]:
        """For one operation: wait until the card is the caller's, or go ahead inside the caller's transaction."""
        if self.turns.owner is card:
            yield
            return
        await self.take(card, patience)
        try:
            yield
        finally:
            if not card.lock_count:
                self.turns.leave(card)

    async def take(self, card: LocalCard, patience: float | None) -> None:
        """Wait until the card is the caller's.

        When another handle of the same context owns the card, waiting would be a deadlock: the one request that
        could end the transaction comes on the connection that waits. So the refusal comes at once.
        """
        self.check_gone()
        same = self.holder is not None and self.holder.context is card.context
        await self.turns.enter(card, 0.0 if same else patience)
        if self.gone or card.closed:
            self.turns.leave(card)
            self.check_gone()
            raise PcscError(ReturnCode.E_INVALID_HANDLE, "closed meanwhile")

    async def lock(self, card: LocalCard, patience: float | None) -> None:
        """Make the caller the owner, here and towards other users of the reader."""
        if self.turns.owner is not card:
            asked = self._loop.time()
            await self.take(card, patience)
            try:
                card.check_happened()
                await self.claim(card, None if patience is None else asked + patience)
            except BaseException:
                self.turns.leave(card)
                raise
        card.lock_count += 1

    async def claim(self, card: LocalCard, until: float | None) -> None:
        """The card is the caller's here; keep other users of the reader away, too.

        Raises:
            PcscError: ``E_SHARING_VIOLATION`` when they did not let go until then (the loop's clock, in s): the
                turn is over, and the caller is first in the queue.
        """
        try:
            async with asyncio.timeout_at(until), self.working() as reader:
                await reader.claim()
        except TimeoutError:
            self.turns.back_to_queue(card, self.turns.owned_since)
            raise PcscError(ReturnCode.E_SHARING_VIOLATION, "a local program has the card") from None
        if card.closed:
            await self.unlock(card)
            raise PcscError(ReturnCode.E_INVALID_HANDLE, "closed meanwhile")

    async def unlock(self, card: LocalCard) -> None:
        """The caller's outermost transaction ends."""
        card.lock_count = 0
        await self._release()
        self.turns.leave(card)

    async def _release(self) -> None:
        if not self.gone:
            try:
                await self.reader.release()
            except PcscError as error:
                log.info("%s: releasing the reader: %s", self.reader.name, error)

    def _evict(self, owner: object) -> None:
        card = cast("LocalCard", owner)
        if self.exclusive_owner is card and self.settings.exclusive is ExclusivePolicy.HONOUR:
            return
        log.warning("%s: %s idle for %g s while others wait: the card is reset and goes to the next one",
                    self.reader.name, card.context.peer.name, self.settings.max_idle)  # fmt: skip
        self._start(self.dispossess(card))

    async def dispossess(self, card: LocalCard) -> None:
        """Take the card away from its owner: it is reset, and the owner is told at its next call."""
        if not self.turns.hand_over(card, self):
            return
        card.lock_count = 0
        card.happened = card.happened or Happened.RESET
        if self.exclusive_owner is card:
            self.exclusive_owner = None
            self.dispossessed.add(card)
        await self.reset_for_others(card)
        await self._release()
        self.turns.leave(self)
        self.touch()

    # the reader, one call at a time

    @asynccontextmanager
    async def working(self) -> AsyncIterator[Reader]:
        """The reader for one call. A reset by another user of the reader is passed on to all handles."""
        self.check_gone()
        async with self._at_reader:
            self.turns.working(True)
            try:
                yield self.reader
            except PcscError as error:
                if error.code is ReturnCode.W_RESET_CARD:
                    self.tell(Happened.RESET)
                raise
            finally:
                self.turns.working(False)

    def check_gone(self) -> None:
        """Raise when the reader was unplugged."""
        if self.gone:
            raise PcscError(ReturnCode.E_READER_UNAVAILABLE)

    async def power(self, share: ShareMode, protocols: Protocol) -> Protocol:
        """Make the card usable for a handle and return the protocol in force for it.

        Raises:
            PcscError: ``E_NO_SMARTCARD``, ``W_UNRESPONSIVE_CARD``, ``E_PROTO_MISMATCH`` or the reader's own error.
        """
        self._cancel_linger()
        if share is ShareMode.DIRECT:
            if self._connected is None:
                async with self.working() as reader:
                    await reader.connect(share, protocols)
                self._connected = share
            return self.protocol
        self.check_card()
        if self._connected is not ShareMode.SHARED or not self.protocol:
            async with self.working() as reader:
                self.protocol = await reader.connect(ShareMode.SHARED, protocols)
            self._connected = ShareMode.SHARED
            self._state = _POWERED
            self.touch()
        if protocols & Protocol.RAW:
            return Protocol.RAW
        if not protocols & self.protocol:
            raise PcscError(ReturnCode.E_PROTO_MISMATCH, f"the card speaks {self.protocol!r}")
        return self.protocol

    def check_card(self) -> None:
        """Raise when there is no card, or one that does not answer."""
        if not self.card_present:
            raise PcscError(ReturnCode.E_NO_SMARTCARD)
        if self._state & CardState.SWALLOWED:
            raise PcscError(ReturnCode.W_UNRESPONSIVE_CARD)

    async def reset(self, disposition: Disposition, protocols: Protocol) -> None:
        """Reset the card; the caller must have the turn, and tells the handles concerned."""
        async with self.working() as reader:
            self.protocol = Protocol.UNDEFINED
            self.protocol = await reader.reset(disposition, protocols)
        self.touch()

    async def reset_for_others(self, card: LocalCard) -> None:
        """Reset the card because its owner is through with it; a card that is gone needs none."""
        if self.gone or not self.card_present:
            return
        self.tell(Happened.RESET, but=card)
        try:
            await self.reset(Disposition.RESET, Protocol.ANY)
        except PcscError as error:
            log.warning("%s: the card could not be reset: %s", self.reader.name, error)

    async def unpower(self) -> None:
        """Power the card off, as a disconnect with that disposition asks."""
        async with self.working() as reader:
            await reader.disconnect(Disposition.UNPOWER)
        self._connected = None
        self.protocol = Protocol.UNDEFINED
        if self.card_present:
            self._state = CardState.PRESENT
        self.touch()

    # handles come and go

    def add(self, card: LocalCard) -> None:
        """A handle was opened."""
        self.cards.add(card)
        self.touch()

    def discard(self, card: LocalCard) -> None:
        """A handle was closed; after the last one the reader is let go, with a little patience."""
        self.cards.discard(card)
        self.dispossessed.discard(card)
        if self.exclusive_owner is card:
            self.exclusive_owner = None
        self.turns.drop(card)
        if not self.cards and self._connected is not None and not self.gone:
            self._linger = self._loop.call_later(self.settings.linger, self._let_go)
        self.touch()

    def _cancel_linger(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None

    def _let_go(self) -> None:
        self._linger = None
        if not self.cards and not self.gone:
            self._start(self._disconnect())

    async def _disconnect(self) -> None:
        try:
            async with self.working() as reader:
                if self.cards or self._connected is None:
                    return
                self._connected = None
                self.protocol = Protocol.UNDEFINED
                await reader.disconnect(Disposition.LEAVE)
        except PcscError as error:
            log.info("%s: letting the reader go: %s", self.reader.name, error)
        self.touch()
