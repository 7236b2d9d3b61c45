"""Which cards members of a pool have, for a pool that is made of equal ones.

Each card is asked once, without a PIN, when it comes: for its number, and whom its certificates are about. One that
cannot be asked now (somebody has it for long) is asked again.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Final

from cardferry.changes import Changes
from cardferry.pcsc.caller import Caller, Principal, PrincipalKind, Program
from cardferry.pcsc.errors import PcscError
from cardferry.pcsc.interface import ResourceManager
from cardferry.pcsc.reader_state import ReaderState
from cardferry.policy.guard.cards import identity_in
from cardferry.policy.guard.identity import Identity
from cardferry.system.peers import user_name

log = logging.getLogger(__name__)

#: s until a card is asked again.
_PAUSE: Final = 2.0
#: Which card it is that was asked: it has come and gone when this is another one.
_Card = tuple[int, bytes]


class KnownCards:
    """See the module.

    Args:
        manager: has the readers.
        meant: whether it matters what is in a reader.
        learnt: called when something new is known.
    """

    def __init__(
        self, manager: ResourceManager, meant: Callable[[ReaderState], bool], learnt: Callable[[], None]
    ) -> None:
        self._manager = manager
        self._meant = meant
        self._learnt = learnt
        self._news = Changes()
        self._asked: dict[str, _Card] = {}
        self._known: dict[str, tuple[_Card, Identity]] = {}
        self._caller = Caller(
            Principal(PrincipalKind.LOCAL_USER, user_name(os.getuid())), Program("cardferry", os.getpid(), os.getuid())
        )

    def find(self, reader: ReaderState) -> Identity | None:
        """Which card is in a reader; None while that is not known."""
        card, identity = self._known.get(reader.name, (None, None))
        return identity if card == _card(reader) else None

    async def settled(self) -> None:
        """Wait until it is known of all cards which ones they are."""
        while any(one.atr and self.find(one) is None for one in filter(self._meant, self._manager.snapshot.readers)):
            await self._news.wait()

    async def run(self) -> None:
        """Ask the cards that come."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                snapshot = self._manager.snapshot
                for reader in filter(self._meant, snapshot.readers):
                    if reader.atr and self._asked.get(reader.name) != _card(reader):
                        self._asked[reader.name] = _card(reader)
                        tasks.create_task(self._ask(reader), name=f"which card is in {reader.name}")
                await self._manager.changed(snapshot.serial)

    async def _ask(self, reader: ReaderState) -> None:
        card = _card(reader)
        while self._asked.get(reader.name) == card:
            now = self._manager.snapshot.find(reader.name)
            if now is None or _card(now) != card:
                self._asked.pop(reader.name)
                self._news.announce()
                return
            try:
                identity = await identity_in(self._manager, reader.name, self._caller)
            except PcscError as error:
                log.debug("%s: its card does not say which one it is: %s", reader.name, error)
                await asyncio.sleep(_PAUSE)
            else:
                self._known[reader.name] = card, identity
                log.info("%s: the card is %s", reader.name, identity)
                self._learnt()
                self._news.announce()
                return


def _card(reader: ReaderState) -> _Card:
    return reader.event_counter, reader.atr
