"""Readers of a resource manager at *ports*: places where a user of cards takes one card each, such as vpcd's slots.

Each port gets a reader, and keeps it as long as it is there. While a card is in that reader the port carries it, over a
connection of its own; when it is gone, or is not as its user believes (`LostCardError`), the port hangs up, and its
user sees no card for `ABSENCE` at least.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final

from cardferry.backoff import Backoff
from cardferry.changes import Changes
from cardferry.frontends.lease import Insertion, Lease, LostCardError
from cardferry.pcsc.caller import Caller, Principal, Program
from cardferry.pcsc.constants import CardState
from cardferry.pcsc.interface import ResourceManager
from cardferry.wire.errors import WireError

log = logging.getLogger(__name__)

#: s between two cards in a port: pcscd looks at a virtual reader every 0.4 s, and must see that it is empty.
ABSENCE: Final = 1.0
#: s between attempts to reach a port's user, at first and at most. It may not have been started yet.
_PAUSES: Final = (0.1, 2.0)

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class CardPort(ABC):
    """One place for a card.

    Attributes:
        keep: see `Lease`.
        in_pcscd: whether it is there only while this computer's pcscd runs.
    """

    keep: float | None = None
    in_pcscd = False

    @abstractmethod
    def __str__(self) -> str:
        """What it is, for people."""

    @abstractmethod
    async def dial(self) -> Connection:
        """Connect to its user; raises ``OSError``."""

    @abstractmethod
    async def show(self, lease: Lease, connection: Connection) -> None:
        """Let the user have a card, until it hangs up; when cancelled, or at a `LostCardError`, the card is gone.

        Raises:
            WireError: what the user sends cannot be.
        """

    async def carry(self, lease: Lease) -> None:
        """Dial, as often as it takes, and let the user have a card, until it hangs up or the card is lost."""
        reader, writer = await self._dialled()
        try:
            await self.show(lease, (reader, writer))
        except (LostCardError, WireError, ConnectionError) as error:
            log.info("%s: the card in %s is taken out: %s", self, lease.reader, error)
        finally:
            writer.close()

    async def _dialled(self) -> Connection:
        backoff = Backoff(*_PAUSES)
        while True:
            try:
                return await self.dial()
            except OSError as error:
                pause = backoff.pause()
                level = logging.WARNING if backoff.attempts == 1 else logging.DEBUG
                log.log(level, "%s cannot be reached: %s; it is tried again", self, error.strerror or error)
                await asyncio.sleep(pause)


class CardPorts:
    """Readers at ports.

    Args:
        manager: whose readers.
        principal: on whose behalf the ports' users have them.
        ports: where; the first reader is at the first one.
    """

    def __init__(self, manager: ResourceManager, principal: Principal, ports: Sequence[CardPort]) -> None:
        self._manager = manager.seen_by(principal)
        self._principal = principal
        self._readers: dict[CardPort, str | None] = dict.fromkeys(ports)
        self._without: set[str] = set()
        self._changes = Changes()

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for port in self._readers:
                tasks.create_task(self._serve(port), name=str(port))
            while True:
                snapshot = self._manager.snapshot
                self._assign([reader.name for reader in snapshot.readers])
                self._changes.announce()
                await self._manager.changed(snapshot.serial)

    def _assign(self, names: Sequence[str]) -> None:
        for port, name in self._readers.items():
            if name is not None and name not in names:
                self._readers[port] = None
        self._without &= set(names)
        for name in names:
            if name in self._readers.values():
                continue
            free = next((port for port, reader in self._readers.items() if reader is None), None)
            if free is not None:
                self._readers[free] = name
                log.warning("%s is in %s", name, free)
            elif name not in self._without:
                self._without.add(name)
                log.warning("there is no place for %s: all %d are taken", name, len(self._readers))

    def _card(self, port: CardPort) -> Insertion | None:
        """The card that is at a port."""
        name = self._readers[port]
        reader = None if name is None else self._manager.snapshot.find(name)
        if reader is None or CardState.PRESENT not in reader.state or not reader.atr:
            return None
        return Insertion(reader.name, reader.atr, reader.event_counter)

    async def _serve(self, port: CardPort) -> None:
        while True:
            card = self._card(port)
            if card is None:
                await self._changes.wait()
                continue
            caller = Caller(self._principal, Program(str(port)))
            lease = Lease(self._manager, caller, card, port.keep, self._changes.announce)
            async with lease, asyncio.TaskGroup() as tasks:
                carrying = tasks.create_task(port.carry(lease))
                leaving = tasks.create_task(self._gone(port, card, lease))
                await asyncio.wait((carrying, leaving), return_when=asyncio.FIRST_COMPLETED)
                carrying.cancel()
                leaving.cancel()
            await asyncio.sleep(ABSENCE)

    async def _gone(self, port: CardPort, card: Insertion, lease: Lease) -> None:
        while self._card(port) == card and not lease.over:
            await self._changes.wait()
