"""A reader and the card in it, as all handles find them: state, power, protocol. One call at a time.

Where bugs of readers stop. `Device.call` is the only way to a `Reader`. An exception that is no `PcscError` is logged
there with its traceback and becomes ``F_INTERNAL_ERROR``: the broken reader fails, everything else goes on.

The methods under "inside a call" are what is given to `Device.call`: they talk to the reader and keep our picture of
it in step.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, NoReturn, TypeVar

from cardferry.manager.counts import Counts
from cardferry.manager.guard import CardGuard
from cardferry.manager.settings import Settings
from cardferry.pcsc.caller import Caller, Principal
from cardferry.pcsc.card_watcher import CardWatcher
from cardferry.pcsc.constants import CardState, Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.reply import Reply, failed, running, within
from cardferry.readers.base import ExecutedError, Reader

log = logging.getLogger(__name__)

#: Return codes of commands that were not executed.
_REFUSED: Final = (ReturnCode.W_RESET_CARD, ReturnCode.E_SHARING_VIOLATION)
T = TypeVar("T")
#: Something to do with a reader.
Work = Callable[[], Reply[T] | Coroutine[Any, Any, T]]

_POWERED = CardState.PRESENT | CardState.POWERED | CardState.NEGOTIABLE
#: A card that was pulled has forgotten everything by itself.
_NO_CARD = (ReturnCode.E_NO_SMARTCARD, ReturnCode.W_REMOVED_CARD)
_MUTE = CardState.PRESENT | CardState.SWALLOWED


class Device:
    """One reader.

    Args:
        reader: what does the work.
        settings: of them `Settings.linger` and `Settings.connect_patience`. pcscd lets us wait with a connect while
            another program has the card locked.
        start: runs a coroutine in a task that somebody owns.
        changed: called when something that applications see has changed.
        was_reset: called when the card was reset in the middle of a call; whether by another user of the reader.
        watcher: who is told what passes, if anybody.
        counts: where commands are counted.

    Attributes:
        reader: what does the work.
        card_state: what is known of the slot and the card.
        atr: the card's, empty without one.
        protocol: in force for the card, `Protocol.UNDEFINED` while there is none.
        applications: names and identifiers of those that have answered since the card came, for people.
        event_counter: insertions and removals, modulo 65536.
        gone: the reader was unplugged.
        users: how many handles there are.
        guard: what stands in front of the reader, None for nothing.
        counts: of what is done with the reader.
    """

    def __init__(
        self,
        reader: Reader,
        settings: Settings,
        start: Callable[[Coroutine[object, object, None]], None],
        changed: Callable[[], None],
        was_reset: Callable[[bool], None],
        *,
        watcher: CardWatcher | None = None,
        counts: Counts | None = None,
    ) -> None:
        self.reader = reader
        self.card_state = CardState.ABSENT
        self.atr = b""
        self.protocol = Protocol.UNDEFINED
        self.applications: dict[str, bytes] = {}
        self.event_counter = 0
        self.gone = False
        self.users = 0
        self.guard: CardGuard | None = None
        self.counts = counts or Counts()
        self._settings = settings
        self._start = start
        self._changed = changed
        self._was_reset = was_reset
        self._watcher = watcher
        self._loop = asyncio.get_running_loop()
        #: Whether a call is under way, or about to be; and those that come after it.
        self._calling = False
        self._calls: deque[asyncio.Future[None]] = deque()
        #: How we are connected to the reader; `ShareMode.SHARED` means that the card has power.
        self._connected: ShareMode | None = None
        self._to_let_go = False
        #: How often a card came or went, to see whether it is still the same.
        self._insertions = 0
        self._lingering: asyncio.TimerHandle | None = None
        #: When the reader was let go, on the loop's clock; None: it was not, or somebody had it since.
        self._let_go_at: float | None = None

    @property
    def name(self) -> str:
        """The reader's name."""
        return self.reader.name

    @property
    def card_present(self) -> bool:
        """Whether there is a card, answering or not."""
        return bool(self.card_state & CardState.PRESENT)

    @property
    def session(self) -> bool:
        """Whether there is a card that may have been told something which the next user must not inherit."""
        return self.card_present and self._connected is not None

    def check_gone(self) -> None:
        """Raise when the reader was unplugged."""
        if self.gone:
            raise PcscError(ReturnCode.E_READER_UNAVAILABLE)

    # what the reader reports

    def card_inserted(self, atr: bytes) -> None:
        """A card came; an empty ATR says that it is mute."""
        self._card_changed(_POWERED if atr else _MUTE, atr)

    def card_removed(self) -> None:
        """The card went."""
        self._card_changed(CardState.ABSENT, b"")

    def failed(self) -> None:
        """The driver cannot reach the reader, until a card comes or goes again."""
        self._card_changed(CardState.UNKNOWN, b"")

    def check_card(self) -> None:
        """Raise when there is no card that could be used, or no way to it."""
        if self.card_state & CardState.UNKNOWN:
            raise PcscError(ReturnCode.E_READER_UNAVAILABLE, "the driver cannot reach the reader")
        if not self.card_present:
            raise PcscError(ReturnCode.E_NO_SMARTCARD)

    def exchanged(self) -> None:
        """Count as if the card had been taken out and put in again.

        A program that has the reader to itself may look at nothing but the state (scdaemon does, twice a second): this
        is how it learns that it has lost the card, and it begins anew instead of failing at its next command.
        """
        self.event_counter = (self.event_counter + 2) & 0xFFFF
        self._changed()

    def _card_changed(self, state: CardState, atr: bytes) -> None:
        self.event_counter = (self.event_counter + 1) & 0xFFFF
        self._insertions += 1
        self.card_state, self.atr = state, atr
        self.applications.clear()
        self.protocol = Protocol.UNDEFINED
        if self.guard is not None:
            self.guard.exchanged()
        self._forgotten()
        if self._watcher is not None:
            self._watcher.gone()
        self._changed()

    def _forgotten(self) -> None:
        if self.guard is not None:
            self.guard.forgotten()

    def interrupted(self) -> None:
        """Others may have used the card."""
        if self.guard is not None:
            self.guard.interrupted()

    def removed(self) -> None:
        """The reader itself is gone."""
        self.gone = True
        if self._watcher is not None:
            self._watcher.gone()
        if self.guard is not None:
            self.guard.exchanged()
        self._stop_lingering()

    # calls

    def call(self, work: Work[T], check: Callable[[], None] | None = None) -> Reply[T]:
        """Do something with the reader, when nothing else is done with it.

        Args:
            work: what to do.
            check: raises `PcscError` when it must not be done any more, after what was done until then.

        Returns:
            what ``work`` returns, or what ``check`` or ``work`` raises. After ``W_RESET_CARD`` of ``work`` the handles
            have been told.
        """
        if self._calling:
            return running(self._call_after_others(work, check))
        self._calling = True
        return self._call(work, check)

    def _call(self, work: Work[T], check: Callable[[], None] | None) -> Reply[T]:
        try:
            if self.gone:
                self.check_gone()
            if check is not None:
                check()
        except PcscError as error:
            self._next_call()
            return failed(error)
        try:
            reply = work()
        except PcscError as error:
            reply = failed(error)
        except Exception as error:  # the boundary that the module's docstring describes
            log.exception("%s: a bug in the reader", self.reader.name)
            reply = failed(PcscError(ReturnCode.F_INTERNAL_ERROR, repr(error)))
        return (reply if isinstance(reply, Reply) else running(reply)).then(self._called)

    def _called(self, reply: Reply[Any]) -> None:
        error = reply.error
        if error is not None and isinstance(error, PcscError) and error.code is ReturnCode.W_RESET_CARD:
            self._forgotten()
            self._was_reset(not isinstance(error, StartedOverError))
        if self._calls:
            self._next_call()
        else:
            self._calling = False

    async def _call_after_others(self, work: Work[T], check: Callable[[], None] | None) -> T:
        await self._others_first()
        return await self._call(work, check)

    async def _others_first(self) -> None:
        """Wait for the calls that came before."""
        turn = self._loop.create_future()
        self._calls.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._next_call()  # it had come at the same moment
            raise

    def _next_call(self) -> None:
        while self._calls:
            turn = self._calls.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._calling = False

    # inside a call

    async def power(self, share: ShareMode, protocols: Protocol) -> Protocol:
        """Make the card usable for a handle and return the protocol in force for that handle.

        A mask with ``RAW`` gives that to the handle, while the card keeps a protocol that others can use.

        Raises:
            PcscError: ``E_READER_UNAVAILABLE``, ``E_NO_SMARTCARD``, ``W_UNRESPONSIVE_CARD``, ``E_PROTO_MISMATCH`` or
                the reader's own error.
        """
        if share is not ShareMode.DIRECT or self.card_state & CardState.UNKNOWN:
            self.check_card()
        if share is ShareMode.DIRECT:
            await self.open()
            return self.protocol
        if self.card_state & CardState.SWALLOWED:
            raise PcscError(ReturnCode.W_UNRESPONSIVE_CARD)
        raw = Protocol.RAW in protocols
        wanted = Protocol.ANY if raw else protocols
        if self._connected is not ShareMode.SHARED or not self.protocol:
            await self._connect_card(wanted)
        elif not self.users and not wanted & self.protocol:
            await self.reset(Disposition.RESET, wanted)  # the protocol was the choice of somebody who has left
        if raw:
            return Protocol.RAW
        if not wanted & self.protocol:
            raise PcscError(ReturnCode.E_PROTO_MISMATCH, f"the card speaks {self.protocol!r}")
        return self.protocol

    async def _connect_card(self, protocols: Protocol) -> None:
        card = self._insertions
        protocol = await self._connect_reader(ShareMode.SHARED, protocols)
        self.interrupted()  # we were not connected, and others may have been
        self._check_same(card)
        if self._watcher is not None:
            self._watcher.opened(None if self._let_go_at is None else self._loop.time() - self._let_go_at)
        self._let_go_at = None
        self._has_power(protocol)

    async def _connect_reader(self, share: ShareMode, protocols: Protocol) -> Protocol:
        self._to_let_go = True  # even if this fails: it may fail half way
        try:
            until = self._loop.time() + self._settings.connect_patience
            protocol = await within(self.reader.connect(share, protocols), until)
        except TimeoutError:
            raise PcscError(ReturnCode.E_SHARING_VIOLATION, "a local program has the card") from None
        self._connected = share
        return protocol

    async def open(self) -> None:
        """Connect to the reader itself, unless it is connected already."""
        if self._connected is None:
            self._let_go_at = None  # a card that still has power may keep it now
            await self._connect_reader(ShareMode.DIRECT, Protocol.UNDEFINED)

    async def reset(self, disposition: Disposition, protocols: Protocol) -> None:
        """Reset the card. When that fails it counts as unpowered, and the next connection tries again."""
        if self._connected is None:
            await self._connect_card(protocols)  # it was without power: that is the reset
            return
        card = self._insertions
        self.protocol = Protocol.UNDEFINED
        try:
            protocol = await self.reader.reset(disposition, protocols)
        except PcscError:
            self._lost_power(card)
            raise
        self._forgotten()
        self._check_same(card)
        if self._watcher is not None:
            self._watcher.reset()
        self._has_power(protocol)

    async def forget(self) -> None:
        """Make the card forget what it was told, PINs above all: by a reset, or else by taking its power."""
        if not self.session:
            return
        try:
            await self.reset(Disposition.RESET, Protocol.ANY)
        except PcscError as error:
            level = logging.INFO if error.code in _NO_CARD else logging.WARNING
            log.log(level, "%s: the card could not be reset, so it loses its power: %s", self.reader.name, error)
            await self.unpower()

    async def unpower(self) -> None:
        """Take the power from the card, for as long as nobody connects."""
        card = self._insertions
        self._connected = None
        await self.reader.disconnect(Disposition.UNPOWER)
        self._forgotten()
        self._to_let_go = False
        self._lost_power(card)

    def transmit(self, caller: Caller, apdu: bytes, protocol: Protocol) -> Reply[bytes]:
        """Send a command, if the guard lets it pass."""
        guard = self.guard
        return self.send(caller.principal, apdu, protocol) if guard is None else guard.transmit(caller, apdu, protocol)

    async def control(self, caller: Caller, code: int, data: bytes, max_response: int) -> bytes:
        """Send a control code to the reader, which need not have a card, nor a handle that is in order."""
        await self.open()
        if self.guard is not None:
            return await self.guard.control(caller, code, data, max_response)
        return await self.send_control(code, data, max_response)

    async def set_attribute(self, caller: Caller, attribute: int, value: bytes) -> None:
        """Set a reader attribute, if the guard allows it."""
        if self.guard is not None:
            await self.guard.set_attribute(caller, attribute)
        if self._watcher is not None:
            self._watcher.touched()
        await self.reader.set_attribute(attribute, value)

    # GuardedReader

    def send(self, principal: Principal, apdu: bytes, protocol: Protocol) -> Reply[bytes]:
        """Send a command."""
        since = self.counts.clock()
        return self.reader.transmit(apdu, protocol).then(partial(self._sent, principal, apdu, since))

    def _sent(self, principal: Principal, apdu: bytes, since: float, reply: Reply[bytes]) -> None:
        """Count a command, and tell what the card has answered, unless it was not asked."""
        error = reply.error
        if error is not None and isinstance(error, PcscError) and not reached_card(error):
            return
        self.counts.answered(principal, since)
        if self._watcher is not None:
            self._watcher.answered(principal, apdu, None if error is not None else reply.result())

    async def send_control(self, code: int, data: bytes, max_response: int) -> bytes:
        """Send a control code."""
        if data and self._watcher is not None:
            self._watcher.touched()  # a PIN typed at the reader, for instance
        return await self.reader.control(code, data, max_response)

    async def start_over(self) -> NoReturn:
        """Reset the card in the middle of a caller's call, so that it finds nothing of what others have left."""
        await self.reset(Disposition.RESET, self.protocol or Protocol.ANY)
        raise StartedOverError(ReturnCode.W_RESET_CARD, "somebody else had unlocked it")

    def _check_same(self, card: int) -> None:
        if card != self._insertions:
            raise PcscError(ReturnCode.E_NO_SMARTCARD, "the card was taken out meanwhile")

    def _has_power(self, protocol: Protocol) -> None:
        self.protocol = protocol
        self.card_state = _POWERED
        self._changed()

    def _lost_power(self, card: int) -> None:
        if card == self._insertions:
            if self._watcher is not None:
                self._watcher.touched()
            self.protocol = Protocol.UNDEFINED
            self.card_state = CardState.PRESENT
            self._changed()

    # when nobody is connected

    def settle(self, users: int) -> None:
        """So many handles are there now. `Settings.linger` after the last one has gone the reader is disconnected."""
        self.users = users
        self._stop_lingering()
        if not self.users and self._to_let_go and not self.gone:
            self._lingering = self._loop.call_later(self._settings.linger, self._let_go)

    def _stop_lingering(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None

    def _let_go(self) -> None:
        self._lingering = None
        self._start(self._disconnect())

    async def _disconnect(self) -> None:
        try:
            await self.call(self._disconnect_unless_used)
        except PcscError as error:
            log.info("%s: letting the reader go: %s", self.reader.name, error)

    async def _disconnect_unless_used(self) -> None:
        if not self.users and self._to_let_go:
            self._connected = None
            self._to_let_go = False
            self.protocol = Protocol.UNDEFINED
            self._changed()
            self._let_go_at = self._loop.time()
            await self.reader.disconnect(Disposition.LEAVE)


class StartedOverError(PcscError):
    """The card was reset for the guard; see `GuardedReader.start_over`."""


def reached_card(error: PcscError) -> bool:
    """Whether a command that has failed with that may have been executed."""
    return error.code not in _REFUSED or isinstance(error, ExecutedError)
