"""What pipes over asyncio's transports share: the user comes later than the first bytes, and hears of the end once.

asyncio up to Python 3.11.3 begins to read a new socket although reading has been paused before (its first look at the
socket is a callback that does not ask). So what comes while nobody wants it is held, and reading is paused anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cardferry.transports.base import PipeUser


class Delivery:
    """Stands between a transport's callbacks and the pipe's user.

    Args:
        pause: stops reading from the transport; may be called twice.
        resume: reads again; likewise.
    """

    __slots__ = ("_begun", "_held", "_lost", "_pause", "_paused", "_resume", "_user")

    def __init__(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self._pause = pause
        self._resume = resume
        self._user: PipeUser | None = None
        self._begun = self._paused = False
        #: What was read while nobody wanted it: one piece, because nothing more is read then.
        self._held = b""
        self._lost: tuple[Exception | None] | None = None

    def start(self, user: PipeUser) -> None:
        """Name the user, who hears of everything from the next pass of the event loop on."""
        if self._user is not None:
            raise RuntimeError("the pipe has a user already")
        self._user = user
        asyncio.get_running_loop().call_soon(self._begin, user)

    def _begin(self, user: PipeUser) -> None:
        self._begun = True
        if self._lost is not None:
            self._tell_lost(user)
        elif not self._paused:
            self._go_on(user)

    def _go_on(self, user: PipeUser) -> None:
        held, self._held = self._held, b""
        if held:
            user.received(held)
        if not self._paused:
            self._resume()

    def _tell_lost(self, user: PipeUser) -> None:
        held, self._held = self._held, b""
        if held:
            user.received(held)
        if self._lost is not None:
            user.lost(self._lost[0])

    def pause(self) -> None:
        """The user wants nothing for now."""
        self._paused = True
        self._pause()

    def resume(self) -> None:
        """The user wants more."""
        self._paused = False
        if self._begun and self._user is not None and self._lost is None:
            self._go_on(self._user)

    def received(self, data: bytes) -> None:
        """The transport has read something."""
        if self._begun and self._user is not None and not self._paused:
            self._user.received(data)
        else:
            self._held += data
            self._resume()  # a transport that believes itself paused would not pause again
            self._pause()

    def congested(self, congested: bool) -> None:
        """The transport cannot keep up, or can again."""
        if self._user is not None:
            self._user.congested(congested)

    def lost(self, error: Exception | None) -> None:
        """The transport is gone."""
        self._lost = (error,)
        if self._begun and self._user is not None:
            self._tell_lost(self._user)
