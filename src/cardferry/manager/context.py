"""One SCARDCONTEXT on this computer's readers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from cardferry.manager.card import LocalCard
from cardferry.manager.handle import HandleState
from cardferry.manager.slot import Slot
from cardferry.pcsc.caller import Caller
from cardferry.pcsc.constants import Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode

log = logging.getLogger(__name__)

#: Handles that one context may have open, as with pcscd (``PCSC_MAX_CONTEXT_CARD_HANDLES``): a program that forgets to
#: disconnect learns it before it has filled our memory.
MAX_HANDLES: Final = 200


class LocalContext:
    """A caller's context; see `cardferry.pcsc.interface.Context`.

    Args:
        find: the slot of the reader that has a name; raises ``E_UNKNOWN_READER``.
        caller: who calls.
        patience: s that each call waits for its turn at most, None for ever.
        closed: called when the context has been closed.

    Attributes:
        cards: its open handles.
    """

    __slots__ = ("_caller", "_closed", "_find", "_patience", "_when_closed", "cards")

    def __init__(
        self,
        find: Callable[[str], Slot],
        caller: Caller,
        patience: float | None,
        closed: Callable[[LocalContext], None],
    ) -> None:
        self._find = find
        self._caller = caller
        self._patience = patience
        self._when_closed = closed
        self.cards: set[LocalCard] = set()
        self._closed = False

    async def connect(self, reader: str, share: ShareMode, protocols: Protocol) -> LocalCard:
        """Connect to a reader."""
        if self._closed:
            raise PcscError(ReturnCode.E_INVALID_HANDLE)
        if len(self.cards) >= MAX_HANDLES:
            raise PcscError(ReturnCode.E_NO_MEMORY, f"{MAX_HANDLES} handles are open in this context")
        card = LocalCard(self._find(reader), HandleState(self, self._caller), self._patience, self.cards.discard)
        self.cards.add(card)
        try:
            await card.connect(share, protocols)
        except BaseException:
            card.vanish()
            raise
        return card

    async def close(self) -> None:
        """Free every handle, at once. Calls that wait end; a command that is at the card is finished, then dropped."""
        self._closed = True
        self._when_closed(self)
        for card in tuple(self.cards):
            try:
                card.vanish()
            except Exception:  # the other handles must not be held for ever because of a bug with this one
                log.exception("%s: a bug in freeing a handle", card.reader)
