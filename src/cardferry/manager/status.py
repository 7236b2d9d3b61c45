"""What ``cardferry status`` shows of a resource manager: plain values, ready for JSON. Times in s."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from cardferry.pcsc.card_name import card_name
from cardferry.pcsc.reader_state import ReaderState, Use, User


@dataclass(frozen=True, slots=True)
class WaiterStatus:
    """Somebody in the queue.

    Attributes:
        client: which program, in words.
        principal: on whose behalf, such as ``ssh:build1``.
        place: in the queue, from 1.
        expected: how long it will still wait, if turns last as long as those before; None where that is not known.
    """

    client: str
    principal: str
    waiting: float
    place: int = 0
    expected: float | None = None


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """One reader: its card, who holds it and who waits.

    Attributes:
        state: names of `CardState` bits, such as ``present powered negotiable``.
        atr: in hex, empty without a card.
        clients: the programs that are connected, as far as they are known here: those that are served here.
        holder: which program owns the card at this moment, None when none does.
        principal: on whose behalf it does; empty when none does, or nobody knows.
        held: for how long.
        waiters: by their places in the queue.
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
        use: Use | None,
        now: float,
        clients: Sequence[str] = (),
        applications: Iterable[bytes] = (),
    ) -> Self:
        """What is known of a reader.

        Args:
            use: who uses it, None for nobody.
            now: on the clock that ``use`` is measured on, in s.
            clients: see above.
            applications: identifiers of those of the card that have answered.
        """
        holder, waiting = (None, ()) if use is None else (use.holder, use.waiting)
        return cls(
            reader=state.name,
            state=" ".join(flag.name.lower() for flag in type(state.state) if flag & state.state and flag.name),
            atr=state.atr.hex(),
            protocol=state.protocol.name or "",
            sharing=state.sharing,
            event_counter=state.event_counter,
            clients=list(clients),
            holder=None if holder is None else holder.client,
            principal="" if holder is None else holder.principal,
            held=0.0 if holder is None else _seconds(holder, now),
            waiters=[WaiterStatus(user.client, user.principal, _seconds(user, now)) for user in waiting],
            card=card_name(state.atr, applications),
        )


def _seconds(user: User, now: float) -> float:
    return max(0.0, now - user.since)


@dataclass(frozen=True, slots=True)
class ManagerStatus:
    """All of a manager."""

    contexts: int
    readers: list[SlotStatus]
