"""A pipe through NATS: each end sends frames (`cardferry.wire.nats`) to a subject that the other one listens at.

NATS has no flow control for it, and drops messages for those who are slow. So not more than `WINDOW` bytes are under
way that the other end has not taken, and bytes that are not the next ones end the pipe: it never skips, never repeats.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from cardferry.pcsc.text import shown
from cardferry.transports.base import HIGH_WATER, PipeUser
from cardferry.wire.errors import WireError
from cardferry.wire.nats import MOST_DATA, VERSION, Kind, encode, parse

#: Bytes that may be under way in one direction.
WINDOW: Final = 256 * 1024
#: So many that were taken are told at once.
_TOLD: Final = WINDOW // 4
#: s until a pipe that was closed is given up, when nothing goes on at the other end.
_CLOSING_TIME: Final = 10.0


class LostError(ConnectionError):
    """The way through NATS has not delivered what was written."""


class NatsPipe:
    """See the module.

    Args:
        name: where it leads, for people.
        send: sends a message to the other end.
        gone: called once, when it is over.
    """

    def __init__(self, name: str, send: Callable[[bytes], None], gone: Callable[[], None] = lambda: None) -> None:
        self.name = name
        self._send = send
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        self._user: PipeUser | None = None
        self._begun = self._paused = self._congested = False
        self._delivering = False
        #: Done when the other end has said that there is a pipe.
        self.opened: asyncio.Future[None] = self._loop.create_future()
        #: To be sent; bytes of it, bytes that were sent, and those that the other end has taken.
        self._waiting: deque[bytes] = deque()
        self._size = self._sent = self._acknowledged = 0
        #: Not delivered yet; bytes that came, that were delivered, and of which the other end knows that.
        self._held: deque[bytes] = deque()
        self._came = self._taken = self._told = 0
        #: We have closed it, and said so; the other end has; and its end.
        self._closed = self._ended = self._over = False
        self._other_ended = False
        self._error: Exception | None = None
        self._timer: asyncio.TimerHandle | None = None

    # for its user

    def start(self, user: PipeUser) -> None:
        """Give the pipe its user."""
        if self._user is not None:
            raise RuntimeError("the pipe has a user already")
        self._user = user
        self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._begun = True
        self._deliver()

    def write(self, data: bytes) -> None:
        """Send bytes."""
        if self._closed or self._other_ended or self._over or not data:
            return
        self._waiting.append(bytes(data))
        self._size += len(data)
        self._pump()

    def pause_reading(self) -> None:
        """Deliver nothing for now."""
        self._paused = True

    def resume_reading(self) -> None:
        """Deliver again."""
        self._paused = False
        if self._begun:
            self._deliver()

    def close(self) -> None:
        """Deliver what was written, then end."""
        if self._closed or self._over:
            return
        self._closed = True
        self._paused = False
        self._held.clear()
        if self._other_ended:
            self._finish(None)
            return
        self._wait()
        self._pump()

    def abort(self) -> None:
        """End now."""
        self.end(None)

    # the other end

    def took(self, message: bytes) -> None:
        """A message came from the other end."""
        if self._over:
            return
        try:
            frame = parse(message)
        except WireError as error:
            self.end(LostError(f"what came is not from cardferry: {error}"))
            return
        match frame.kind:
            case Kind.DATA:
                self._data(frame.number, frame.data)
            case Kind.TAKEN if self._acknowledged <= frame.number <= self._sent:
                self._acknowledged = frame.number
                self._wait()
                self._pump()
            case Kind.OPEN if not self._came:  # our answer was lost
                self._send(encode(Kind.OPENED, VERSION))
            case Kind.OPENED:
                if not self.opened.done():
                    self.opened.set_result(None)
            case Kind.END if frame.number == self._came:
                self._other_ended = True
                self._send(encode(Kind.GONE))
                self._deliver()
            case Kind.GONE:
                self._told_gone(frame.data)
            case _:
                self.end(LostError("messages were lost on the way through NATS"))

    def _data(self, begin: int, data: bytes) -> None:
        if begin != self._came or not data:
            self.end(LostError("messages were lost on the way through NATS"))
            return
        self._came += len(data)
        if self._came - self._taken > WINDOW + MOST_DATA:
            self.end(LostError("the other end sends more than it may"))
            return
        self._held.append(data)
        if self._closed:  # nobody wants it any more, and the other end must not wait for room
            self._taken = self._came
            self._held.clear()
        elif self._begun:
            self._deliver()

    def _told_gone(self, why: bytes) -> None:
        said = shown(why[:200].decode(errors="replace"))
        self._finish(ConnectionResetError(said) if said else None)

    # both

    def end(self, error: Exception | None, *, silent: bool = False) -> None:
        """End now; the user hears why.

        Args:
            silent: say nothing to the other end: it cannot hear.
        """
        if self._over:
            return
        if not silent:
            self._send(encode(Kind.GONE))
        self._finish(error)

    def _finish(self, error: Exception | None) -> None:
        self._over = self._closed = True
        self._error = error
        self._waiting.clear()
        self._held.clear()
        self._size = 0
        if self._timer is not None:
            self._timer.cancel()
        if not self.opened.done():
            self.opened.set_exception(error or ConnectionResetError("it has hung up"))
            self.opened.exception()  # whoever dialled may have given up
        self._gone()
        self._paused = False
        if self._begun:
            self._loop.call_soon(self._deliver)

    def _pump(self) -> None:
        """Send what may be sent, and tell the user how it is."""
        while self._waiting and self._sent - self._acknowledged < WINDOW and not self._over:
            data = self._waiting.popleft()
            if len(data) > MOST_DATA:
                self._waiting.appendleft(data[MOST_DATA:])
                data = data[:MOST_DATA]
            self._send(encode(Kind.DATA, self._sent, data))
            self._sent += len(data)
            self._size -= len(data)
        under_way = self._size + self._sent - self._acknowledged
        if self._closed and not self._waiting and not self._ended and not self._over:
            self._ended = True
            self._send(encode(Kind.END, self._sent))
        if self._user is None or self._closed:
            return
        if under_way > HIGH_WATER and not self._congested:
            self._congested = True
            self._user.congested(True)
        elif under_way <= HIGH_WATER // 2 and self._congested:
            self._congested = False
            self._user.congested(False)

    def _deliver(self) -> None:
        user = self._user
        if user is None or not self._begun or self._delivering:
            return
        self._delivering = True  # a user that pauses and resumes comes back here
        try:
            while self._held and not self._paused:
                data = self._held.popleft()
                self._taken += len(data)
                user.received(data)
        finally:
            self._delivering = False
        if self._taken - self._told >= _TOLD and not self._over:
            self._told = self._taken
            self._send(encode(Kind.TAKEN, self._taken))
        if self._other_ended and not self._held and not self._paused and not self._over:
            self._finish(None)
        elif self._over:
            self._user = _Nobody()
            if user.__class__ is not _Nobody:
                user.lost(self._error)

    def _wait(self) -> None:
        """A pipe that was closed is not waited for any longer than something goes on."""
        if self._timer is not None:
            self._timer.cancel()
        if self._closed and not self._over:
            self._timer = self._loop.call_later(_CLOSING_TIME, self.end, None)


class _Nobody:
    """The user of a pipe that is over."""

    def received(self, data: bytes) -> None: ...
    def congested(self, congested: bool) -> None: ...
    def lost(self, error: Exception | None) -> None: ...
