"""What ``cardferry status`` shows of a resource manager: plain values, ready for JSON. Times in s."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from cardferry.pcsc.card_name import card_name
from cardferry.pcsc.reader_state import ReaderState


@dataclass(frozen=True, slots=True)
class WaiterStatus:
    """Somebody in the queue.

    Attributes:
        client: which program, in words.
        principal: on whose behalf, such as ``ssh:build1``.
    """

    client: str
    principal: str
    waiting: float


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """One reader: its card, who holds it and who waits.

    Attributes:
        state: names of `CardState` bits, such as ``present powered negotiable``.
        atr: in hex, empty without a card.
        holder: which program owns the card at this moment, None when none does.
        principal: on whose behalf it does; empty when none does.
        held: for how long.
        card: what to call the card, such as ``PIV (YubiKey 5)``; empty when that is not known.
    """

    reader: str
    state: str
    atr: str
    protocol: str
    sharing: int
    event_counter: int
    clients: list[str]
    holder: str | None
    principal: str
    held: float
    waiters: list[WaiterStatus]
    card: str = ""

    @classmethod
    def of(
        cls,
        state: ReaderState,
        *,
        clients: Sequence[str] = (),
        holder: str | None = None,
        principal: str = "",
        held: float = 0.0,
        waiters: Sequence[WaiterStatus] = (),
        applications: Iterable[bytes] = (),
    ) -> Self:
        """What is known of a reader; who uses it is left out where that is not known.

        Args:
            applications: identifiers of those of the card that have answered.
        """
        return cls(
            reader=state.name,
            state=" ".join(flag.name.lower() for flag in type(state.state) if flag & state.state and flag.name),
            atr=state.atr.hex(),
            protocol=state.protocol.name or "",
            sharing=state.sharing,
            event_counter=state.event_counter,
            clients=list(clients),
            holder=holder,
            principal=principal,
            held=held,
            waiters=list(waiters),
            card=card_name(state.atr, applications),
        )


@dataclass(frozen=True, slots=True)
class ManagerStatus:
    """All of a manager."""

    contexts: int
    readers: list[SlotStatus]
