"""What all sessions of a host share: as much of the host as a session needs."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any
from typing import Protocol as Interface

from cardferry.link.facts import About, Known, ReaderFacts
from cardferry.link.host_budget import Budget
from cardferry.link.host_memory import Memories
from cardferry.link.settings import Limits
from cardferry.pcsc.caller import Principal
from cardferry.pcsc.interface import ResourceManager


class SessionHost(Interface):
    """What all sessions of a host share.

    Attributes:
        manager: whose cards are served.
        limits: see `Limits`.
        accelerate: whether to run ahead.
        budget: what may be kept for all guests together.
        memories: what cards have said before, None where that is not remembered.
    """

    manager: ResourceManager
    limits: Limits
    accelerate: bool
    budget: Budget
    memories: Memories | None

    @property
    def use_pause(self) -> float:
        """s between two pieces of news for people; see `cardferry.link.host_readers.use_pause`."""
        ...

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something in a task of the host; it must not raise."""
        ...

    def check_facts(self) -> None:
        """Forget what was known about readers when readers have come or gone."""
        ...

    def facts(self, who: Principal) -> ReaderFacts:
        """What readers always say to a principal."""
        ...

    def knows(self, who: Principal, reader: str) -> bool:
        """Whether the principal has asked for that reader's features."""
        ...

    def learn(self, who: Principal, reader: str, about: About, key: int, known: Known) -> None:
        """A guest has asked a reader for something."""
        ...

    def forget(self, session: bytes) -> None:
        """The session of that identity is over."""
        ...
