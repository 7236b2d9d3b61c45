"""Which readers applications are offered, and which come first.

Older libpcsclite libraries have room for 16 readers. `Offered` wraps any `ResourceManager`, shows the readers whose
names match one of some patterns, in the order of the patterns, and is the same to all programs. Readers that match
the same pattern keep the order in which they came.
"""

from __future__ import annotations

from collections.abc import Sequence

from cardferry.pcsc.applications import Applications
from cardferry.pcsc.caller import Caller, Principal
from cardferry.pcsc.constants import Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.interface import Card, Context, ResourceManager
from cardferry.pcsc.reader_state import ReaderState, Snapshot
from cardferry.pcsc.trouble import no_match
from cardferry.policy.patterns import rank


class Offered:
    """A resource manager that shows some readers of another one, in an order of our choice.

    Args:
        manager: what serves the cards.
        patterns: of the readers' names, see `rank`; the first is the most important.
    """

    def __init__(self, manager: ResourceManager, patterns: Sequence[str]) -> None:
        self._manager = manager
        self._patterns = tuple(patterns)
        self._all = Snapshot(serial=-1)
        self._snapshot = Snapshot()

    @property
    def snapshot(self) -> Snapshot:
        """The offered readers as they are known now."""
        everything = self._manager.snapshot
        if everything is not self._all:
            self._all = everything
            readers, troubles = self._chosen(everything.readers), everything.troubles
            if everything.readers and not readers:
                troubles = (*troubles, no_match(self._patterns, [reader.name for reader in everything.readers]))
            if readers != self._snapshot.readers or troubles != self._snapshot.troubles:
                self._snapshot = self._snapshot.followed_by(readers, troubles=troubles)
        return self._snapshot

    async def changed(self, serial: int) -> Snapshot:
        """Wait until the snapshot's serial is another one."""
        while self.snapshot.serial == serial:
            await self._manager.changed(self._all.serial)
        return self.snapshot

    def seen_by(self, principal: Principal) -> Offered:
        """The offered readers that the principal may know of."""
        return Offered(self._manager.seen_by(principal), self._patterns)

    def may_read(self, reader: str, applications: Applications, apdu: bytes) -> bool:
        """Whether the answer to a command may be read, and the reader is offered."""
        return rank(reader, self._patterns) is not None and self._manager.may_read(reader, applications, apdu)

    async def open(self, caller: Caller, patience: float | None = None) -> Context:
        """Open a context."""
        return _OfferedContext(await self._manager.open(caller, patience), self._patterns)

    def _chosen(self, readers: Sequence[ReaderState]) -> tuple[ReaderState, ...]:
        ranked = [(rank(reader.name, self._patterns), reader) for reader in readers]
        chosen = [(number, reader) for number, reader in ranked if number is not None]
        return tuple(reader for _, reader in sorted(chosen, key=lambda one: one[0]))


class _OfferedContext:
    """A context that knows only the offered readers."""

    __slots__ = ("_context", "_patterns")

    def __init__(self, context: Context, patterns: Sequence[str]) -> None:
        self._context = context
        self._patterns = patterns

    async def connect(self, reader: str, share: ShareMode, protocols: Protocol) -> Card:
        """Connect to a reader, if it is offered."""
        if rank(reader, self._patterns) is None:
            raise PcscError(ReturnCode.E_UNKNOWN_READER, reader)
        return await self._context.connect(reader, share, protocols)

    async def close(self) -> None:
        """Free every handle."""
        await self._context.close()
