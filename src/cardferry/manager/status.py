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
        expected: how long it will still wait, if turns last as long as those before; None where that is not known, or
            who has the card has had it for longer already.
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
        mean_turn: see `cardferry.manager.counts.Counts.mean_turn`; None where that is not known.
        commands: how many were sent to a card in this reader; None where that is not known.
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
    mean_turn: float | None = None
    commands: int | None = None

    @classmethod
    def of(
        cls,
        state: ReaderState,
        use: Use | None,
        now: float,
        clients: Sequence[str] = (),
        applications: Iterable[bytes] = (),
        *,
        mean_turn: float | None = None,
        commands: int | None = None,
    ) -> Self:
        """What is known of a reader.

        Args:
            use: who uses it, None for nobody.
            now: on the clock that ``use`` is measured on, in s.
            clients: see above.
            applications: identifiers of those of the card that have answered.
            mean_turn, commands: see above.
        """
        holder, waiting = (None, ()) if use is None else (use.holder, use.waiting)
        held = 0.0 if holder is None else _seconds(holder, now)
        waiters = [
            WaiterStatus(user.client, user.principal, _seconds(user, now), place, _expected(place, held, mean_turn))
            for place, user in enumerate(waiting, start=1)
        ]
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
            held=held,
            waiters=waiters,
            card=card_name(state.atr, applications),
            mean_turn=mean_turn,
            commands=commands,
        )


def _expected(place: int, held: float, mean_turn: float | None) -> float | None:
    """The rest of the turn of who has the card now, and the turns of all who come before."""
    return None if mean_turn is None or held > mean_turn else place * mean_turn - held


def _seconds(user: User, now: float) -> float:
    return max(0.0, now - user.since)


@dataclass(frozen=True, slots=True)
class ManagerStatus:
    """All of a manager."""

    contexts: int
    readers: list[SlotStatus]
