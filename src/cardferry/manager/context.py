"""One SCARDCONTEXT on this computer's readers."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from cardferry.manager.card import LocalCard
from cardferry.pcsc.constants import Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.interface import Peer

if TYPE_CHECKING:
    from cardferry.manager.manager import LocalManager

log = logging.getLogger(__name__)

#: Handles that one context may have open, as with pcscd (``PCSC_MAX_CONTEXT_CARD_HANDLES``): a program that forgets to
#: disconnect learns it before it has filled our memory.
MAX_HANDLES: Final = 200


class LocalContext:
    """A caller's context; see `cardferry.pcsc.interface.Context`.

    Args:
        manager: where the readers are.
        peer: who calls.
        patience: s that each call waits for its turn at most, None for ever.
    """

    __slots__ = ("closed", "handles", "manager", "patience", "peer")

    def __init__(self, manager: LocalManager, peer: Peer, patience: float | None) -> None:
        self.manager = manager
        self.peer = peer
        self.patience = patience
        self.handles: set[LocalCard] = set()
        self.closed = False

    async def connect(self, reader: str, share: ShareMode, protocols: Protocol) -> LocalCard:
        """Connect to a reader."""
        if self.closed:
            raise PcscError(ReturnCode.E_INVALID_HANDLE)
        if len(self.handles) >= MAX_HANDLES:
            raise PcscError(ReturnCode.E_NO_MEMORY, f"{MAX_HANDLES} handles are open in this context")
        card = LocalCard(self, self.manager.slot(reader))
        self.handles.add(card)
        try:
            await card.connect(share, protocols)
        except BaseException:
            card.vanish()
            raise
        return card

    async def close(self) -> None:
        """Free every handle, at once. Calls that wait end; a command that is at the card is finished, then dropped."""
        self.closed = True
        self.manager.contexts.discard(self)
        for card in tuple(self.handles):
            try:
                card.vanish()
            except Exception:  # the other handles must not be held for ever because of a bug with this one
                log.exception("%s: a bug in freeing a handle", card.reader)
