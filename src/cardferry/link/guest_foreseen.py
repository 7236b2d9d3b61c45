"""The guest's side of running ahead: responses that have come before the program asked for them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from cardferry.link.messages import REVOKED, Ahead
from cardferry.pcsc.errors import PcscError
from cardferry.pcsc.reply import Reply


@dataclass(frozen=True, slots=True)
class _Ready:
    command: bytes
    code: int
    data: bytes


class Foreseen:
    """What one card handle has got ahead.

    Attributes:
        origin: the transmit that the responses follow, 0 when there are none.
        used: how many were used since.
        hits: responses that were used.
        waste: responses that came and were dropped.
    """

    __slots__ = ("_promised", "_protocol", "_ready", "_waiter", "hits", "origin", "used", "waste")

    def __init__(self) -> None:
        self.hits = self.waste = 0
        self.origin = self.used = 0
        self._protocol = 0
        self._ready: deque[_Ready] = deque()
        #: The command that the host is about to carry out, or already has.
        self._promised: bytes | None = None
        self._waiter: Reply[None] | None = None

    def promised(self, origin: int, protocol: int, command: bytes | None) -> None:
        """The answer to transmit ``origin`` says that the host goes on with this command."""
        self.drop()
        if command is not None:
            self.origin, self._protocol, self._promised = origin, protocol, command

    def came(self, ahead: Ahead) -> None:
        """The host has carried out what it promised, or says that it will not."""
        if ahead.origin != self.origin or self._promised is None:
            self.waste += ahead.code != REVOKED
            return
        if ahead.code != REVOKED:
            self._ready.append(_Ready(self._promised, ahead.code, ahead.data))
        self._promised = ahead.foreseen
        self._wake()

    async def take(self, command: bytes, protocol: int) -> bytes | None:
        """The response to this command if the host has run ahead with it; None when the host must be asked.

        Raises:
            PcscError: that is how the command ended when the host carried it out.
        """
        if not self.origin:
            return None
        if not self._ready and command == self._promised and protocol == self._protocol:
            await self._next()
        if not self._ready or self._ready[0].command != command or self._protocol != protocol:
            return None
        ready = self._ready.popleft()
        self.used += 1
        self.hits += 1
        if ready.code:
            raise PcscError(ready.code, "while the host ran ahead")
        return ready.data

    async def _next(self) -> None:
        while self._promised is not None and not self._ready:
            self._waiter = Reply()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.resolve(None)

    def drop(self) -> None:
        """Something else is done with the handle: whatever has come, or comes yet, is of no use."""
        self.waste += len(self._ready)
        self._ready.clear()
        self.origin = self.used = 0
        self._promised = None
        self._wake()
