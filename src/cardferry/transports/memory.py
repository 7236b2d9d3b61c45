"""A pipe inside one process: two ends, and what one writes the other receives one pass of the event loop later.

For tests, benches and compositions in which host and guest are the same program.
"""

from __future__ import annotations

import asyncio
from collections import deque

from cardferry.transports.base import HIGH_WATER, PipeUser


class MemoryPipe:
    """One end; `memory_pipe` makes two of them.

    Args:
        name: what this end is called.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._loop = asyncio.get_running_loop()
        self._user: PipeUser | None = None
        self._other: MemoryPipe
        self._arrived: deque[bytes] = deque()
        self._waiting = 0
        self._reading = True
        self._scheduled = False
        self._congested = False
        #: No more will be written into this end; into the other end; and the reason, once the pipe is lost.
        self._closed = self._ended = self._lost = False
        self._error: Exception | None = None

    def start(self, user: PipeUser) -> None:
        """Give the pipe its user."""
        if self._user is not None:
            raise RuntimeError("the pipe has a user already")
        self._user = user
        self._schedule()

    def write(self, data: bytes) -> None:
        """Send bytes."""
        if self._closed or not data:
            return
        other = self._other
        other._arrived.append(bytes(data))
        other._waiting += len(data)
        other._schedule()
        if other._waiting > HIGH_WATER and not self._congested and self._user is not None:
            self._congested = True
            self._user.congested(True)

    def pause_reading(self) -> None:
        """Deliver nothing for now."""
        self._reading = False

    def resume_reading(self) -> None:
        """Deliver again."""
        self._reading = True
        self._schedule()

    def close(self) -> None:
        """Deliver what was written, then end."""
        self._closed = True
        self._end()
        self._other._end()

    def abort(self, error: Exception | None = None) -> None:
        """End now, in both directions; ``error`` is what both users hear."""
        for end in (self, self._other):
            end._arrived.clear()
            end._waiting = 0
            end._closed = True
            end._reading = True
            end._error = error
            end._end()

    def _end(self) -> None:
        self._ended = True
        self._schedule()

    def _schedule(self) -> None:
        if self._user is not None and not self._scheduled and not self._lost:
            self._scheduled = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False
        user, other = self._user, self._other
        if user is None:
            return
        while self._arrived and self._reading and not self._closed:
            data = self._arrived.popleft()
            self._waiting -= len(data)
            user.received(data)
        if other._congested and self._waiting <= HIGH_WATER // 2 and other._user is not None and not other._lost:
            other._congested = False
            other._user.congested(False)
        if self._ended and not self._lost and (self._closed or not self._arrived):
            self._lost = self._closed = True
            user.lost(self._error)


def memory_pipe(name: str = "memory") -> tuple[MemoryPipe, MemoryPipe]:
    """Both ends of a new pipe. Call it in a running event loop."""
    one, two = MemoryPipe(name), MemoryPipe(name)
    one._other, two._other = two, one
    return one, two
