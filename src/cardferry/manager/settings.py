"""What an administrator can choose about the resource manager."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class ExclusivePolicy(Enum):
    """What an exclusive connection means to everybody else."""

    #: It is a lease: ``max_idle`` and ``max_hold`` are for its owner, too.
    LEASE = "lease"
    #: It lasts as long as its owner wants, and everybody else is refused at once, as pcscd does.
    HONOUR = "honour"


@dataclass(frozen=True, slots=True)
class Settings:
    """Bounds of the resource manager, all in s and more than 0.

    Attributes:
        max_idle: an owner that does nothing for so long while others wait loses the card, which is reset.
        max_hold: an owner that is not idle loses it all the same when it has had it for so long since others began to
            want it. A command that is at the card then is finished first.
        ticket_life: how long a place in the queue is kept for a caller whose patience ran out and who is expected
            back. libpcsclite comes back after 0.1 s.
        connect_patience: how long a connect waits for its turn. No library repeats a refused connect, so this is
            longer than a caller's patience for other calls (pcscd itself waits for ever).
        stay: how long a principal's programs, and nobody else, can use a card again after one of them has left it with
            a PIN verified that another principal's command would lock.
        linger: how long the reader stays connected after its last handle went, so that the next program
            finds the card powered.
        farewell: how long the end of the manager waits for cards that must still be reset.
        exclusive: see `ExclusivePolicy`.

    Raises:
        ValueError: a bound is not more than 0.
    """

    max_idle: float = 30.0
    max_hold: float = 120.0
    ticket_life: float = 1.0
    connect_patience: float = 60.0
    stay: float = 1.0
    linger: float = 1.0
    farewell: float = 5.0
    exclusive: ExclusivePolicy = ExclusivePolicy.LEASE

    def __post_init__(self) -> None:
        for name in ("max_idle", "max_hold", "ticket_life", "connect_patience", "stay", "linger", "farewell"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is more than 0 s")
