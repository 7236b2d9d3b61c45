"""What a program's handle is to the slot of its reader: a state, which only the slot and the handle's card change."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from cardferry.pcsc.caller import Caller
from cardferry.pcsc.errors import PcscError, ReturnCode


class Happened(Enum):
    """What a handle must be told before it may go on (pcsc-lite's reader event state)."""

    RESET = ReturnCode.W_RESET_CARD
    REMOVED = ReturnCode.W_REMOVED_CARD


@dataclass(slots=True, eq=False)
class HandleState:
    """One SCARDHANDLE.

    Attributes:
        context: stands for the context that it belongs to; compared by identity.
        caller: who opened it.
        happened: what the caller must be told before it may go on.
        lock_count: open transactions, one inside the other; an exclusive connection counts as one.
        closed: whether the handle is closed, or its context.
        opened: when it was, see `cardferry.manager.slot.Slot.moment`.
        used: whether it has done anything with the card since it was opened, or learnt that the card was reset.
    """

    context: object
    caller: Caller
    happened: Happened | None = None
    lock_count: int = 0
    closed: bool = False
    opened: int = 0
    used: bool = False

    def check_happened(self) -> None:
        """Raise when the card was reset or removed and this handle has not reconnected yet."""
        if self.happened is not None:
            raise PcscError(self.happened.value)
