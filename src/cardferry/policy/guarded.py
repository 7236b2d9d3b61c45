"""Readers that the rules keep from a principal are not there for it.

`Guarded` wraps the manager of a host. What may be done with a card is decided where its commands have their turn
(`cardferry.policy.guard`); here a reader about which no rule says anything for the principal is not in its list, and
unknown when it is asked for.
"""

from __future__ import annotations

from cardferry.pcsc.applications import Applications
from cardferry.pcsc.caller import Caller, Principal
from cardferry.pcsc.constants import Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.interface import Card, Context, ResourceManager
from cardferry.pcsc.reader_state import Snapshot
from cardferry.policy.guard.cards import Cards
from cardferry.policy.guard.host import HostGuard
from cardferry.policy.guard.identity import Identity
from cardferry.policy.operations import Meaning, reading


class Guarded:
    """A resource manager that hides readers by the rules.

    Args:
        manager: what serves the cards; it publishes a snapshot when the rules have changed, too.
        host: decides.
        cards: in the manager's readers.
    """

    def __init__(self, manager: ResourceManager, host: HostGuard, cards: Cards) -> None:
        self.manager = manager
        self._host = host
        self._cards = cards

    @property
    def snapshot(self) -> Snapshot:
        """All readers as they are known now."""
        return self.manager.snapshot

    async def changed(self, serial: int) -> Snapshot:
        """Wait until the snapshot's serial is another one."""
        return await self.manager.changed(serial)

    def seen_by(self, principal: Principal) -> ResourceManager:
        """The readers that some rule is about for the principal."""
        return _Seen(self, self._host, principal)

    def may_read(self, reader: str, applications: Applications, apdu: bytes) -> bool:
        """Nobody may: only of a principal it can be said."""
        del reader, applications, apdu
        return False

    async def open(self, caller: Caller, patience: float | None = None) -> Context:
        """Open a context."""
        return _GuardedContext(await self.manager.open(caller, patience), self, caller.principal)

    def sees(self, principal: Principal, reader: str) -> bool:
        """Whether a principal may know of a reader."""
        self._host.rulebook.look()
        return self._host.rulebook.sees(principal, self._cards.names(reader))

    def allows(self, principal: Principal, reader: str, what: Meaning) -> bool:
        """Whether a principal may do that now."""
        self._host.rulebook.look()
        return self._host.rulebook.decide(principal, self._cards.names(reader), what).allowed

    def identity(self, reader: str) -> Identity:
        """What the card in a reader has said of itself."""
        return self._cards.identity(reader)

    async def settled(self, reader: str) -> None:
        """Wait until it is known which card is in a reader."""
        await self._cards.settled(self.manager, reader)


class _Seen:
    """What one principal sees."""

    def __init__(self, guarded: Guarded, host: HostGuard, principal: Principal) -> None:
        self._guarded = guarded
        self._host = host
        self._principal = principal
        self._all = Snapshot(serial=-1)
        self._version = -1
        self._sees: dict[str, bool] = {}
        self._snapshot = Snapshot()

    @property
    def snapshot(self) -> Snapshot:
        """The principal's readers as they are known now."""
        self._host.rulebook.look()
        everything, version = self._guarded.manager.snapshot, self._host.version
        if everything is not self._all or version != self._version:
            if version != self._version or everything.reader_events != self._all.reader_events:
                self._sees.clear()
            self._all, self._version = everything, version
            readers = tuple(reader for reader in everything.readers if self._may_see(reader.name))
            if readers != self._snapshot.readers or everything.troubles != self._snapshot.troubles:
                self._snapshot = self._snapshot.followed_by(readers, troubles=everything.troubles)
        return self._snapshot

    def _may_see(self, reader: str) -> bool:
        sees = self._sees.get(reader)
        if sees is None:
            sees = self._sees[reader] = self._guarded.sees(self._principal, reader)
        return sees

    async def changed(self, serial: int) -> Snapshot:
        """Wait until the snapshot's serial is another one."""
        while self.snapshot.serial == serial:
            await self._guarded.changed(self._all.serial)
        return self.snapshot

    def seen_by(self, principal: Principal) -> ResourceManager:
        """What another principal sees."""
        return self._guarded.seen_by(principal)

    def may_read(self, reader: str, applications: Applications, apdu: bytes) -> bool:
        """Whether the rules let the principal read the answer to a command."""
        what = reading(applications, apdu)
        return what is not None and self._guarded.allows(self._principal, reader, what)

    async def open(self, caller: Caller, patience: float | None = None) -> Context:
        """Open a context."""
        return await self._guarded.open(caller, patience)


class _GuardedContext:
    """A context that knows only the readers that the rules name for its principal."""

    __slots__ = ("_context", "_guarded", "_principal")

    def __init__(self, context: Context, guarded: Guarded, principal: Principal) -> None:
        self._context = context
        self._guarded = guarded
        self._principal = principal

    async def connect(self, reader: str, share: ShareMode, protocols: Protocol) -> Card:
        """Connect to a reader, if some rule is about it."""
        await self._guarded.settled(reader)
        if not self._guarded.sees(self._principal, reader):
            raise PcscError(ReturnCode.E_UNKNOWN_READER, reader)
        return await self._context.connect(reader, share, protocols)

    async def close(self) -> None:
        """Free every handle."""
        await self._context.close()
