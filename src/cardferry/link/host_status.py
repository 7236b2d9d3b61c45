"""What people are shown of a guest of this host."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HostSessionStatus:
    """What ``cardferry status`` shows of a guest. Times in s."""

    principal: str
    guest: str
    software: str
    connected: bool
    round_trip: float | None
    contexts: int
    handles: int
    waiting: int
    messages_sent: int
    messages_received: int
    bytes_sent: int
    bytes_received: int
    resumes: int
    ahead_hits: int
    ahead_waste: int
    believed: int = 0
    refuted: int = 0
    direct: bool = False
