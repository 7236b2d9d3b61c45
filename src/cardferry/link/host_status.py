"""What people are shown of a guest of this host."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class LinkCount:
    """What the links of one principal have done since the server is there, those that are over as well.

    Attributes:
        links: how many there were.
        resumes: how often one has gone on with another pipe.
        believed, refuted: commands that guests have answered from memory, and those of them that were wrong.
        ahead_hits: answers that were there before the program has asked.
    """

    links: int = 0
    resumes: int = 0
    believed: int = 0
    refuted: int = 0
    ahead_hits: int = 0

    def add(self, status: HostSessionStatus) -> None:
        """Count what a session has done."""
        self.resumes += status.resumes
        self.believed += status.believed
        self.refuted += status.refuted
        self.ahead_hits += status.ahead_hits


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
