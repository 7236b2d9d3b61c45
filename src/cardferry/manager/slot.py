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
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

from cardferry.manager.coming import Coming
from cardferry.manager.counts import Counts
from cardferry.manager.device import Device, Work
from cardferry.manager.handle import HandleState, Happened, of_principal
from cardferry.manager.settings import ExclusivePolicy, Settings
from cardferry.manager.turns import Turns
from cardferry.manager.use import SlotUse, queue_length
from cardferry.pcsc.card_watcher import CardWatcher
from cardferry.pcsc.constants import SHARING_EXCLUSIVE, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.reader_state import ReaderState
from cardferry.pcsc.reply import DONE, Reply, replying, running, within
from cardferry.readers.base import Reader

log = logging.getLogger(__name__)

T = TypeVar("T")
Start = Callable[[Coroutine[object, object, None]], None]
Check = Callable[[], None]

#: Numbers for `ReaderState.marks` and for the order of things. All readers take theirs from here, so that one which
#: comes again under its name is never taken for the one before, by whoever has not seen it go.
_numbers = itertools.count()


class Slot:
    """One reader, shared.

    Args:
        reader: what does the work.
        settings: bounds.
        publish: called whenever `state` has become another one.
        start: runs a coroutine in a task that somebody owns, for what no call waits for.
        watcher: who is told what passes between us and the card, if anybody.
        counts: where it is counted what happens here.

    Attributes:
        device: the reader and its card.
        turns: the queue; its owner is a handle, or the slot itself while it cleans up.
        use: who is in it, for people.
        handles: all that are open; `coming`: others that wait until they can be.
        exclusive_owner: the one that shares with nobody.
        dispossessed: handles that were exclusive and are not any more; they count as connected once they reconnect.
    """

    def __init__(
        self,
        reader: Reader,
        settings: Settings,
        publish: Callable[[], None],
        start: Start,
        watcher: CardWatcher | None = None,
        *,
        counts: Counts | None = None,
    ) -> None:
        self.settings = settings
        self.watcher = watcher
        self.device = Device(reader, settings, start, self.touch, self._was_reset, watcher=watcher, counts=counts)
        self.turns = Turns(settings.max_idle, settings.max_hold, settings.ticket_life, settings.stay, self._evict)
        self.use = SlotUse(self.turns, self.touch, self.device.counts)
        self.handles: set[HandleState] = set()
        self.exclusive_owner: HandleState | None = None
        self.dispossessed: set[HandleState] = set()
        self._publish = publish
        self._start = start
        self._loop = asyncio.get_running_loop()
        self._claiming: Reply[bool] | None = None
        self._state: ReaderState | None = None
        self._marks = next(_numbers)
        self._outsiders = False
        self.coming = Coming(self.touch)

    def adjust(self, settings: Settings) -> None:
        """Let other bounds apply from now on."""
        self.settings = settings
        self.turns.adjust(settings.max_idle, settings.max_hold)

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
                self._outsiders,
                self.coming.count,
                self.use.told,
                partial(queue_length, self.turns, self.handles),
            )
        return self._state

    @property
    def sharing(self) -> int:
        """0 nobody, n shared handles, -1 exclusive."""
        if self.exclusive_owner is not None:
            return SHARING_EXCLUSIVE
        return len(self.handles) - len(self.dispossessed)

    def counts(self, handle: HandleState) -> bool:
        """Whether `sharing` counts that handle."""
        return handle in self.handles and handle not in self.dispossessed and not self.device.gone

    def others(self, handle: HandleState) -> int:
        """How many handles besides that one are connected."""
        return len(self.handles) - len(self.dispossessed) - self.counts(handle)

    @property
    def holder(self) -> HandleState | None:
        """The handle whose turn it is."""
        owner = self.turns.owner
        return owner if isinstance(owner, HandleState) else None

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

    def outsiders(self, present: bool) -> None:
        """Programs on this computer use the reader, or may have until now; or none do any more."""
        self._outsiders = present
        if self.watcher is not None:
            self.watcher.others(present)
        self.touch()

    def _without_card(self) -> None:
        self.tell(Happened.REMOVED)
        self._stop_claiming()
        self.turns.keep_no_more()
        holder = self.holder
        if holder is not None and holder.lock_count:
            self.take_away(holder, reset=False)

    def removed(self) -> None:
        """The reader itself is gone: its handles are dead, whoever waits learns it at once."""
        self.device.removed()
        self.tell(Happened.REMOVED)
        self._stop_claiming()
        self.turns.keep_no_more()
        if (owner := self.turns.owner) is not None:
            self.turns.leave(owner)

    def _was_reset(self, by_others: bool) -> None:
        """Another user of the reader has reset the card: perhaps just now, perhaps long before a handle was opened.
        Or the guard has, now.

        Handles that have not used the card yet have lost nothing, and are not told: a program that leaves with a reset
        would stop the next one otherwise, while the reader lingers.
        """
        if by_others and self.watcher is not None:
            self.watcher.others(self._outsiders)
        self._mark(Happened.RESET, [handle for handle in self.handles if handle.used])

    def tell(self, happened: Happened, *, but: HandleState | None = None, since: int | None = None) -> None:
        """Mark all handles, so that their next call says what happened.

        Args:
            happened: what.
            but: except this one.
            since: except those that were opened after this moment (see `moment`).
        """
        self._mark(
            happened,
            [handle for handle in self.handles if handle is not but and (since is None or handle.opened <= since)],
        )

    @staticmethod
    def moment() -> int:
        """A number that grows: what came before what."""
        return next(_numbers)

    def _mark(self, happened: Happened, handles: Iterable[HandleState]) -> None:
        """A removal is not outdone by a reset."""
        for handle in handles:
            if handle.happened is not Happened.REMOVED:
                handle.happened = happened
        self._marks = next(_numbers)
        self.touch()

    # handles come and go

    def add(self, handle: HandleState) -> None:
        """A handle was opened."""
        self.handles.add(handle)
        self.settle()

    def discard(self, handle: HandleState) -> None:
        """A handle was closed, or could not be opened."""
        self.handles.discard(handle)
        self.dispossessed.discard(handle)
        if self.exclusive_owner is handle:
            self.exclusive_owner = None
        self.turns.drop(handle)
        self.turns.look_again(self.handles)
        self.settle()

    def settle(self) -> None:
        """Handles have come or gone."""
        self.device.settle(len(self.handles))
        self.touch()

    # turns

    async def take(self, handle: HandleState, patience: float | None) -> None:
        """Wait until the card is the caller's; nothing happens when it is already.

        When another handle of the same context owns the card, waiting would be a deadlock: the one request that
        could end the transaction comes on the connection that waits. So the refusal comes at once.
        """
        self.device.check_gone()
        self.turns.end_overdue()
        holder = self.holder
        if holder is handle:
            return
        same = holder is not None and holder.context is handle.context
        await self.turns.enter(handle, 0.0 if same else patience)
        if self.device.gone or handle.closed:
            self.turns.leave(handle)
            self.device.check_gone()
            raise PcscError(ReturnCode.E_CANCELLED, "closed meanwhile")

    @asynccontextmanager
    async def turn(self, handle: HandleState, patience: float | None) -> AsyncIterator[None]:
        """For one operation: wait until the card is the caller's, or go ahead inside the caller's transaction."""
        await self.take(handle, patience)
        try:
            yield
        finally:
            self.left(handle)

    def left(self, handle: HandleState) -> None:
        """The caller's turn is over, unless it has a transaction.

        What its principal has unlocked would be locked before another one's command, and its program would fail in the
        middle of what it does: PKCS#11 modules verify a PIN in one transaction and sign in the next.
        """
        if handle.lock_count:
            return
        guard = self.device.guard
        if guard is not None and guard.keeps(handle.caller.principal):
            self.turns.leave(handle, partial(of_principal, handle.caller.principal))
        else:
            self.turns.leave(handle)

    def operate(self, handle: HandleState, work: Work[T], patience: float | None) -> Reply[T]:
        """Do one thing with the reader in the caller's turn, unless the card was reset or removed.

        Args:
            card: the caller.
            work: see `Device.call`.
            patience: s to wait for the turn and for other users of the reader together, None for ever.
        """
        until = self.deadline(patience)
        turns = self.turns
        turns.end_overdue()
        if handle.happened is not None or self.device.gone or not handle.used or not turns.take_free(handle):
            return self._operate_later(handle, work, patience, until)
        return _Operation(self, handle, work, until)

    @replying
    async def _operate_later(
        self, handle: HandleState, work: Work[T], patience: float | None, until: float | None
    ) -> T:
        handle.check_happened()  # before it waits for a turn, if it has just lost the one it had
        await self.take(handle, patience)
        if handle.used:
            return await _Operation(self, handle, work, until)
        work = handle.using(work)
        try:
            return await handle.spare(lambda: self.insist(handle, work, until, handle.check_happened))
        finally:
            self.left(handle)

    async def insist(self, handle: HandleState, work: Work[T], until: float | None, check: Check | None = None) -> T:
        """Do one thing with the reader in a turn that the caller has; for ``check`` see `Device.call`.

        Outside a transaction the reader is not claimed. So another user of it (a program on this computer, at pcscd)
        can be in the way; then the reader is claimed for this one thing.
        """
        try:
            return await self.call(work, check)
        except PcscError as error:
            if not self.in_the_way(handle, error):
                raise
        return await self.claim_for(handle, work, until, check)

    def in_the_way(self, handle: HandleState, error: PcscError) -> bool:
        """Whether another user of the reader is in the caller's way, and a claim would help."""
        return error.code is ReturnCode.E_SHARING_VIOLATION and not handle.lock_count and self.turns.owner is handle

    async def claim_for(self, handle: HandleState, work: Work[T], until: float | None, check: Check | None) -> T:
        """Do one thing with the reader in a turn that the caller has, and claim it for that."""
        await self.claim(handle, until)
        try:
            return await self.call(work, check)
        finally:
            await self._release_for(handle)

    def call(self, work: Work[T], check: Check | None = None) -> Reply[T]:
        """Do one thing with the reader, see `Device.call`; the owner is not idle meanwhile."""
        self.turns.busy(True)
        return self.device.call(work, check).then(self._not_busy)

    def _not_busy(self, _: object) -> None:
        self.turns.busy(False)

    def transmit(self, handle: HandleState, apdu: bytes, protocol: Protocol) -> Reply[bytes]:
        """Inside a call: send a command of the handle's."""
        if self._outsiders and not handle.lock_count:
            self.device.interrupted()
        return self.device.transmit(handle.caller, apdu, protocol)

    def deadline(self, patience: float | None) -> float | None:
        """When that patience ends, on the loop's clock; None never."""
        return None if patience is None else self._loop.time() + patience

    # transactions

    def lock(self, handle: HandleState, patience: float | None) -> Reply[None]:
        """Begin a transaction: make the caller the owner, here and towards other users of the reader."""
        if not handle.lock_count:
            return self._lock(handle, patience)
        handle.lock_count += 1
        return DONE

    @replying
    async def _lock(self, handle: HandleState, patience: float | None) -> None:
        until = self.deadline(patience)
        self.turns.end_overdue()
        if self.device.gone or not self.turns.take_free(handle):
            await self.take(handle, patience)
        try:
            handle.check_happened()
            await self.claim(handle, until)
        except BaseException:
            self.turns.leave(handle)
            raise
        handle.lock_count += 1

    async def claim(self, handle: HandleState, until: float | None, *, alone: bool = False) -> bool:
        """The card is the caller's here; keep other users of the reader away, too.

        Args:
            handle: the caller.
            until: see below.
            alone: see `Reader.claim`; returns what that does.

        Raises:
            PcscError: ``E_SHARING_VIOLATION`` when they did not let go until then (the loop's clock, in s): the
                turn is over, and the caller has the first place in the queue. ``E_CANCELLED`` when the caller was
                closed, ``W_REMOVED_CARD`` when the card went, or the reader's own error.
        """
        known = handle.happened

        def claim() -> Reply[bool]:
            return self.call(lambda: self.device.reader.claim(alone=alone))

        wanted_since = self.turns.wanted_since
        claiming = self._claiming = claim() if handle.used else running(handle.spare(claim))
        try:
            unwanted = claiming.result() if claiming.done() else await self._claimed(claiming, until)
        except (TimeoutError, asyncio.CancelledError) as error:
            self._let_go(handle)
            if isinstance(error, asyncio.CancelledError) and self._claiming is claiming:
                raise  # we are cancelled, and `_stop_claiming` was not called
            self._check_meanwhile(handle, known)
            self.turns.keep_first(handle, wanted_since)
            raise PcscError(ReturnCode.E_SHARING_VIOLATION, "a local program has the card") from None
        finally:
            self._claiming = None
        try:
            self._check_meanwhile(handle, known)
        except PcscError:
            self._let_go(handle)
            raise
        if self._outsiders:
            self.device.interrupted()
        self.turns.begun()
        return unwanted

    async def _claimed(self, claiming: Reply[bool], until: float | None) -> bool:
        """Wait for a claim: until then other users of the reader have the card."""
        self.use.claiming(True)
        try:
            return await within(claiming, until)
        finally:
            self.use.claiming(False)

    async def exclude(self, handle: HandleState, until: float | None) -> None:
        """The caller, whose turn it is, shares the reader with nobody from now on.

        Programs on this computer are refused at once from now on, as at pcscd. Where that cannot be had, because some
        of them are connected, they may wait: they are in no queue of ours, and count as if they always did, so that the
        lease ends. One that would not end, because it is honoured, is refused, as pcscd refuses it.

        Raises:
            PcscError: as `claim`; ``E_SHARING_VIOLATION`` when programs on this computer use the reader.
        """
        if handle.lock_count:
            unwanted = await self.call(lambda: self.device.reader.claim(alone=True))
        else:
            unwanted = await self.claim(handle, until, alone=True)
        if not unwanted and self.settings.exclusive is ExclusivePolicy.HONOUR:
            if not handle.lock_count:
                await self._release_for(handle)
            raise PcscError(ReturnCode.E_SHARING_VIOLATION, "a local program uses the reader")
        handle.lock_count += 1
        self.exclusive_owner = handle
        self.turns.outsiders(not unwanted)
        self.touch()

    async def power(self, share: ShareMode, protocols: Protocol, until: float | None) -> Protocol:
        """`Device.power` for the caller whose turn it is. While a local program has the card locked, that waits.

        Raises:
            PcscError: ``E_SHARING_VIOLATION`` when it did not let go until then (the loop's clock, in s).
        """
        try:
            return await within(self.call(lambda: self.device.power(share, protocols)), until)
        except TimeoutError:
            raise PcscError(ReturnCode.E_SHARING_VIOLATION, "a local program has the card") from None

    def _check_meanwhile(self, handle: HandleState, known: Happened | None) -> None:
        """What a reconnect has known before is no reason to refuse it."""
        if self.device.gone:
            self.device.check_gone()
        if handle.closed:
            raise PcscError(ReturnCode.E_CANCELLED, "closed meanwhile")
        if handle.happened is not known:
            handle.check_happened()

    def _stop_claiming(self) -> None:
        claiming, self._claiming = self._claiming, None
        if claiming is not None:
            claiming.cancel()

    def unlock(self, handle: HandleState) -> Reply[None]:
        """The caller's outermost transaction ends."""
        handle.lock_count = 0
        released = self.device.call(self.device.reader.release)
        if not released.done() or released.error is not None:
            return self._unlock(handle, released)
        self.left(handle)
        return DONE

    @replying
    async def _unlock(self, handle: HandleState, released: Reply[None]) -> None:
        await self._released(handle, released)
        self.left(handle)

    async def _release_for(self, handle: HandleState) -> None:
        await self._released(handle, self.device.call(self.device.reader.release))

    async def _released(self, handle: HandleState | Slot, released: Reply[None]) -> None:
        try:
            await released
        except PcscError as error:
            log.debug("%s: releasing the reader: %s", self.name, error)
        except asyncio.CancelledError:
            if isinstance(handle, HandleState):
                self._let_go(handle)
            raise

    # when a call or a transaction shall end before its time

    def closing(self, handle: HandleState) -> None:
        """The caller closes the handle, or has vanished: its place in the queue and its waits end."""
        self.turns.drop(handle)
        if self.turns.owner is handle:
            self._stop_claiming()

    def take_away(self, handle: HandleState, *, reset: bool) -> None:
        """End the transaction of an owner that does not end it. The owner must have one.

        Args:
            handle: the owner.
            reset: whether the card must forget what the owner did; the other handles are told.
        """
        handle.lock_count = 0
        if self.exclusive_owner is handle:
            self.exclusive_owner = None
            self.dispossessed.add(handle)
        reset = reset and self.device.session
        if reset:
            self.tell(Happened.RESET, but=handle)
        self._let_go(handle, reset=reset)
        self.touch()

    def _let_go(self, handle: HandleState, *, reset: bool = False) -> None:
        """Make the slot the owner, and the next in the queue when the card was reset and released."""
        if self.turns.hand_over(handle, self):
            self._start(self._recover(reset))

    async def _recover(self, reset: bool) -> None:
        try:
            if reset:
                await self.device.call(self.device.forget)
        except PcscError as error:
            log.warning("%s: the card could not be reset: %s", self.name, error)
        finally:
            try:
                await self._released(self, self.device.call(self.device.reader.release))
            finally:
                self.turns.leave(self)

    def _evict(self, handle: object, why: str) -> None:
        if not isinstance(handle, HandleState):
            return  # the slot itself: it is cleaning up
        if not handle.lock_count:
            return  # it does one thing only, and leaves by itself
        if self.exclusive_owner is handle and self.settings.exclusive is ExclusivePolicy.HONOUR:
            return
        log.warning("%s: %s %s while others wait: the card is reset and goes to the next one",
                    self.name, handle.caller, why)  # fmt: skip
        self.device.counts.of(handle.caller.principal).evictions += 1
        self._mark(Happened.RESET, (handle,))
        if self.exclusive_owner is handle:
            self.device.exchanged()
        self.take_away(handle, reset=True)


