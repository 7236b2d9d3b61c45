"""Who has a card when, for users that know no transactions: a reader in another resource manager, a virtual machine.

What such a user sends are commands, one after the other, and nothing says which belong together. So its turn is a
*lease*: it begins with a command, and ends when no command has come for `IDLE`, when the user has taken the power from
the card, or when it is gone. In between nobody else's commands come to the card; before, the command waits in the
queue as a program's ``SCardBeginTransaction`` would. A user whose lease has ended stays connected, so that its card
keeps its state unless somebody else changes it, until the power goes or nothing has come for ``keep``.

A reset by somebody else between two leases must not go unseen: the user's programs believe that their PIN is verified.
There is no message for it, so the card is taken out and put in again for them, which every program has to understand:
`LostCardError`. Windows itself ends transactions that are idle, and resets the card
(``SCardBeginTransaction``, after 5 s).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from cardferry.pcsc.caller import Caller
from cardferry.pcsc.constants import Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import CardferryError, PcscError, ReturnCode
from cardferry.pcsc.interface import Card, Context, ResourceManager
from cardferry.pcsc.reply import DONE, running

log = logging.getLogger(__name__)

#: s without a command after which others may have the card.
IDLE: Final = 1.0
#: s; power that comes back so soon was taken for a cold reset. pcscd does that without a pause; it also takes the
#: power when nobody is connected any more, and gives it back to the next program.
_COLD_RESET: Final = 0.5


@dataclass(frozen=True, slots=True)
class Insertion:
    """One card, from when it is put in until it is taken out: `ReaderState` has these three."""

    reader: str
    atr: bytes
    event_counter: int = 0


class LostCardError(CardferryError):
    """The card is not as its user believes: to be shown as if it had been taken out and put in again."""


class Lease:
    """A card with one user, from its insertion to its removal; an asynchronous context manager.

    Calls come one after the other. Those that need the card raise `LostCardError`; there are no other errors.

    Args:
        manager: where the card is.
        caller: for whom.
        card: which one.
        keep: s without a command after which the card is let go as if it had lost its power; None for users that
            tell when they take the power.
        released: called when that has happened to a card which was used.

    Attributes:
        over: whether it has; the user must be shown another insertion.
    """

    def __init__(
        self,
        manager: ResourceManager,
        caller: Caller,
        card: Insertion,
        keep: float | None = None,
        released: Callable[[], None] = lambda: None,
    ) -> None:
        self.reader = card.reader
        self.atr = card.atr
        self.over = False
        self._manager = manager
        self._caller = caller
        self._keep = keep
        self._released = released
        self._context: Context | None = None
        self._card: Card | None = None
        #: Whether the card is ours alone now.
        self._held = False
        #: Whether the card has got commands since its user has last powered or reset it: what nobody may change unseen.
        self._used = False
        self._unpowered_at = float("-inf")
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        #: The end of a turn, which nobody has waited for yet.
        self._ending = DONE

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_timer()
        # A lease that lasts while its user vanishes ends with a reset, as everybody's transaction: see `Context.close`.
        if self._context is not None:
            await self._context.close()

    async def transmit(self, apdu: bytes, of_t0: bytes | None = None) -> bytes:
        """Let the card answer a command, when it is our turn.

        Args:
            apdu: the command.
            of_t0: the same for a card that speaks T=0 at this moment, None for the same bytes.
        """
        self._stop_timer()
        try:
            try:
                response = await self._transmit(apdu, of_t0 or apdu)
            except PcscError as error:
                # Somebody has reset a card of which we know nothing yet. The command was not carried out.
                if error.code is not ReturnCode.W_RESET_CARD or self._used:
                    raise
                await self._let_go()
                response = await self._transmit(apdu, of_t0 or apdu)
        except PcscError as error:
            raise LostCardError(str(error)) from None
        self._used = True
        self._start_timer()
        return response

    async def power_on(self) -> None:
        """The user gives power to the card; after it has just taken it, that is a cold reset."""
        if self._used and self._loop.time() - self._unpowered_at < _COLD_RESET:
            await self.reset()
        self._used = False

    async def power_off(self) -> None:
        """The user takes the power: others may have the card. It loses its state when nobody is left."""
        self._stop_timer()
        self._unpowered_at = self._loop.time()
        await self._let_go()

    async def reset(self) -> None:
        """The user resets the card; everybody is told, as of any reset. Waits for its turn."""
        self._stop_timer()
        try:
            card = await self._turn()
            await card.reconnect(ShareMode.SHARED, Protocol.ANY, Disposition.RESET)
        except PcscError as error:
            if error.code is not ReturnCode.W_RESET_CARD:  # otherwise somebody else has been quicker
                raise LostCardError(str(error)) from None
            await self._let_go()
        self._used = False
        self._start_timer()

    async def _transmit(self, apdu: bytes, of_t0: bytes) -> bytes:
        card = await self._turn()
        return await card.transmit(of_t0 if card.protocol is Protocol.T0 else apdu, card.protocol)

    async def _turn(self) -> Card:
        """The card, when it is our turn."""
        await self._ending
        if self._context is None:
            self._context = await self._manager.open(self._caller)
        if self._card is None:
            self._card = await self._context.connect(self.reader, ShareMode.SHARED, Protocol.ANY)
        if not self._held:
            await self._card.begin()
            self._held = True
        return self._card

    async def _let_go(self) -> None:
        """Close the handle; what went wrong with it does not matter any more."""
        await self._ending
        card, self._card = self._card, None
        if card is not None:
            await self._give_back(card)
            try:
                await card.disconnect(Disposition.LEAVE)
            except PcscError as error:
                log.debug("%s: disconnect: %s", self.reader, error)

    async def _give_back(self, card: Card) -> None:
        """End the turn. A card that was taken away meanwhile says so again at the next command."""
        if self._held:
            self._held = False
            try:
                await card.end(Disposition.LEAVE)
            except PcscError as error:
                log.debug("%s: end of the turn: %s", self.reader, error)

    # time

    def _start_timer(self) -> None:
        self._timer = self._loop.call_later(IDLE, self._idle)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _idle(self) -> None:
        self._timer = None
        if self._card is not None:
            self._ending = running(self._give_back(self._card))
        if self._keep is not None:
            self._timer = self._loop.call_later(self._keep - IDLE, self._forgotten)

    def _forgotten(self) -> None:
        self._timer = None
        if self._used:
            self.over = True
            self._released()
