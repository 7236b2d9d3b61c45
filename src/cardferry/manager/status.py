"""What ``cardferry status`` shows of a resource manager: plain values, ready for JSON. Times in s."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WaiterStatus:
    """Somebody in the queue."""

    client: str
    waiting: float


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """One reader: its card, who holds it and who waits.

    Attributes:
        state: names of `CardState` bits, such as ``present powered negotiable``.
        atr: in hex, empty without a card.
        holder: who owns the card at this moment, None when nobody does.
        held: for how long.
    """

    reader: str
    state: str
    atr: str
    protocol: str
    sharing: int
    event_counter: int
    clients: list[str]
    holder: str | None
    held: float
    waiters: list[WaiterStatus]


@dataclass(frozen=True, slots=True)
class ManagerStatus:
    """All of a manager."""

    contexts: int
    readers: list[SlotStatus]
