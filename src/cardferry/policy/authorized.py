"""Readers that somebody else may keep from a program: polkit decides when it connects, as it does at pcscd.

`Authorized` wraps any manager. Whether a program may come in at all is decided where it comes in: at a socket by the
front's ``admit``, of which `Polkit` has the answer as well.
"""

from __future__ import annotations

from collections.abc import Callable

from cardferry.pcsc.applications import Applications
from cardferry.pcsc.caller import Caller, Principal
from cardferry.pcsc.constants import Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.interface import Card, Context, ResourceManager
from cardferry.pcsc.reader_state import Snapshot
from cardferry.policy.polkit import ACCESS_CARD, Polkit, Subject


class Authorized:
    """A resource manager that asks polkit before somebody connects to a reader.

    Args:
        manager: what serves the cards.
        polkit: is asked.
        subject: about which process, for a caller; None when this one is not asked about.
    """

    def __init__(
        self, manager: ResourceManager, polkit: Polkit, subject: Callable[[Caller], Subject | None] = Subject.of
    ) -> None:
        self._manager = manager
        self._polkit = polkit
        self._subject = subject

    @property
    def snapshot(self) -> Snapshot:
        """All readers as they are known now."""
        return self._manager.snapshot

    async def changed(self, serial: int) -> Snapshot:
        """Wait until the snapshot's serial is another one."""
        return await self._manager.changed(serial)

    def seen_by(self, principal: Principal) -> Authorized:
        """What the principal may know of."""
        return Authorized(self._manager.seen_by(principal), self._polkit, self._subject)

    def may_read(self, reader: str, applications: Applications, apdu: bytes) -> bool:
        """Whether the answer to a command may be read; who does that has connected."""
        return self._manager.may_read(reader, applications, apdu)

    async def open(self, caller: Caller, patience: float | None = None) -> Context:
        """Open a context."""
        context = await self._manager.open(caller, patience)
        subject = self._subject(caller) if self._polkit.in_force else None
        return context if subject is None else _AuthorizedContext(context, self._polkit, subject)


class _AuthorizedContext:
    """A context of a program that is asked about."""

    __slots__ = ("_context", "_polkit", "_subject")

    def __init__(self, context: Context, polkit: Polkit, subject: Subject) -> None:
        self._context = context
        self._polkit = polkit
        self._subject = subject

    async def connect(self, reader: str, share: ShareMode, protocols: Protocol) -> Card:
        """Connect to a reader; ``W_SECURITY_VIOLATION``, as from pcscd, when that is denied."""
        if not await self._polkit.may(self._subject, ACCESS_CARD, reader):
            raise PcscError(ReturnCode.W_SECURITY_VIOLATION, "polkit denies it")
        return await self._context.connect(reader, share, protocols)

    async def close(self) -> None:
        """Free every handle."""
        await self._context.close()
