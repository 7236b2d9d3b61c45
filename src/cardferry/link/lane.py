"""The calls of one context of a guest, carried out one after the other, in the order in which they were sent.

A call that waits here behind another one is not at the manager, and the manager cannot say when the caller's
patience ends. So the lane does: a call that a library repeats (transmit, status, reconnect, begin) is refused with
``E_SHARING_VIOLATION`` when it has queued for so long, and is gone: it cannot be carried out later. A call that
is under way is never refused here; its answer is what the manager says.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final
from typing import Protocol as Interface

from cardferry.link import messages as m
from cardferry.link.host_card import HostCard
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.interface import Context, Peer

#: Calls that libpcsclite repeats when it is told ``E_SHARING_VIOLATION`` (``winscard_clnt.c``).
_REPEATED: Final = (m.Transmit, m.Status, m.Reconnect, m.Begin)
#: Calls that give something back. They are carried out even when the context closes; all others may wait for a turn.
_GIVING_BACK: Final = (m.End, m.Disconnect)


class Job:
    """A call on its way through the lane."""

    __slots__ = ("card", "message", "size", "timer")

    def __init__(self, card: HostCard, message: m.Call, size: int) -> None:
        self.card = card
        self.message = message
        self.size = size
        self.timer: asyncio.TimerHandle | None = None


class LaneOwner(Interface):
    """Whom a lane tells what has become of its calls."""

    async def open_context(self, peer: Peer, patience: float | None) -> Context:
        """Open the manager's context."""
        ...

    @property
    def crowded(self) -> bool:
        """Whether answers must wait for `room`."""
        ...

    async def room(self) -> None:
        """Wait until an answer can be sent."""
        ...

    def done(self, job: Job, answer: m.Answer, *, now: bool = False) -> None:
        """A call has been carried out; whether the answer shall leave now, and not wait for company."""
        ...

    def failed(self, job: Job, error: PcscError) -> None:
        """A call has failed, or was refused."""
        ...

    def ran_ahead(self, ahead: m.Ahead) -> None:
        """A command that was foreseen has been carried out, or not."""
        ...


