"""Drives a session over one pipe after the other: bytes to the pipe, messages to the owner, timers in between.

A message goes `Channel.send` -> `Session.send` -> `Session.take` -> `Pipe.write` in one call when it is urgent.
Messages that nobody waits for are held for up to `COALESCING`, so that they travel in one piece with the next one.

However much comes in one piece, `SLICE` bytes of it, or one frame, are dealt with in one pass of the event loop: so the
other end cannot stop the loop. The pipe is not read meanwhile.

A pipe can be kept as a spare one while another one is used, and be used again (`Channel.attach`). Both ends read past
what came through it before the session came back to it: the guest's hello, and the host's answer, say where it goes on.

Where bugs stop. What the event loop or a pipe calls here runs the owner's code. An exception from there that is not one
of the documented errors is logged with its traceback and ends this session, and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import Concatenate, Final, ParamSpec
from typing import Protocol as Interface

from cardferry.pcsc.errors import CardferryError
from cardferry.transports.base import Pipe
from cardferry.transports.errors import RevokedError
from cardferry.wire.errors import WireError
from cardferry.wire.link.frames import HelloFinder
from cardferry.wire.link.greeting import Bye, Reason, Role
from cardferry.wire.link.session import Due, Phase, Session, SessionOverflowError

log = logging.getLogger(__name__)

#: s for which a message that nobody waits for is held back, to leave in one piece with the next one.
COALESCING: Final = 0.001
#: Bytes that are dealt with in one pass of the event loop: room for 40 of the smallest messages, 0.2 to 0.4 ms of work.
SLICE: Final = 1024
#: What the other end is told when the session ends by an error of ours.
FAULT: Final = Bye(Reason.CLOSED, "an error at the other end; the log there has it")

Args = ParamSpec("Args")


class ChannelOwner(Interface):
    """Who uses a channel."""

    def connected(self) -> None:
        """A pipe is up, and both ends have agreed where they are."""
        ...

    def disconnected(self, error: Exception | None) -> None:
        """The pipe is gone; the session goes on for a while."""
        ...

    def returned(self, error: Exception | None) -> None:
        """The pipe is gone, for that reason; the session has gone back to the spare one."""
        ...

    def spare_lost(self) -> None:
        """The spare pipe is gone; the session goes on over the one that it uses."""
        ...

    def message(self, payload: bytes) -> None:
        """A message came. May raise `WireError`: then the session is over."""
        ...

    def ended(self, bye: Bye) -> None:
        """The session is over; nothing comes after this."""
        ...


class PipeEnd:
    """One pipe's callbacks; when the channel has gone on to another pipe, nobody listens any more.

    Attributes:
        unread: what has come and waits for the next pass of the event loop.
        loss: why the pipe was lost before all of that was dealt with, None while it is not.
        past: reads past what is of no use, since the pipe is a spare one, and until the other end says hello.
        started: whether the pipe has its user.
    """

    __slots__ = ("channel", "gone", "loss", "past", "pipe", "started", "unread", "unused")

    def __init__(self, channel: Channel, pipe: Pipe) -> None:
        self.channel = channel
        self.pipe = pipe
        self.unread = bytearray()
        self.loss: tuple[Exception | None] | None = None
        self.past: HelloFinder | None = None
        self.started = False
        loop = asyncio.get_running_loop()
        #: Done when the channel does not use the pipe any more; when the pipe is lost.
        self.unused: asyncio.Future[None] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()

    def received(self, data: bytes) -> None:
        """Bytes came."""
        if self.past is not None:
            self.channel.received_on_spare(self, self.past, data)
        elif self.channel.end is self:
            self.channel.received(data)

    def congested(self, congested: bool) -> None:
        """The pipe cannot keep up, or can again."""
        if self.channel.end is self:
            self.channel.congested(congested)

    def lost(self, error: Exception | None) -> None:
        """The pipe is lost."""
        if not self.gone.done():
            self.gone.set_result(None)
        if self.channel.end is self:
            if self.unread:
                self.loss = (error,)  # what the other end said last still counts
            else:
                self.channel.drop(error)
        elif self.channel.spare is self:
            self.channel.drop_spare()

    def release(self) -> None:
        """The channel does not use the pipe any more."""
        if not self.unused.done():
            self.unused.set_result(None)


def guarded(method: Callable[Concatenate[Channel, Args], None]) -> Callable[Concatenate[Channel, Args], None]:
    """For what the event loop or a pipe calls; see the module."""

    @wraps(method)
    def stops(channel: Channel, /, *args: Args.args, **named: Args.kwargs) -> None:
        try:
            method(channel, *args, **named) if named else method(channel, *args)  # type: ignore[call-arg]
        except Exception:  # the boundary that the module's docstring describes
            log.exception("%s: a bug behind its session", channel.name)
            channel.fault()

    return stops


class Channel:
    """One end of a link in the event loop.

    Args:
        session: the machine; nobody else uses it.
        owner: whom to tell.

    Attributes:
        end: the present pipe.
        spare: the one that is kept meanwhile, if there is one.
        messages_sent, messages_received, bytes_sent, bytes_received: since the beginning.
    """

    def __init__(self, session: Session, owner: ChannelOwner) -> None:
        self.session = session
        self.end: PipeEnd | None = None
        self.spare: PipeEnd | None = None
        self.messages_sent = self.messages_received = 0
        self.bytes_sent = self.bytes_received = 0
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._congested = False
        #: When `_tick` runs next. Kept here because not every handle knows it: uvloop gives a plain one for what is due
        #: within half a millisecond.
        self._due = 0.0
        self._timer: asyncio.Handle | None = None
        #: When what waits is sent; and whether that is after `COALESCING`, and not at the end of this pass.
        self._flush_handle: asyncio.Handle | None = None
        self._held_back = False
        self._drained: asyncio.Future[None] | None = None
        self._told_over = False

    @property
    def name(self) -> str:
        """Where the present pipe leads, in words for people."""
        return self.end.pipe.name if self.end is not None else "link"

    @property
    def ended(self) -> bool:
        """Whether the session is over."""
        return self.session.phase is Phase.ENDED

    # pipes

    def attach(self, pipe: Pipe, *, spares: bool = False) -> PipeEnd:
        """Use this pipe, which has no user yet, from now on, and forget the ones before.

        Args:
            spares: keep the one that is in use, or was kept before, as the spare one.
        """
        end = PipeEnd(self, pipe)
        self._use(end, spares=spares)
        if self.end is not end:  # the session has ended over it
            end.release()
            pipe.abort()
            end.lost(None)
        return end

    @guarded
    def _use(self, end: PipeEnd, *, spares: bool = False) -> None:
        if spares:
            self._keep()
        else:
            self._forget_spare()
        self._forget_pipe()
        self.end = end
        self._congested = False
        self.session.attach(self._loop.time(), self._patience(end))
        if not end.started:
            end.started = True
            end.pipe.start(end)
        self._flush()
        self._arm()

    def _patience(self, end: PipeEnd) -> float | None:
        """Where there are two pipes the other end is at both: one through which it does not answer soon is no good."""
        return 2 * self.session.timing.silence if end.started or self.spare is not None else None

    def _keep(self) -> None:
        end = self.end
        if self.spare is not None or end is None or end.loss is not None:
            return
        self.end, self.spare = None, end
        end.past = HelloFinder(self.session.reader)
        unread = bytes(end.unread)
        end.unread.clear()
        if unread:
            self.received_on_spare(end, end.past, unread)
        end.pipe.resume_reading()

    @guarded
    def received_on_spare(self, end: PipeEnd, past: HelloFinder, data: bytes) -> None:
        """Bytes came on a pipe through which the other end has not said hello since it was put aside."""
        try:
            data = past.receive(data)
        except WireError as error:
            log.warning("%s: %s", end.pipe.name, error)
            end.pipe.abort()
            return
        if not data:
            return
        if self.end is not end:
            if self.spare is not end or self.session.role is Role.GUEST:
                end.pipe.abort()  # it is the guest that comes back
                return
            self.spare = None
            self._use(end)
        end.past = None
        self.received(data)

    @guarded
    def drop_spare(self) -> None:
        """The spare pipe is lost."""
        self._forget_spare()
        self._owner.spare_lost()

    def _forget_spare(self) -> None:
        spare, self.spare = self.spare, None
        if spare is not None:
            spare.release()
            spare.pipe.abort()

    def _forget_pipe(self) -> None:
        end, self.end = self.end, None
        if end is not None:
            end.release()
            end.pipe.abort()

    @guarded
    def drop(self, error: Exception | None = None) -> None:
        """The pipe is lost, or of no use: go on without it."""
        if self.end is None:
            return
        if isinstance(error, RevokedError):
            self.close(Bye(Reason.REFUSED, str(error)))
            return
        self._forget_pipe()
        spare = self.spare
        if spare is not None and self.session.role is Role.GUEST:
            self.spare = None
            self._use(spare)
            self._owner.returned(error)
            return
        self.session.detach()
        self._arm()
        if not self.ended:
            self._owner.disconnected(error)

    # messages

    @property
    def full(self) -> bool:
        """Whether to wait for `drain` before anything more is sent."""
        return self.session.full

    async def drain(self) -> None:
        """Wait until the other end has acknowledged enough, or the session is over."""
        while self.session.full and not self.ended:
            if self._drained is None:
                self._drained = self._loop.create_future()
            await asyncio.shield(self._drained)

    def send(self, payload: bytes, *, urgent: bool) -> None:
        """Send a message: now, or together with the next one.

        Raises:
            SessionOverflowError: the other end does not keep up; end the session.
        """
        self.messages_sent += 1
        end = self.end
        if not urgent:
            self.session.send(payload)
            if self._flush_handle is None:
                self._held_back = True
                self._flush_handle = self._loop.call_later(COALESCING, self._flush_later)
        elif end is None or self._congested:
            self.session.send(payload)
        elif data := self.session.send_now(payload):
            self.bytes_sent += len(data)
            end.pipe.write(data)
        else:
            self._flush()

    def post(self, payload: bytes) -> None:
        """Send a message at the end of this pass of the event loop, with all others of this pass."""
        self.messages_sent += 1
        self.session.send(payload)
        if self._held_back and self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        if self._flush_handle is None:
            self._held_back = False
            self._flush_handle = self._loop.call_soon(self._flush_later)

    @guarded
    def _flush_later(self) -> None:
        self._flush()

    def _flush(self) -> None:
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        if self.end is None:
            return
        session, pipe = self.session, self.end.pipe
        while not self._congested and (data := session.take()):
            self.bytes_sent += len(data)
            pipe.write(data)

    # what the pipe tells

    @guarded
    def received(self, data: bytes) -> None:
        """Bytes came."""
        size = len(data)
        self.bytes_received += size
        end = self.end
        if end is None or (not end.unread and (size <= SLICE or size <= self.session.next_size(data))):
            self._deal_with(data)
            return
        begun = bool(end.unread)
        end.unread += data
        end.pipe.pause_reading()
        if not begun:
            self._read_on(end)

    @property
    def unread(self) -> int:
        """Bytes that have come and wait for the next pass of the event loop."""
        return len(self.end.unread) if self.end is not None else 0

    @guarded
    def _read_on(self, end: PipeEnd) -> None:
        if self.end is not end:
            return
        size = max(SLICE, self.session.next_size(end.unread))
        data = bytes(memoryview(end.unread)[:size])
        del end.unread[:size]
        self._deal_with(data)
        if self.end is not end:
            return
        if end.unread:
            self._loop.call_soon(self._read_on, end)
        elif end.loss is not None:
            self.drop(end.loss[0])
        else:
            end.pipe.resume_reading()

    def _deal_with(self, data: bytes) -> None:
        session = self.session
        greeting = session.phase is Phase.GREETING
        try:
            payloads = session.receive(data, self._loop.time())
            if greeting and session.phase is Phase.CONNECTED:
                self._arm()
                self._owner.connected()
            for payload in payloads:
                self.messages_received += 1
                self._owner.message(payload)
                if session.phase is Phase.ENDED:
                    break
        except (WireError, SessionOverflowError) as error:
            self.breach(error)
            return
        if self._drained is not None and not session.full:
            self._wake_drained()
        if session.pending:
            self._flush()
        if session.phase is Phase.ENDED:
            self._finish(session.farewell or Bye(Reason.CLOSED))
        elif (due := session.ack_due) is not None and (self._timer is None or self._due > due):
            self._arm()

    @guarded
    def congested(self, congested: bool) -> None:
        """The pipe cannot keep up, or can again."""
        self._congested = congested
        if not congested:
            self._flush()

    def _wake_drained(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # the end

    def breach(self, error: CardferryError) -> None:
        """The other end broke the rules."""
        if self.ended:
            return
        log.warning("%s: session ended: %s", self.name, error)
        self.session.breach(error)
        self._finish(Bye(Reason.PROTOCOL, str(error)))

    @guarded
    def close(self, bye: Bye) -> None:
        """End the session from this side."""
        if not self.ended:
            self.session.close(bye)
            self._finish(bye)

    def fault(self) -> None:
        """An error of ours, which was logged: it ends the session."""
        try:
            self.session.close(FAULT)
            self._finish(FAULT)
        except Exception:
            log.exception("%s: another bug while its session ends", self.name)

    def _finish(self, bye: Bye) -> None:
        """Say the last words, give everything back, and tell the owner, whatever of that fails."""
        if self._told_over:
            return
        self._told_over = True
        end = self.end
        with ExitStack() as whatever_fails:
            whatever_fails.callback(self._owner.ended, bye)
            whatever_fails.callback(self._wake_drained)
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if end is not None:
                whatever_fails.callback(self._hang_up, end)
            whatever_fails.callback(self._forget_spare)
            self._congested = False
            self._flush()

    def _hang_up(self, end: PipeEnd) -> None:
        self.end = None
        end.release()
        # A pipe that does not get rid of what was written is not waited for.
        self._loop.call_later(self.session.timing.dead, end.pipe.abort)
        end.pipe.close()

    # time

    def _arm(self) -> None:
        """See to it that `_tick` runs in time. A deadline that moves away is noticed when the old one comes."""
        deadline = self.session.deadline
        if deadline is None:
            return
        if self._timer is not None:
            if self._due <= deadline:
                return
            self._timer.cancel()
        self._due = deadline
        self._timer = self._loop.call_at(deadline, self._tick)

    @guarded
    def _tick(self) -> None:
        self._timer = None
        # A loop whose clock counts in ms, or rounds, is early by a little: without the deadline itself nothing would
        # be due yet, and the same timer be set again and again.
        due = self.session.tick(max(self._loop.time(), self._due))
        self._flush()
        if due is Due.ENDED:
            self._finish(Bye(Reason.UNKNOWN_SESSION, "the other end was away for too long"))
        elif due is Due.PIPE_DEAD:
            self.drop(TimeoutError("nothing was heard for too long"))
        if not self.ended:
            self._arm()
