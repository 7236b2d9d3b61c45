"""How a resource manager is served: with what is noted and offered of it, for the applications of some sockets."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cardferry.app.runtime.logging import TRAFFIC
from cardferry.app.runtime.request import Request, whole_path
from cardferry.frontends.pcsclite import PcscliteFrontend
from cardferry.manager import ExclusivePolicy, LocalManager, Settings
from cardferry.manager.status import SlotStatus
from cardferry.pcsc.caller import Caller
from cardferry.pcsc.constants import MAX_READERNAME
from cardferry.pcsc.interface import ResourceManager
from cardferry.policy.guard import Cards, HostGuard, guards
from cardferry.policy.guarded import Guarded
from cardferry.policy.offered import Offered
from cardferry.policy.patterns import rank
from cardferry.policy.record_file import RecordFile
from cardferry.policy.recorded import CallRecord, Recorded
from cardferry.transports.listening import ListeningSocket
from cardferry.transports.sockets import Access
from cardferry.wire.pcsclite.layout import FIXED_SLOTS

log = logging.getLogger("cardferry.traffic")


@dataclass(frozen=True, slots=True)
class Service:
    """How applications are served.

    Attributes:
        access: who may connect.
        settings: bounds of the resource manager.
        record: a file that gets every call as a line of JSON, secrets left out; None for no such file.
        readers: patterns of the names of those that are offered, the most important first; none offers all.
        slots: readers that libraries up to protocol 4:5 have room for: 16, unless somebody has built them otherwise.
        name_size: bytes of a reader name for libraries of protocol 4:2: 128, or 100 up to pcsc-lite 1.8.3.
        config: the rules that were named, None for those of the account or the computer.
        guard: decides who may do what with the readers of this computer; None where that is for the host to decide.
        memory: whether links remember what cards have said before.
    """

    access: Access = field(default_factory=Access)
    settings: Settings = field(default_factory=Settings)
    record: Path | None = None
    readers: tuple[str, ...] = ()
    slots: int = FIXED_SLOTS
    name_size: int = MAX_READERNAME
    config: Path | None = None
    guard: HostGuard | None = field(default=None, compare=False)
    memory: bool = True

    def request(self, readers: str, grace: float, *, accelerate: bool = True) -> Request:
        """The same for the agent, which has its own way to serve applications.

        Args:
            readers: which readers, as a `HostAddress` is written.
            grace: s that a guest that is out of reach keeps what it holds.
            accelerate: whether to run ahead for guests.
        """
        settings = self.settings
        return Request(
            readers,
            self.readers,
            whole_path(self.record),
            settings.max_idle,
            settings.max_hold,
            settings.exclusive.value,
            grace,
            accelerate,
            0 if self.slots == FIXED_SLOTS else self.slots,
            0 if self.name_size == MAX_READERNAME else self.name_size,
            whole_path(self.config),
            self.memory,
        )

    @classmethod
    def of(cls, request: Request) -> Self:
        """What a request says about serving applications; access is not among it."""
        return cls(
            settings=Settings(request.max_idle, request.max_hold, exclusive=ExclusivePolicy(request.exclusive)),
            record=Path(request.record) if request.record else None,
            readers=request.offered,
            slots=request.slots or FIXED_SLOTS,
            name_size=request.name_size or MAX_READERNAME,
            config=Path(request.config) if request.config else None,
            memory=request.memory,
        )

    def offered(self, readers: Sequence[SlotStatus]) -> list[SlotStatus]:
        """Those of the readers that applications are offered, for ``status``; the most important first."""
        ranked = [(rank(reader.reader, self.readers), reader) for reader in readers]
        chosen = [(number, reader) for number, reader in ranked if number is not None]
        return [reader for _, reader in sorted(chosen, key=lambda one: one[0])]


def offering(manager: ResourceManager, service: Service) -> ResourceManager:
    """The manager as others are to see it: what is noted about its use, and what is offered of it.

    All that stands between a manager and those who use it is put there by this function: whoever serves it in several
    ways, such as to programs and over links, gives all of them what this returns. What decides is around the
    manager already; see `guarding`.
    """
    if log.isEnabledFor(TRAFFIC):
        manager = Recorded(manager, _note)
    if service.record is not None:
        manager = Recorded(manager, RecordFile(service.record).write)
    return Offered(manager, service.readers) if service.readers else manager


@asynccontextmanager
async def guarding(manager: LocalManager, guard: HostGuard | None) -> AsyncIterator[ResourceManager]:
    """The manager with what decides about its use: in front of each reader, and around it. Before anybody uses it."""
    if guard is None:
        yield manager
        return
    cards = Cards(guard)
    manager.guarded_by(guards(guard, cards))
    with guard.telling(manager.tell_again):
        async with cards.asked(manager):
            yield Guarded(manager, guard, cards)


@asynccontextmanager
async def fronts(
    manager: ResourceManager, sockets: Sequence[tuple[ListeningSocket, Caller | None]], service: Service
) -> AsyncIterator[None]:
    """Let applications use a manager for the block.

    Args:
        manager: as `offering` gives it.
        sockets: where, and who all callers are there, where the kernel cannot tell.
    """
    async with AsyncExitStack() as stack:
        for listening, caller in sockets:
            front = PcscliteFrontend(
                manager, listening, slots=service.slots, name_size=service.name_size, caller=caller
            )
            await stack.enter_async_context(front)
        yield


def _note(record: CallRecord) -> None:
    log.log(
        TRAFFIC,
        "[principal=%s program=%r reader=%r] %s%s %s: %s (%.1f ms)",
        record.principal,
        record.program,
        record.reader,
        "by the host: " if record.by_host else "",
        record.call,
        record.what,
        record.outcome or "done",
        record.seconds * 1000,
    )
