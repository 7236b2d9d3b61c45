"""What a program's handle is to the slot of its reader: a state, which only the slot and the handle's card change."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from cardferry.manager.device import Work, reached_card
from cardferry.pcsc.caller import Caller, Principal
from cardferry.pcsc.errors import PcscError, ReturnCode

T = TypeVar("T")


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

    async def spare(self, work: Work[T]) -> T:
        """Do something; once more if all that was in its way is a reset of which the handle is not told."""
        try:
            return await work()
        except PcscError as error:
            told = self.used or self.happened is not None
            if error.code is not ReturnCode.W_RESET_CARD or told or self.closed:
                raise
        return await work()

    def using(self, work: Work[T]) -> Work[T]:
        """The same work, for a handle that has not used the card yet: it has when that was executed."""

        async def noted() -> T:
            self.used = True
            try:
                return await work()
            except PcscError as error:
                self.used = reached_card(error)
                raise

        return noted


def of_principal(principal: Principal, handle: object) -> bool:
    """Whether it is a handle on that principal's behalf."""
    return isinstance(handle, HandleState) and handle.caller.principal == principal