class Lane:
    """One context of a guest.

    Args:
        owner: whom to tell.
        peer, patience: as the guest opened the context.
        start: runs the lane's work in a task that somebody owns.

    Attributes:
        cards: the context's open handles.
        accelerate: whether to run ahead for them.
    """

    def __init__(
        self,
        owner: LaneOwner,
        peer: Peer,
        patience: float | None,
        start: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self.cards: set[HostCard] = set()
        self.accelerate = True
        self._owner = owner
        self._peer = peer
        self._patience = patience
        self._start = start
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Job] = deque()
        #: What is carried out now; and the card with whose promises the lane goes on after the answer.
        self._running: Job | None = None
        self._ahead: HostCard | None = None
        #: What is carried out now needs no worker; and the card whose promises the worker has to keep after it.
        self._at_once = False
        self._promising: HostCard | None = None
        self._worker: asyncio.Task[None] | None = None
        self._wake: asyncio.Future[None] | None = None
        self._context: Context | None = None
        self._closing = False
        #: Whether the call that is running shall end, and only that call.
        self._cancelled = False

    async def context(self) -> Context:
        """The manager's context; it is opened when it is needed first."""
        if self._context is None:
            self._context = await self._owner.open_context(self._peer, self._patience)
        return self._context

    # calls come

    def put(self, job: Job) -> None:
        """Carry out a call, after those before it."""
        if self._busy:
            if self._patience is not None:
                self._limit(job, self._patience)
        elif self._do_at_once(job):
            return
        self._queue.append(job)
        self._go()

    @property
    def _busy(self) -> bool:
        return bool(self._queue or self._running or self._ahead or self._promising)

    def _do_at_once(self, job: Job) -> bool:
        """Carry out a call that can be carried out without waiting; return whether it was."""
        if self._closing or self._worker is None or self._owner.crowded:
            return False
        message = job.message
        if isinstance(message, m.Transmit):
            if not message.call or not job.card.transmit_at_once(message, partial(self._done_at_once, job)):
                return False
            self._running = job
            self._at_once = True
            return True
        if not job.card.begin_or_end_at_once(message):
            return False
        self._owner.done(job, m.Answer(0))
        return True

    def _done_at_once(self, job: Job, answer: m.Answer | None, error: PcscError | None) -> None:
        self._running = None
        self._at_once = False
        if answer is None:
            self._owner.failed(job, error or PcscError(ReturnCode.F_INTERNAL_ERROR))
        else:
            self._owner.done(job, answer, now=True)
            if job.card.promised is not None:
                self._promising = job.card
        if self._queue or self._promising is not None or self._closing:
            self._go()

    def _go(self) -> None:
        if self._at_once and not self._closing:
            return  # what comes after it comes when it is done
        if self._worker is None:
            self._worker = self._start(self._work())
        elif self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _limit(self, job: Job, patience: float) -> None:
        if isinstance(job.message, _REPEATED) and job.message.call:
            job.timer = self._loop.call_later(patience, self._impatient, job, patience)

    def _impatient(self, job: Job, patience: float) -> None:
        running = self._running
        if running is not None and isinstance(running.message, m.Connect):
            self._limit(job, patience)  # a connect may take its time, and so may what waits for it
        elif job in self._queue:
            self._refuse(job, ReturnCode.E_SHARING_VIOLATION)

    def _refuse(self, job: Job, code: ReturnCode) -> None:
        self._queue.remove(job)
        self._stop_timer(job)
        self._owner.failed(job, PcscError(code, "waiting behind another call"))

    @staticmethod
    def _stop_timer(job: Job) -> None:
        if job.timer is not None:
            job.timer.cancel()
            job.timer = None

    def cancel(self, call: int) -> None:
        """Nobody waits for this call any more: it gives up its place, or its waiting."""
        if self._running is not None and self._running.message.call == call:
            self._interrupt()
        for job in self._queue:
            if job.message.call == call:
                self._refuse(job, ReturnCode.E_CANCELLED)
                break

    def _interrupt(self) -> None:
        if self._worker is not None and not self._cancelled and not self._at_once:
            self._cancelled = True
            self._worker.cancel()

    def close(self) -> None:
        """The context closes: what waits ends, what gives something back is still done.

        But not behind a call at once, which cannot be interrupted: the manager takes back what the context has.
        """
        if self._closing:
            return
        self._closing = True
        if self._ahead is not None or (
            self._running is not None and not isinstance(self._running.message, _GIVING_BACK)
        ):
            self._interrupt()
        for job in tuple(self._queue):
            if self._at_once or not isinstance(job.message, _GIVING_BACK):
                self._refuse(job, ReturnCode.E_CANCELLED)
        self._go()

    # calls are carried out

    async def _work(self) -> None:
        while True:
            if self._promising is not None:
                await self._keep_promises(self._promising)
            elif self._queue:
                await self._do(self._queue.popleft())
            elif self._closing:
                break
            else:
                self._wake = self._loop.create_future()
                await self._wake
        if self._context is not None:
            await self._context.close()

    async def _do(self, job: Job) -> None:
        self._stop_timer(job)
        self._running = job
        try:
            if self._owner.crowded:
                await self._owner.room()
            answer = await job.card.perform(job.message)
            self._running = None
            self._owner.done(job, answer)
            await self._run_ahead(job.card)
        except PcscError as error:
            self._owner.failed(job, error)
            if not job.message.call and error.code is ReturnCode.E_SHARING_VIOLATION:
                self._refuse_those_behind(job.card)
        except asyncio.CancelledError:
            self._uncancel()
            if self._running is not None:
                self._owner.failed(job, PcscError(ReturnCode.E_CANCELLED))
        finally:
            self._running = self._ahead = None
            self._cancelled = False

    async def _keep_promises(self, card: HostCard) -> None:
        """Go on after a call that was carried out at once."""
        self._promising = None
        try:
            await self._run_ahead(card)
        except asyncio.CancelledError:
            self._uncancel()
        finally:
            self._ahead = None
            self._cancelled = False

    def _uncancel(self) -> None:
        """A call was interrupted, the worker goes on; raises again when it was the worker that was cancelled."""
        task = asyncio.current_task()
        if not self._cancelled or task is None:
            raise asyncio.CancelledError
        task.uncancel()

    async def _run_ahead(self, card: HostCard) -> None:
        self._ahead = card
        while card.promised is not None and not self._overtaken(card):
            ahead = await card.run_ahead()
            if self._queue:
                ahead = card.promise_nothing(ahead)
            self._owner.ran_ahead(ahead)

    def _overtaken(self, card: HostCard) -> bool:
        """Whether the guest does not count on a promise any more, because it has sent something else."""
        return self._closing or any(job.card is card for job in self._queue)

    def _refuse_those_behind(self, card: HostCard) -> None:
        """The turn did not come in time: neither do the calls that count on it."""
        for job in tuple(self._queue):
            if job.card is card and job.timer is not None:
                self._refuse(job, ReturnCode.E_SHARING_VIOLATION)
