"""The calls of one context of a guest, carried out one after the other, in the order in which they were sent.

A call that waits here behind another one is not at the manager, and the manager cannot say when the caller's
patience ends. So the lane does: a call that a library repeats (transmit, status, reconnect, begin) is refused with
``E_SHARING_VIOLATION`` when it has queued for so long, and is gone: it cannot be carried out later. A call that
is under way is never refused here; its answer is what the manager says.

Where bugs stop. An exception from a call that is no `PcscError` is logged with its traceback and becomes
``F_INTERNAL_ERROR`` for that call. One from anywhere else here ends the guest's session, and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final
from typing import Protocol as Interface

from cardferry.link import messages as m
from cardferry.link.host_card import Broken, HostCard
from cardferry.link.pace import CALL
from cardferry.link.queue import Job, JobQueue
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.interface import Context, Peer

log = logging.getLogger(__name__)

#: Calls that libpcsclite repeats when it is told ``E_SHARING_VIOLATION`` (``winscard_clnt.c``).
_REPEATED: Final = (m.Transmit, m.Status, m.Reconnect, m.Begin)
#: Calls that give something back. They are carried out even when the context closes; all others may wait for a turn.
_GIVING_BACK: Final = (m.End, m.Disconnect)
#: Calls that are refused in one pass of the event loop.
_SOME: Final = 64


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

    async def step(self, steps: int) -> None:
        """Wait until as much as that may be done for the guest, see `cardferry.link.pace`."""
        ...

    def left(self) -> None:
        """A context is closed, and nothing of it is left."""
        ...

    def fault(self) -> None:
        """An error of ours, which was logged: it ends the session."""
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
        start: Callable[[Callable[[], Coroutine[Any, Any, None]]], asyncio.Task[None]],
    ) -> None:
        self.cards: set[HostCard] = set()
        self.accelerate = True
        self._owner = owner
        self._peer = peer
        self._patience = patience
        self._start = start
        self._loop = asyncio.get_running_loop()
        self._queue = JobQueue()
        #: What is carried out now; and the card with whose promises the lane goes on after the answer.
        self._running: Job | None = None
        self._ahead: HostCard | None = None
        #: What is carried out now needs no worker; and the card whose promises the worker has to keep after it.
        self._at_once = False
        self._promising: HostCard | None = None
        self._worker: asyncio.Task[None] | None = None
        self._wake: asyncio.Future[None] | None = None
        self._context: Context | None = None
        #: The context closes; and it does so behind a call at once.
        self._closing = self._cut_off = False
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
        self._queue.put(job)
        self._go()

    @property
    def _busy(self) -> bool:
        return bool(self._queue or self._running or self._ahead or self._promising)

    def _do_at_once(self, job: Job) -> bool:
        """Carry out a call that can be carried out without waiting; return whether it was."""
        if self._closing or self._worker is None or self._owner.crowded:
            return False
        message, card = job.message, job.card
        try:
            if isinstance(message, m.Transmit):
                self._at_once = bool(message.call) and card.transmit_at_once(message, partial(self._done_at_once, job))
                if self._at_once:
                    self._running = job
                return self._at_once
            if not card.begin_or_end_at_once(message):
                return False
        except Exception:  # the boundary that the module's docstring describes
            log.exception("%s: a bug behind %s", self._peer.name, type(message).__name__)
            self._owner.failed(job, _bug(job))
        else:
            self._owner.done(job, m.Answer(0))
        return True

    def _done_at_once(self, job: Job, answer: m.Answer | None, error: PcscError | None) -> None:
        """The reader calls this: nothing that is raised here may come back to it."""
        self._running = None
        self._at_once = False
        try:
            if answer is None:
                self._owner.failed(job, error or PcscError(ReturnCode.F_INTERNAL_ERROR))
            else:
                self._owner.done(job, answer, now=True)
                if job.card.promised is not None:
                    self._promising = job.card
        except Exception:  # the boundary that the module's docstring describes
            log.exception("%s: a bug behind an answer", self._peer.name)
            self._owner.fault()
        if self._queue or self._promising is not None or self._closing:
            self._go()

    def _go(self) -> None:
        if self._at_once and not self._closing:
            return  # what comes after it comes when it is done
        if self._worker is None:
            self._worker = self._start(self._work)
        elif self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _limit(self, job: Job, patience: float) -> None:
        if isinstance(job.message, _REPEATED) and job.message.call:
            job.timer = self._loop.call_later(patience, self._impatient, job, patience)

    def _impatient(self, job: Job, patience: float) -> None:
        running = self._running
        if running is not None and isinstance(running.message, m.Connect):
            self._limit(job, patience)  # a connect may take its time, and so may what waits for it
        else:
            self._refuse_some((job,))

    def _refuse_some(self, jobs: tuple[Job, ...]) -> None:
        """Those of them that still wait; a few in each pass of the event loop."""
        try:
            for job in jobs[:_SOME]:
                if job in self._queue:
                    self._refuse(job, ReturnCode.E_SHARING_VIOLATION)
        except Exception:  # the boundary that the module's docstring describes
            log.exception("%s: a bug behind a refusal", self._peer.name)
            self._owner.fault()
        else:
            if len(jobs) > _SOME:
                self._loop.call_soon(self._refuse_some, jobs[_SOME:])

    def _refuse(self, job: Job, code: ReturnCode) -> None:
        self._queue.remove(job)
        self._owner.failed(job, PcscError(code, "waiting behind another call"))

    def cancel(self, job: Job) -> None:
        """Nobody waits for this call any more: it gives up its place, or its waiting."""
        if job is self._running:
            self._interrupt()
        elif job in self._queue:
            self._refuse(job, ReturnCode.E_CANCELLED)

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
        self._cut_off = self._at_once
        if self._worker is None and not self._queue:
            self._owner.left()  # it was never used
        else:
            self._go()

    def _too_late(self, job: Job) -> bool:
        """Whether a call that has waited is not carried out any more."""
        return self._closing and (self._cut_off or not isinstance(job.message, _GIVING_BACK))

    # calls are carried out

    async def _work(self) -> None:
        try:
            await self._carry_out()
        finally:
            self.cards.clear()  # they know the lane: without that, only the garbage collector would free both
            try:
                if self._context is not None:
                    await self._context.close()
            finally:
                self._owner.left()

    async def _carry_out(self) -> None:
        while True:
            if self._promising is not None:
                await self._keep_promises(self._promising)
            elif self._queue:
                await self._do(self._queue.take())
            elif self._closing:
                await self._owner.step(CALL)
                break
            else:
                self._wake = self._loop.create_future()
                await self._wake

    async def _do(self, job: Job) -> None:
        self._running = job
        try:
            if not self._too_late(job):
                await self._owner.step(CALL)
            if self._too_late(job):
                await self._owner.step(1)
                raise PcscError(ReturnCode.E_CANCELLED, "the context was closed")
            if self._owner.crowded:
                await self._owner.room()
            answer = await self._perform(job)
            self._running = None
            self._owner.done(job, answer)
            await self._run_ahead(job.card)
        except PcscError as error:
            self._running = None
            self._owner.failed(job, error)
            if not job.message.call and error.code is ReturnCode.E_SHARING_VIOLATION:
                self._refuse_some(self._queue.impatient(job.card))  # the turn that they count on has not come in time
        except asyncio.CancelledError:
            self._uncancel()
            if self._running is not None:
                self._owner.failed(job, PcscError(ReturnCode.E_CANCELLED))
        finally:
            self._running = self._ahead = None
            self._cancelled = False

    async def _perform(self, job: Job) -> m.Answer:
        try:
            return await job.card.perform(job.message)
        except PcscError:
            raise
        except Exception:  # the boundary that the module's docstring describes
            log.exception("%s: a bug behind %s", self._peer.name, type(job.message).__name__)
            raise _bug(job) from None

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
        return self._closing or self._queue.has(card)


def _bug(job: Job) -> PcscError:
    """How a call ends behind which there was a bug."""
    if not job.message.call:
        job.card.broken = Broken(ReturnCode.F_INTERNAL_ERROR)
    return PcscError(ReturnCode.F_INTERNAL_ERROR, "a bug; the log has it")
