"""Readers that the rules keep from a principal are not there for it.

`Guarded` wraps the manager of a host. What may be done with a card is decided where its commands have their turn
(`cardferry.policy.guard`); here a reader about which no rule says anything for the principal is unknown.
"""

from __future__ import annotations

from cardferry.pcsc.caller import Caller, Principal
from cardferry.pcsc.constants import Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.interface import Card, Context, ResourceManager
from cardferry.pcsc.reader_state import Snapshot
from cardferry.policy.rulebook import Rulebook


class Guarded:
    """A resource manager that refuses readers by the rules.

    Args:
        manager: what serves the cards.
        rulebook: the rules in force.
    """

    def __init__(self, manager: ResourceManager, rulebook: Rulebook) -> None:
        self._manager = manager
        self._rulebook = rulebook

    @property
    def snapshot(self) -> Snapshot:
        """All readers as they are known now."""
        return self._manager.snapshot

    async def changed(self, serial: int) -> Snapshot:
        """Wait until the snapshot's serial is another one."""
        return await self._manager.changed(serial)

    async def open(self, caller: Caller, patience: float | None = None) -> Context:
        """Open a context."""
        self._rulebook.look()
        return _GuardedContext(await self._manager.open(caller, patience), caller.principal, self._rulebook)


class _GuardedContext:
    """A context that knows only the readers that the rules name for its principal."""

    __slots__ = ("_context", "_principal", "_rulebook")

    def __init__(self, context: Context, principal: Principal, rulebook: Rulebook) -> None:
        self._context = context
        self._principal = principal
        self._rulebook = rulebook

    async def connect(self, reader: str, share: ShareMode, protocols: Protocol) -> Card:
        """Connect to a reader, if some rule is about it."""
        self._rulebook.look()
        if not self._rulebook.sees(self._principal, reader):
            raise PcscError(ReturnCode.E_UNKNOWN_READER, reader)
        return await self._context.connect(reader, share, protocols)

    async def close(self) -> None:
        """Free every handle."""
        await self._context.close()
