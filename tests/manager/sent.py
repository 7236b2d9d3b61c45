"""Commands that are sent at once, and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cardferry.manager.card import LocalCard
from cardferry.pcsc.errors import PcscError, ReturnCode
from tests.manager.desk import (
    APDU,
    LEAVE,
    OK,
    T1,
    Client,
    Desk,
    quiet,
)


class Sent:
    """A command that was sent at once, and how that ended."""

    def __init__(self, card: LocalCard, apdu: bytes = APDU) -> None:
        self.endings: list[tuple[bytes, PcscError | None]] = []
        #: Called with the ending, in the moment when it comes.
        self.then: Callable[[], None] = lambda: None
        self._left = False
        self._ended = asyncio.Event()
        self._left = card.transmit_at_once(apdu, T1, self._done)
        assert self._left

    def _done(self, response: bytes, error: PcscError | None) -> None:
        assert self._left, "answered before it was sent"
        self.endings.append((response, error))
        self._ended.set()
        self.then()

    def under_way(self) -> bool:
        """Whether it has not ended."""
        return not self.endings

    async def code(self) -> ReturnCode:
        """How it ended."""
        await self._ended.wait()
        await quiet()
        ((response, error),) = self.endings
        assert response == (b"" if error else OK)
        return error.code if error else ReturnCode.S_SUCCESS


def refused(response: bytes, error: PcscError | None) -> None:
    raise AssertionError(f"an answer to what was not sent: {response!r} {error!r}")


def leaves(card: LocalCard, apdu: bytes = APDU, protocol: int = T1) -> bool:
    """Whether a command would leave now; it must not."""
    return card.transmit_at_once(apdu, protocol, refused)


def owner(desk: Desk) -> object:
    """Whose turn it is."""
    return desk.slot.turns.owner


def nothing_at_once(client: Client) -> bool:
    """Whether the coroutines are the only way now, for everything."""
    card = client.card
    return not (leaves(card) or card.begin_at_once() or card.end_at_once(LEAVE))
