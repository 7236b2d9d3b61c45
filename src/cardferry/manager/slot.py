"""What the handles of one reader share: the queue, the open transaction, and what each must be told.

A call takes the way `LocalCard` -> `Slot.operate` (wait until the card is ours) -> `Device.call` (one call at a
time) -> `Reader` -> card. The semantics are PC/SC's as pcsc-lite has them (``winscard.c``, ``readerfactory.c``); where
this differs on purpose, ``docs/semantics.md`` says so.

Who cleans up. A call that is under way gives back by itself what it has taken, whatever happens meanwhile. A
transaction in which nobody is at work (its owner vanished, was evicted, or lost the card) is taken away: the slot
becomes the owner at once, and a task of the manager resets and releases the card before the next in the queue gets it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from enum import Enum
from typing import TYPE_CHECKING, TypeVar, cast

from cardferry.manager.device import Device
from cardferry.manager.settings import ExclusivePolicy, Settings
from cardferry.manager.turns import Turns
from cardferry.pcsc.constants import SHARING_EXCLUSIVE, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.interface import Done
from cardferry.pcsc.reader_state import ReaderState
from cardferry.readers.base import Reader, Rest

if TYPE_CHECKING:
    from cardferry.manager.card import LocalCard

log = logging.getLogger(__name__)

T = TypeVar("T")
Start = Callable[[Coroutine[object, object, None]], None]
Check = Callable[[], None]


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

    Attributes:
        device: the reader and its card.
        turns: the queue; its owner is a `LocalCard`, or the slot itself while it cleans up.
        cards: all open handles.
        exclusive_owner: the one that shares with nobody.
        dispossessed: handles that were exclusive and are not any more. They do not count as connected until they
            reconnect.
    """

    def __init__(self, reader: Reader, settings: Settings, publish: Callable[[], None], start: Start) -> None:
        self.settings = settings
        self.device = Device(reader, settings, start, self.touch, self._reset_by_others)
        self.turns = Turns(settings.max_idle, settings.max_hold, settings.ticket_life, self._evict)
        self.cards: set[LocalCard] = set()
        self.exclusive_owner: LocalCard | None = None
        self.dispossessed: set[LocalCard] = set()
        self._publish = publish
        self._start = start
        self._loop = asyncio.get_running_loop()
        self._claiming: asyncio.Timeout | None = None
        self._state: ReaderState | None = None
        self._marks = 0

    # what everybody may know

    @property
    def name(self) -> str:
        """The reader's name."""
        return self.device.reader.name

    @property
    def state(self) -> ReaderState:
        """The reader as applications see it now."""
        if self._state is None:
            device = self.device
            self._state = ReaderState(
                self.name,
                device.event_counter,
                device.card_state,
                self.sharing,
                device.atr,
                device.protocol,
                self._marks,
            )
        return self._state

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
    def holder(self) -> LocalCard | None:
        """The handle whose turn it is."""
        owner = self.turns.owner
        return None if owner is None or owner is self else cast("LocalCard", owner)

    def touch(self) -> None:
        """The state may be another one from now on."""
        self._state = None
        self._publish()

    # what the reader reports

    def card_removed(self) -> None:
        """The card went: every handle must learn it, and no transaction outlives it."""
        self.device.card_removed()
        self._without_card()

    def reader_failed(self) -> None:
        """The reader cannot be reached: for the handles it is as if the card had gone."""
        self.device.failed()
        self._without_card()

    def _without_card(self) -> None:
        self.tell(Happened.REMOVED)
        self._stop_claiming()
        holder = self.holder
        if holder is not None and holder.lock_count:
            self.take_away(holder, reset=False)

    def removed(self) -> None:
        """The reader itself is gone: its handles are dead, whoever waits learns it at once."""
        self.device.removed()
        self.tell(Happened.REMOVED)
        self._stop_claiming()
        if (owner := self.turns.owner) is not None:
            self.turns.leave(owner)

    def _reset_by_others(self) -> None:
        self.tell(Happened.RESET)

    def tell(self, happened: Happened, *, but: LocalCard | None = None) -> None:
        """Mark all handles, except one, so that their next call says what happened."""
        self._mark(happened, [card for card in self.cards if card is not but])

    def _mark(self, happened: Happened, cards: Iterable[LocalCard]) -> None:
        """A removal is not outdone by a reset."""
        for card in cards:
            if card.happened is not Happened.REMOVED:
                card.happened = happened
        self._marks += 1
        self.touch()

    # handles come and go

    def add(self, card: LocalCard) -> None:
        """A handle was opened."""
        self.cards.add(card)
        self.settle()

    def discard(self, card: LocalCard) -> None:
        """A handle was closed, or could not be opened."""
        self.cards.discard(card)
        self.dispossessed.discard(card)
        if self.exclusive_owner is card:
            self.exclusive_owner = None
        self.turns.drop(card)
        self.settle()

    def settle(self) -> None:
        """Handles have come or gone."""
        self.device.settle(len(self.cards))
        self.touch()

    # turns

    async def take(self, card: LocalCard, patience: float | None) -> None:
        """Wait until the card is the caller's; nothing happens when it is already.

        When another handle of the same context owns the card, waiting would be a deadlock: the one request that
        could end the transaction comes on the connection that waits. So the refusal comes at once.
        """
        self.device.check_gone()
        self.turns.end_overdue()
        holder = self.holder
        if holder is card:
            return
        same = holder is not None and holder.context is card.context
        await self.turns.enter(card, 0.0 if same else patience)
        if self.device.gone or card.closed:
            self.turns.leave(card)
            self.device.check_gone()
            raise PcscError(ReturnCode.E_CANCELLED, "closed meanwhile")

    @asynccontextmanager
    async def turn(self, card: LocalCard, patience: float | None) -> AsyncIterator[None]:
        """For one operation: wait until the card is the caller's, or go ahead inside the caller's transaction."""
        await self.take(card, patience)
        try:
            yield
        finally:
            if not card.lock_count:
                self.turns.leave(card)

    async def operate(self, card: LocalCard, work: Callable[[], Awaitable[T]], patience: float | None) -> T:
        """Do one thing with the reader in the caller's turn, unless the card was reset or removed.

        Args:
            card: the caller.
            work: see `Device.call`.
            patience: s to wait for the turn and for other users of the reader together, None for ever.
        """
        until = self.deadline(patience)
        self.turns.end_overdue()
        card.check_happened()  # before it waits for a turn, if it has just lost the one it had
        await self.take(card, patience)
        try:
            return await self.insist(card, work, until, card.check_happened)
        finally:
            if not card.lock_count:
                self.turns.leave(card)

    async def insist(
        self, card: LocalCard, work: Callable[[], Awaitable[T]], until: float | None, check: Check | None = None
    ) -> T:
        """Do one thing with the reader in a turn that the caller has; for ``check`` see `Device.call`.

        Outside a transaction the reader is not claimed. So another user of it (a program on this computer, at pcscd)
        can be in the way; then the reader is claimed for this one thing.
        """
        try:
            return await self.call(work, check)
        except PcscError as error:
            if not self._in_the_way(card, error):
                raise
        return await self._insist(card, work, until, check)

    def _in_the_way(self, card: LocalCard, error: PcscError) -> bool:
        """Whether another user of the reader is in the caller's way, and a claim would help."""
        return error.code is ReturnCode.E_SHARING_VIOLATION and not card.lock_count and self.turns.owner is card

    async def _insist(
        self, card: LocalCard, work: Callable[[], Awaitable[T]], until: float | None, check: Check | None
    ) -> T:
        await self.claim(card, until)
        try:
            return await self.call(work, check)
        finally:
            await self._release_for(card)

    async def call(self, work: Callable[[], Awaitable[T]], check: Check | None = None) -> T:
        """Do one thing with the reader, see `Device.call`; the owner is not idle meanwhile."""
        self.turns.busy(True)
        try:
            return await self.device.call(work, check)
        finally:
            self.turns.busy(False)

    def deadline(self, patience: float | None) -> float | None:
        """When that patience ends, on the loop's clock; None never."""
        return None if patience is None else self._loop.time() + patience

    def transmit_at_once(self, card: LocalCard, apdu: bytes, protocol: Protocol, done: Done) -> bool:
        """`operate` with a command that can leave now, if the card is the caller's or nobody's."""
        turns, device = self.turns, self.device
        if not device.idle or not turns.enter_at_once(card):
            return False
        until = self.deadline(card.context.patience)

        def answered(response: bytes, rest: Rest | None) -> None:
            failure = None
            if rest is not None:
                if not device.gone:
                    self._start(self._finish(card, rest, lambda: device.reader.transmit(apdu, protocol), until, done))
                    return
                # There is nothing left to do; and the manager may be ending, and start nothing any more.
                failure = device.give_up()
            turns.busy(False)
            if not card.lock_count:
                turns.leave(card)
            done(response, failure)

        if device.transmit_at_once(apdu, protocol, answered):
            turns.busy(True)
            return True
        if not card.lock_count:
            turns.leave(card)
        return False

    async def _finish(
        self,
        card: LocalCard,
        rest: Rest,
        again: Rest,
        until: float | None,
        done: Done,
    ) -> None:
        """What was sent at once has not just been answered: go on as `operate` does."""
        response, failure = b"", None
        try:
            try:
                response = await self.device.finish(rest)
            except PcscError as error:
                self.turns.busy(False)
                if not self._in_the_way(card, error):
                    raise
                response = await self._insist(card, again, until, card.check_happened)
        except PcscError as error:
            failure = error
        except asyncio.CancelledError:
            failure = PcscError(ReturnCode.E_CANCELLED, "the resource manager stops")
            raise
        finally:
            self.turns.busy(False)
            if not card.lock_count:
                self.turns.leave(card)
            done(response, failure)

    # transactions

    def lock_at_once(self, card: LocalCard) -> bool:
        """`lock`, if nobody is in the way."""
        if not card.lock_count:
            if not self.device.idle or not self.turns.enter_at_once(card):
                return False
            if not self.device.claim_at_once():
                self.turns.leave(card)
                return False
        card.lock_count += 1
        return True

    def unlock_at_once(self, card: LocalCard) -> bool:
        """`unlock`, if the reader can be released now."""
        if not self.device.idle or not self.device.release_at_once():
            return False
        card.lock_count = 0
        self.turns.leave(card)
        return True

    async def lock(self, card: LocalCard, patience: float | None) -> None:
        """Begin a transaction: make the caller the owner, here and towards other users of the reader."""
        if not card.lock_count:
            until = self.deadline(patience)
            await self.take(card, patience)
            try:
                card.check_happened()
                await self.claim(card, until)
            except BaseException:
                self.turns.leave(card)
                raise
        card.lock_count += 1

    async def claim(self, card: LocalCard, until: float | None, *, alone: bool = False) -> bool:
        """The card is the caller's here; keep other users of the reader away, too.

        Args:
            card: the caller.
            until: see below.
            alone: see `Reader.claim`; returns what that does.

        Raises:
            PcscError: ``E_SHARING_VIOLATION`` when they did not let go until then (the loop's clock, in s): the
                turn is over, and the caller has the first place in the queue. ``E_CANCELLED`` when the caller was
                closed, ``W_REMOVED_CARD`` when the card went, or the reader's own error.
        """
        known = card.happened
        try:
            async with asyncio.timeout_at(until) as self._claiming:
                unwanted = await self.call(lambda: self.device.reader.claim(alone=alone))
        except (TimeoutError, asyncio.CancelledError) as error:
            self._let_go(card)
            if isinstance(error, asyncio.CancelledError):
                raise
            self._check_meanwhile(card, known)
            self.turns.keep_first(card)
            raise PcscError(ReturnCode.E_SHARING_VIOLATION, "a local program has the card") from None
        finally:
            self._claiming = None
        try:
            self._check_meanwhile(card, known)
        except PcscError:
            self._let_go(card)
            raise
        self.turns.begun()
        return unwanted

    async def exclude(self, card: LocalCard, until: float | None) -> None:
        """The caller, whose turn it is, shares the reader with nobody from now on.

        Programs on this computer are refused at once from now on, as at pcscd. Where that cannot be had, because some
        of them are connected, they may wait: they are in no queue of ours, and count as if they always did, so that the
        lease ends. One that would not end, because it is honoured, is refused, as pcscd refuses it.

        Raises:
            PcscError: as `claim`; ``E_SHARING_VIOLATION`` when programs on this computer use the reader.
        """
        if card.lock_count:
            unwanted = await self.call(lambda: self.device.reader.claim(alone=True))
        else:
            unwanted = await self.claim(card, until, alone=True)
        if not unwanted and self.settings.exclusive is ExclusivePolicy.HONOUR:
            if not card.lock_count:
                await self._release_for(card)
            raise PcscError(ReturnCode.E_SHARING_VIOLATION, "a local program uses the reader")
        card.lock_count += 1
        self.exclusive_owner = card
        self.turns.outsiders(not unwanted)
        self.touch()

    async def power(self, share: ShareMode, protocols: Protocol, until: float | None) -> Protocol:
        """`Device.power` for the caller whose turn it is. While a local program has the card locked, that waits.

        Raises:
            PcscError: ``E_SHARING_VIOLATION`` when it did not let go until then (the loop's clock, in s).
        """
        try:
            async with asyncio.timeout_at(until):
                return await self.call(lambda: self.device.power(share, protocols))
        except TimeoutError:
            raise PcscError(ReturnCode.E_SHARING_VIOLATION, "a local program has the card") from None

    def _check_meanwhile(self, card: LocalCard, known: Happened | None) -> None:
        """What a reconnect has known before is no reason to refuse it."""
        self.device.check_gone()
        if card.closed:
            raise PcscError(ReturnCode.E_CANCELLED, "closed meanwhile")
        if card.happened is not known:
            card.check_happened()

    def _stop_claiming(self) -> None:
        if self._claiming is not None and not self._claiming.expired():
            self._claiming.reschedule(self._loop.time())

    async def unlock(self, card: LocalCard) -> None:
        """The caller's outermost transaction ends."""
        card.lock_count = 0
        await self._release_for(card)
        self.turns.leave(card)

    async def _release_for(self, card: LocalCard) -> None:
        try:
            await self._release()
        except asyncio.CancelledError:
            self._let_go(card)
            raise

    async def _release(self) -> None:
        try:
            await self.device.call(self.device.reader.release)
        except PcscError as error:
            log.debug("%s: releasing the reader: %s", self.name, error)

    # when a call or a transaction shall end before its time

    def closing(self, card: LocalCard) -> None:
        """The caller closes the handle, or has vanished: its place in the queue and its waits end."""
        self.turns.drop(card)
        if self.turns.owner is card:
            self._stop_claiming()

    def take_away(self, card: LocalCard, *, reset: bool) -> None:
        """End the transaction of an owner that does not end it. The owner must have one.

        Args:
            card: the owner.
            reset: whether the card must forget what the owner did; the other handles are told.
        """
        card.lock_count = 0
        if self.exclusive_owner is card:
            self.exclusive_owner = None
            self.dispossessed.add(card)
        reset = reset and self.device.session
        if reset:
            self.tell(Happened.RESET, but=card)
        self._let_go(card, reset=reset)
        self.touch()

    def _let_go(self, card: LocalCard, *, reset: bool = False) -> None:
        """Make the slot the owner, and the next in the queue when the card was reset and released."""
        if self.turns.hand_over(card, self):
            self._start(self._recover(reset))

    async def _recover(self, reset: bool) -> None:
        try:
            if reset:
                await self.device.call(self.device.forget)
        except PcscError as error:
            log.warning("%s: the card could not be reset: %s", self.name, error)
        finally:
            try:
                await self._release()
            finally:
                self.turns.leave(self)

    def _evict(self, owner: object, why: str) -> None:
        if owner is self:
            return
        card = cast("LocalCard", owner)
        if not card.lock_count:
            return  # it does one thing only, and leaves by itself
        if self.exclusive_owner is card and self.settings.exclusive is ExclusivePolicy.HONOUR:
            return
        log.warning("%s: %s %s while others wait: the card is reset and goes to the next one",
                    self.name, card.context.peer.name, why)  # fmt: skip
        self._mark(Happened.RESET, (card,))
        if self.exclusive_owner is card:
            self.device.exchanged()
        self.take_away(card, reset=True)
