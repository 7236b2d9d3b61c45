"""How much is done for one guest between two turns of the event loop.

Everybody's calls go through one loop, so whoever has thousands of calls ready at once would keep all others waiting.
Each guest may do a little in every pass of the loop; what is more waits for the next pass, in order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

#: Steps of one pass.
_MOST: Final = 16
#: When so few are left, all are there again in the next pass: calls that come one by one cost no pass of their own.
_FEW: Final = 8
#: What carrying out a call, or closing a context, counts; anything smaller is one step.
CALL: Final = 4


class Pace:
    """See the module."""

    __slots__ = ("_left", "_loop", "_scheduled", "_waiting")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._left = _MOST
        self._scheduled = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    def may(self, steps: int = 1) -> bool:
        """Whether something may be done in this pass; then it is counted."""
        if self._left <= _FEW and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._next_pass)
        if self._left <= 0 or self._waiting:
            return False
        self._left -= steps
        return True

    async def step(self, steps: int = 1) -> None:
        """Wait for a pass in which something may be done, after those who waited before."""
        if self.may(steps):
            return
        turn = self._loop.create_future()
        self._waiting.append(turn)
        await turn
        self._left -= steps

    def _next_pass(self) -> None:
        self._scheduled = False
        self._left = _MOST
        for _ in range(min(len(self._waiting), _MOST // CALL)):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
        if self._waiting:
            self._scheduled = True
            self._loop.call_soon(self._next_pass)