class _Operation(Reply[T]):
    """One thing that is done in a turn that the caller has; the turn is over before the caller goes on.

    Args:
        slot, handle, work: see `Slot.operate`.
        until: see `Slot.claim`.
    """

    __slots__ = ("_doing", "_handle", "_slot", "_until", "_work")

    def __init__(self, slot: Slot, handle: HandleState, work: Work[T], until: float | None) -> None:
        Reply.__init__(self)
        self._slot, self._handle, self._work, self._until = slot, handle, work, until
        slot.turns.busy(True)  # as `Slot.call` does, with one callback less
        self._doing = slot.device.call(work, handle.check_happened)
        self._doing.then(self._came)

    def _came(self, doing: Reply[T]) -> None:
        self._slot.turns.busy(False)
        error = doing.error
        if error is not None and isinstance(error, PcscError) and self._slot.in_the_way(self._handle, error):
            claiming = self._slot.claim_for(self._handle, self._work, self._until, self._handle.check_happened)
            self._doing = running(claiming).then(self._over)
        else:
            self._over(doing)

    def _over(self, doing: Reply[T]) -> None:
        self._slot.left(self._handle)
        self.end_as(doing)

    def cancel(self, msg: object = None) -> bool:
        """Nobody waits for it any more."""
        return not self.done() and self._doing.cancel(msg)
