"""The calls of one context of a guest, carried out one after the other, in the order in which they were sent.

A call that waits here behind another one is not at the manager, and the manager cannot say when the caller's
patience ends. So the lane does: a call that a library repeats (transmit, status, reconnect, begin) is refused with
``E_SHARING_VIOLATION`` when it has queued for so long, and is gone: it cannot be carried out later. A call that
is under way is never refused here; its answer is what the manager says.

Begin, end and transmit are carried out in the stack of whoever brings them, and the answer leaves in the stack of who
gives it, as `cardferry.pcsc.reply` describes. The other calls get a task.

Where bugs stop. What goes wrong behind a call is ``F_INTERNAL_ERROR`` for that call. What goes wrong here ends the
guest's session, and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import Any, Final, cast
from typing import Protocol as Interface

from cardferry.link import messages as m
from cardferry.link.host_card import Broken, HostCard
from cardferry.link.host_pace import CALL, Pace
from cardferry.link.host_queue import Job, JobQueue
from cardferry.pcsc.caller import Caller
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.interface import Context
from cardferry.pcsc.reply import Reply, Start, in_task, replying

log = logging.getLogger(__name__)

#: Calls that libpcsclite repeats when it is told ``E_SHARING_VIOLATION`` (``winscard_clnt.c``).
_REPEATED: Final = (m.Transmit, m.Status, m.Reconnect, m.Begin)
#: Calls that give something back. They are carried out even when the context closes; all others may wait for a turn.
_GIVING_BACK: Final = (m.End, m.Disconnect)
#: Calls that are refused in one pass of the event loop.
_SOME: Final = 64


class LaneOwner(Interface):
    """Whom a lane tells what has become of its calls.

    Attributes:
        pace: how much may be done for the guest now.
    """

    pace: Pace

    async def open_context(self, caller: Caller, patience: float | None) -> Context:
        """Open the manager's context."""
        ...

    @property
    def full(self) -> bool:
        """Whether answers must wait for `drain`."""
        ...

    @property
    def gone(self) -> bool:
        """Whether the guest is, so that nobody wants to know whether what it has believed was right."""
        ...

    async def drain(self) -> None:
        """Wait until an answer can be sent."""
        ...

    def left(self, cards: Collection[HostCard]) -> None:
        """A context is closed, and nothing of it is left, nor of these handles."""
        ...

    def fault(self) -> None:
        """An error of ours, which was logged: it ends the session."""
        ...

    def done(self, job: Job, result: Any) -> None:
        """A call has been carried out; the result is what `HostCard.perform` says."""
        ...

    def failed(self, job: Job, error: PcscError) -> None:
        """A call has failed, or was refused."""
        ...

    def ran_ahead(self, ahead: m.Ahead) -> None:
        """A command that was foreseen has been carried out, or not."""
        ...

    async def let_pass(self, job: Job, until: float | None) -> None:
        """Wait for what the guest has believed before, through other contexts, but not for ever.

        Raises:
            PcscError: ``E_SHARING_VIOLATION`` when it was still not done then, on the loop's clock.
        """
        ...


