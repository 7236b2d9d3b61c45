"""Which cards are in the readers of one manager, as the host itself has found out.

A card is asked when it comes, before any program can connect, in a transaction of the host's own (`HostGuard.itself`).
What was learnt holds until it is taken out. A card that says nothing has its reader's name only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from cardferry.changes import Changes
from cardferry.pcsc.caller import Caller, by_host_itself
from cardferry.pcsc.constants import Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.interface import ResourceManager
from cardferry.pcsc.reply import within
from cardferry.policy.audit import Entry
from cardferry.policy.guard.host import HostGuard
from cardferry.policy.guard.identity import Identity, identify

log = logging.getLogger(__name__)

#: s that a program's connect waits for it at most.
PATIENCE: Final = 5.0
#: How often a card is asked that others reset meanwhile.
_TRIES: Final = 3
_NOTHING: Final = Identity()


class Cards:
    """Knows the cards of one manager.

    Args:
        host: decides who may do what with them.
    """

    def __init__(self, host: HostGuard) -> None:
        self._host = host
        self._known: dict[str, Identity] = {}
        #: Cards that are being asked, by reader; another object for each card that comes.
        self._asking: dict[str, object] = {}
        #: Readers that programs have which are in no queue of ours.
        self._put_off: set[str] = set()
        self._changes = Changes()

    def names(self, reader: str) -> tuple[str, ...]:
        """All that rules may call the card in a reader."""
        return self.identity(reader).names(reader)

    def identity(self, reader: str) -> Identity:
        """What is known of the card in a reader."""
        return self._known.get(reader, _NOTHING)

    def exchanged(self, reader: str) -> None:
        """The card was taken out, or another one is in."""
        known = self._known.pop(reader, None)
        self._asking.pop(reader, None)
        self._put_off.discard(reader)
        self._changes.announce()
        if known is not None and known != _NOTHING:
            self._host.changed()

    @asynccontextmanager
    async def asked(self, manager: ResourceManager) -> AsyncIterator[None]:
        """Ask each card that comes, for the block."""
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(self._watch(manager), name="which cards there are")
            try:
                yield
            finally:
                watching.cancel()

    async def settled(self, manager: ResourceManager, reader: str) -> None:
        """Wait until the card in a reader has been asked, `PATIENCE` s at most."""
        until = asyncio.get_running_loop().time() + PATIENCE
        try:
            await within(self._settled(manager, reader), until)
        except TimeoutError:
            log.info("%s: its card has not said yet which one it is", reader)

    async def _settled(self, manager: ResourceManager, reader: str) -> None:
        while self._host.wants_cards and reader not in self._known and _has_card(manager, reader):
            await self._changes.wait()

    async def _watch(self, manager: ResourceManager) -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                snapshot = manager.snapshot
                for reader in snapshot.readers if self._host.wants_cards else ():
                    if not reader.outsiders:
                        self._put_off.discard(reader.name)
                    if reader.atr and not {reader.name} & (self._known.keys() | self._asking.keys() | self._put_off):
                        self._asking[reader.name] = which = object()
                        tasks.create_task(self._ask(manager, reader.name, which))
                await manager.changed(snapshot.serial)

    async def _ask(self, manager: ResourceManager, reader: str, which: object) -> None:
        found: Identity | None = _NOTHING
        with by_host_itself():
            for _ in range(_TRIES):
                try:
                    found = await identity_in(manager, reader, self._host.itself)
                    break
                except PcscError as error:
                    log.info("%s: its card does not say which one it is: %s", reader, error)
                    if error.code is ReturnCode.E_SHARING_VIOLATION and _has_outsiders(manager, reader):
                        found = None  # a program on this computer has it: once more when it has gone
                    if error.code is not ReturnCode.W_RESET_CARD:
                        break
        if self._asking.get(reader) is not which:
            return  # another one is in by now
        del self._asking[reader]
        if found is None:
            self._put_off.add(reader)
            return
        self._known[reader] = found
        self._changes.announce()
        if found != _NOTHING:
            log.info("%s: the card is %s", reader, found)
            self._host.note(self._host.itself, Entry(time.time(), "learnt", reader=reader, what=str(found)))
            self._host.changed()


async def identity_in(manager: ResourceManager, reader: str, caller: Caller) -> Identity:
    """Which card is in a reader, asked in a transaction of its own.

    Args:
        caller: who asks.

    Raises:
        PcscError: it cannot be asked.
    """
    context = await manager.open(caller)
    try:
        card = await context.connect(reader, ShareMode.SHARED, Protocol.ANY)
        await card.begin()

        async def send(apdu: bytes) -> bytes:
            return await card.transmit(apdu if card.protocol is not Protocol.T0 else _case_3(apdu), card.protocol)

        found = await identify(send)
        await card.end(Disposition.LEAVE)
        return found
    finally:
        await context.close()


def _has_card(manager: ResourceManager, reader: str) -> bool:
    state = manager.snapshot.find(reader)
    return state is not None and bool(state.atr)


def _has_outsiders(manager: ResourceManager, reader: str) -> bool:
    state = manager.snapshot.find(reader)
    return state is not None and state.outsiders


def _case_3(apdu: bytes) -> bytes:
    """In T=0 a command with data has no Le field (ISO 7816-3, 12.2.4)."""
    return apdu[:-1] if len(apdu) > 5 else apdu