class Lane:
    """One context of a guest.

    Args:
        owner: whom to tell.
        caller, patience: as the guest opened the context.
        start: makes a task that somebody owns.

    Attributes:
        cards: the context's open handles.
        closed: handles that were open when the context was closed.
        accelerate: whether to run ahead for them.
    """

    def __init__(self, owner: LaneOwner, caller: Caller, patience: float | None, start: Start) -> None:
        self.cards: set[HostCard] = set()
        self.closed: list[HostCard] = []
        self.accelerate = True
        self._owner = owner
        self._caller = caller
        self._patience = patience
        self._start = start
        self._loop = asyncio.get_running_loop()
        self._queue = JobQueue()
        #: What is carried out now; and the card with whose promises the lane goes on after the answer.
        self._running: Job | None = None
        self._ahead: HostCard | None = None
        #: Whether anything is done, and what of it takes its time.
        self._busy = False
        self._step: Reply[Any] | None = None
        self._context: Context | None = None
        self._closing = False
        #: Whether what is carried out now shall end, and only that.
        self._interrupted = False

    async def context(self) -> Context:
        """The manager's context; it is opened when it is needed first."""
        if self._context is None:
            self._context = await self._owner.open_context(self._caller, self._patience)
        return self._context

    # calls come

    def put(self, job: Job) -> None:
        """Carry out a call, after those before it."""
        if not self._busy:
            self._busy = True
            self._drive(self._perform(job))
            return
        if self._patience is not None:
            self._limit(job, self._patience)
        self._queue.put(job)

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
            log.exception("%s: a bug behind a refusal", self._caller)
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
        if self._step is not None and not self._interrupted:
            self._interrupted = True
            self._step.cancel()

    def close(self) -> None:
        """The context closes: what waits ends, what gives something back is still done, and what was believed."""
        if self._closing:
            return
        self._closing = True
        if self._ahead is not None or (self._running is not None and not self._is_finished(self._running)):
            self._interrupt()
        if not self._busy and self._context is None:
            self._owner.left(self.closed)  # it was never used
        else:
            in_task(self._start, self._finish()).then(self._finished)

    def _finished(self, finishing: Reply[None]) -> None:
        if finishing.error is not None:
            self._owner.fault()

    async def _finish(self) -> None:
        while self._step is not None and not self._step.done():
            await asyncio.wait((cast("asyncio.Future[None]", self._step),))
        try:
            await self._owner.pace.step(CALL)
        finally:
            self.cards.clear()  # they know the lane: without that, only the garbage collector would free both
            try:
                if self._context is not None:
                    await self._context.close()
            finally:
                self._owner.left(self.closed)

    def _too_late(self, job: Job) -> bool:
        """Whether a call that has waited is not carried out any more."""
        return self._closing and not self._is_finished(job)

    def _is_finished(self, job: Job) -> bool:
        """Whether a call is carried out although its context closes."""
        return isinstance(job.message, _GIVING_BACK) or (
            job.card.believes and not job.message.call and not self._owner.gone
        )

    # calls are carried out

    def _drive(self, step: Reply[Any] | None) -> None:
        """Go on from one step to the next until one takes its time, or nothing is left to do."""
        while step is not None:
            if not step.done():
                self._step = step
                step.then(self._stepped)
                return
            step = self._after(step)
        self._step = None
        self._busy = False

    def _stepped(self, step: Reply[Any]) -> None:
        try:
            self._drive(self._after(step))
        except Exception:  # the boundary that the module's docstring describes
            log.exception("%s: a bug behind its calls", self._caller)
            self._owner.fault()

    def _after(self, step: Reply[Any]) -> Reply[Any] | None:
        """A step is over: begin the next one."""
        job, self._running = self._running, None
        self._ahead = None
        self._interrupted = False
        if job is None:  # it ran ahead
            if step.error is not None and not step.cancelled():
                self._owner.fault()  # the guest counts on what was promised
        elif step.error is not None:
            self._failed(job, step)
        else:
            self._owner.done(job, step.result())
            if job.card.promised is not None:
                self._ahead = job.card
                return self._run_ahead(job.card)
        return self._perform(self._queue.take()) if self._queue else None

    def _perform(self, job: Job) -> Reply[Any]:
        self._running = job
        if self._closing or job.behind or self._owner.full or not self._owner.pace.may(CALL):
            return self._perform_later(job)
        return job.card.perform(job.message, self._start)

    @replying
    async def _perform_later(self, job: Job) -> Any:
        """Likewise, in a pass of the event loop in which it may be done, and if it still may be done then."""
        if not self._too_late(job):
            await self._owner.pace.step(CALL)
        if self._too_late(job):
            await self._owner.pace.step(1)
            raise PcscError(ReturnCode.E_CANCELLED, "the context was closed")
        if job.behind:
            await self._let_pass(job)
        if self._owner.full:
            await self._owner.drain()
        return await job.card.perform(job.message, self._start)

    async def _let_pass(self, job: Job) -> None:
        """Outside of a transaction, what other contexts of the guest have believed before comes first."""
        if not job.card.has_card:
            patience = self._patience if isinstance(job.message, _REPEATED) and job.message.call else None
            await self._owner.let_pass(job, None if patience is None else self._loop.time() + patience)

    def _failed(self, job: Job, reply: Reply[Any]) -> None:
        error = PcscError(ReturnCode.E_CANCELLED) if reply.cancelled() else reply.error
        if not isinstance(error, PcscError):
            raise cast("BaseException", error)
        unseen = not job.message.call
        job.card.failed(error)
        if unseen and error.code is ReturnCode.F_INTERNAL_ERROR:
            job.card.broken = Broken(error.code)
        self._owner.failed(job, error)
        if unseen and error.code is ReturnCode.E_SHARING_VIOLATION:
            self._refuse_some(self._queue.impatient(job.card))  # the turn that they count on has not come in time

    @replying
    async def _run_ahead(self, card: HostCard) -> None:
        while card.promised is not None and not self._overtaken(card):
            ahead = await card.run_ahead()
            if self._queue:
                ahead = card.promise_nothing(ahead)
            self._owner.ran_ahead(ahead)

    def _overtaken(self, card: HostCard) -> bool:
        """Whether the guest does not count on a promise any more, because it has sent something else."""
        return self._closing or self._queue.has(card)
