"""`Reply`: the answer to a call, which may be there already.

A reply can be awaited, by a task or by another call, and `Reply.then` calls a function with it: in the moment when the
answer comes, or at once when it is there. Either way there is no task and no pass of the event loop in between. So an
answer that has come from a card goes up through all layers, from function to function.

There are three ways to make one:

- whoever gets answers from elsewhere makes a `Reply` and ends it by `Reply.resolve` or `Reply.fail`; `straight` is for
  functions that mostly hand on the reply of somebody else;
- `replying` turns a coroutine function into one that returns a reply. The coroutine begins at once, in its caller's
  stack, and goes on in the stack of whoever ends the reply that it waits for. It may wait for futures as well: then
  the event loop goes on with it.

What a coroutine must know that runs this way: it is in no task, so `asyncio.timeout`, which interrupts the task that it
is in, would interrupt the caller. `within` is for that. And whoever ends a reply must have its own state consistent
before, because the callers run inside of `Reply.resolve`.

Where bugs stop. What a callback raises is logged and goes no further. An exception in a coroutine that is no
`CardferryError` is logged with its traceback, and becomes ``F_INTERNAL_ERROR`` for the one who waits for this reply.

A reply has its error, and an error that was raised has the frames that it went through. A frame that has the reply
closes the circle, and only Python's garbage collector would free what is in it: it stops everybody when somebody makes
many calls that fail. So the frames here forget the reply, and an error that has become a reply forgets its frames.

This is the only module of the room that knows asyncio: replies look like futures to its tasks (`asyncio.isfuture`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from functools import partial, wraps
from typing import Any, Final, Generic, ParamSpec, Self, TypeVar

from cardferry.pcsc.errors import CardferryError, PcscError, ReturnCode

log = logging.getLogger(__name__)

T = TypeVar("T")
P = ParamSpec("P")
Start = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class Reply(Generic[T]):
    """The answer to a call: a value, or a `CardferryError`, or `asyncio.CancelledError` when it was cancelled.

    Attributes:
        error: why the call failed; None when it did not, or the answer is not there yet.
    """

    __slots__ = ("_asyncio_future_blocking", "_callbacks", "_done", "_value", "error")

    _value: T
    error: BaseException | None

    def __init__(self) -> None:
        self._done = False
        self.error = None
        #: None, one callback, or a list of them: hardly any reply has more than one.
        self._callbacks: Any = None
        #: Tasks look for this attribute, and set it (``Task.__step``).
        self._asyncio_future_blocking = False

    # for who waits

    def done(self) -> bool:
        """Whether the answer is there, or the call was cancelled."""
        return self._done

    def result(self) -> T:
        """The value, of a reply that is done; raises the error of a call that failed."""
        if self.error is not None:
            try:
                raise asyncio.CancelledError if self.cancelled() else self.error
            finally:
                del self  # the error knows this frame: the two would keep each other, see the module
        if not self._done:
            raise asyncio.InvalidStateError("the answer is not there yet")
        return self._value

    def then(self, callback: Callable[[Reply[T]], object]) -> Self:
        """Call a function with this reply when it is done, at once if it is.

        Callbacks are called in the order in which they were given; what they raise is logged.

        Returns:
            this reply.
        """
        callbacks = self._callbacks
        if self._done:
            try:
                callback(self)
            except Exception:  # as in `_end`
                log.exception("a bug in %r, which takes an answer", callback)
        elif callbacks is None:
            self._callbacks = callback
        elif callbacks.__class__ is list:
            callbacks.append(callback)
        else:
            self._callbacks = [callbacks, callback]
        return self

    def cancel(self, msg: object = None) -> bool:
        """Nobody is interested any more: who waits gets `asyncio.CancelledError`. False when the reply is done."""
        del msg
        if self._done:
            return False
        self._end(asyncio.CancelledError())
        return True

    def __await__(self) -> Generator[Any, None, T]:
        try:
            if not self._done:
                self._asyncio_future_blocking = True
                yield self
            return self.result()
        finally:
            del self  # as in `result`

    # for who answers

    def resolve(self, value: T) -> None:
        """Here is the answer. The reply must not be done."""
        self._value = value
        self._end(None)

    def fail(self, error: CardferryError) -> None:
        """There is none, and this is why. The reply must not be done."""
        self._end(error)

    def end_as(self, other: Reply[T]) -> None:
        """Here is the answer: the same as that one's, which is done. The reply must not be done."""
        if other.error is None:
            self._value = other._value
        self._end(other.error)

    def _end(self, error: BaseException | None) -> None:
        self._done = True
        self.error = error
        callbacks = self._callbacks
        if callbacks is None:
            return
        self._callbacks = None
        for callback in callbacks if callbacks.__class__ is list else (callbacks,):
            try:
                callback(self)
            except Exception:  # the boundary that the module's docstring describes
                log.exception("a bug in %r, which takes an answer", callback)

    # what tasks, and `asyncio.wait`, ask of a future

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The running loop."""
        return asyncio.get_running_loop()

    def add_done_callback(self, callback: Callable[[Any], object], *, context: Context | None = None) -> None:
        """Call a function with this reply in a later pass of the event loop, as futures do."""
        soon = self.get_loop().call_soon
        self.then(_Later(callback, lambda: soon(callback, self, context=context)))

    def remove_done_callback(self, callback: Callable[[Any], object]) -> int:
        """Take back what `add_done_callback` was given; returns how often it was."""
        before = self._callbacks if isinstance(self._callbacks, list) else [self._callbacks]
        kept = [one for one in before if one is not None and not (isinstance(one, _Later) and one.is_for(callback))]
        self._callbacks = kept or None
        return len([one for one in before if one is not None]) - len(kept)

    @property
    def cancelling(self) -> bool:
        """Whether it was cancelled, and has not come to its end yet."""
        return False

    def cancelled(self) -> bool:
        """Whether the call was cancelled."""
        return isinstance(self.error, asyncio.CancelledError)

    def exception(self) -> BaseException | None:
        """Why the call failed; raises `asyncio.CancelledError` when it was cancelled."""
        if self.cancelled():
            self.result()
        return self.error


class _Later:
    """A callback for a later pass of the event loop."""

    __slots__ = ("_callback", "_schedule")

    def __init__(self, callback: Callable[[Any], object], schedule: Callable[[], object]) -> None:
        self._callback = callback
        self._schedule = schedule

    def is_for(self, callback: Callable[[Any], object]) -> bool:
        return bool(self._callback == callback)

    def __call__(self, reply: Reply[Any]) -> None:
        self._schedule()


class _Running(Reply[T]):
    """The reply of a coroutine, which runs it."""

    __slots__ = ("_cancel_next", "_cancelling", "_coroutine", "_waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._done = False
        self.error = None
        self._callbacks = None
        self._asyncio_future_blocking = False
        self._coroutine = coroutine
        self._waits_for: Any = None
        #: It was cancelled, and has not gone on since; and what it waits for cannot be cancelled.
        self._cancelling = False
        self._cancel_next = False
        self._go_on()

    def cancel(self, msg: object = None) -> bool:
        """Raise `asyncio.CancelledError` where the coroutine waits. It may catch it, as in a task."""
        del msg
        if self._done:
            return False
        self._cancelling = True
        waits_for = self._waits_for
        if waits_for is None or not waits_for.cancel():
            self._cancel_next = True
        return True

    @property
    def cancelling(self) -> bool:
        """Whether it was cancelled, and does not know it yet."""
        return self._cancelling

    def _go_on(self, _: object = None) -> None:
        self._waits_for = None
        self._cancelling = False
        try:
            if self._cancel_next:
                self._cancel_next = False
                waits_for = self._coroutine.throw(asyncio.CancelledError())
            else:
                waits_for = self._coroutine.send(None)
        except StopIteration as end:
            self._value = end.value
            self._end(None)
        except (CardferryError, asyncio.CancelledError) as error:
            self._end(error.with_traceback(None))
        except Exception as error:  # the boundary that the module's docstring describes
            log.exception("a bug in %s", getattr(self._coroutine, "__qualname__", self._coroutine))
            self._end(_internal(error))
        except BaseException as error:
            self._end(error)
            raise
        else:
            self._waits_for = waits_for
            if not self._cancel_next and isinstance(waits_for, Reply) and waits_for._callbacks is None:
                waits_for._callbacks = self._go_on  # as nearly always: what `_wait` does, in short
            else:
                self._wait(waits_for)

    def _wait(self, waits_for: Any) -> None:
        if isinstance(waits_for, Reply):
            waits_for.then(self._go_on)
        elif waits_for is None:  # asyncio.sleep(0)
            asyncio.get_running_loop().call_soon(self._go_on)
            return
        else:
            waits_for._asyncio_future_blocking = False
            waits_for.add_done_callback(self._go_on)
        if self._cancel_next:
            self._cancel_next = False  # a reply goes on with us inside of `cancel`
            self._cancel_next = not waits_for.cancel()


class _InTask(Reply[T]):
    """The reply of a coroutine that runs in a task."""

    __slots__ = ("_task",)

    def __init__(self, start: Start, coroutine: Coroutine[Any, Any, T]) -> None:
        super().__init__()
        self._task = start(self._run(coroutine))
        self._task.add_done_callback(partial(self._gone, coroutine))

    async def _run(self, coroutine: Coroutine[Any, Any, T]) -> None:
        try:
            self._value = await coroutine
        except CardferryError as error:
            self._end(error.with_traceback(None))
        except asyncio.CancelledError:
            self._end(asyncio.CancelledError())
            del self  # the task keeps the error
            raise
        except Exception as error:  # the boundary that the module's docstring describes
            log.exception("a bug in %s", getattr(coroutine, "__qualname__", coroutine))
            self._end(_internal(error))
        else:
            self._end(None)

    def _gone(self, coroutine: Coroutine[Any, Any, T], _: object) -> None:
        if not self._done:  # the task was cancelled before it began
            coroutine.close()
            self._end(asyncio.CancelledError())

    def cancel(self, msg: object = None) -> bool:
        """Cancel the task."""
        return not self._done and self._task.cancel(msg)

    @property
    def cancelling(self) -> bool:
        """Whether the task was cancelled."""
        return self._task.cancelling() > 0


def _internal(error: Exception) -> PcscError:
    failure = PcscError(ReturnCode.F_INTERNAL_ERROR, repr(error))
    failure.__cause__ = error
    return failure


def replying(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Reply[T]]:
    """Make a coroutine function one that returns a `Reply`; see the module for how it runs."""

    @wraps(function)
    def begin(*args: P.args, **kwargs: P.kwargs) -> Reply[T]:
        # Calls with names are rare, and passing an empty dictionary on is not for nothing.
        return _Running(function(*args, **kwargs) if kwargs else function(*args))  # type: ignore[call-arg]

    return begin


def straight(function: Callable[P, Reply[T]]) -> Callable[P, Reply[T]]:
    """For a function that returns a reply itself: what it raises becomes the reply, as with `replying`."""

    @wraps(function)
    def begin(*args: P.args, **kwargs: P.kwargs) -> Reply[T]:
        try:
            return function(*args, **kwargs) if kwargs else function(*args)  # type: ignore[call-arg]
        except CardferryError as error:
            return failed(error)
        except Exception as error:  # the boundary that the module's docstring describes
            log.exception("a bug in %s", function.__qualname__)
            return failed(_internal(error))

    return begin


def running(coroutine: Coroutine[Any, Any, T]) -> Reply[T]:
    """The reply of a coroutine, which begins at once; see `replying`."""
    return _Running(coroutine)


def in_task(start: Start, coroutine: Coroutine[Any, Any, T]) -> Reply[T]:
    """Run a coroutine in a task.

    Args:
        start: makes the task, and owns it: such as the ``create_task`` of a task group.
        coroutine: as for `replying`, but it may do what needs a task.
    """
    return _InTask(start, coroutine)


def answered(value: T) -> Reply[T]:
    """A reply that is there."""
    reply: Reply[T] = Reply()
    reply.resolve(value)
    return reply


def failed(error: CardferryError) -> Reply[Any]:
    """A reply that says why there is none."""
    reply: Reply[Any] = Reply()
    reply.fail(error)
    return reply


#: The reply of a call without a value that is over.
DONE: Final[Reply[None]] = answered(None)


async def within(work: Reply[T] | Coroutine[Any, Any, T], until: float | None) -> T:
    """Await a reply or a coroutine, but not for ever.

    Args:
        work: is cancelled when time is over.
        until: on the event loop's clock, in s; None never.

    Raises:
        TimeoutError: the answer did not come in time.
    """
    if until is None:
        return await work
    reply = work if isinstance(work, Reply) else running(work)
    if reply.done():
        return reply.result()
    timed = _Timed(reply, until)
    try:
        return await timed
    finally:
        timed.timer.cancel()
        del work, reply, timed


class _Timed(Reply[T]):
    """The reply of `within`.

    It is one of its own so that being cancelled and running out of time stay two things, also when both happen before
    who waits goes on: a task that was cancelled at that moment would live on if all it heard of was the time.
    """

    __slots__ = ("_expired", "_reply", "timer")

    def __init__(self, reply: Reply[T], until: float) -> None:
        super().__init__()
        self._reply = reply
        self._expired = False
        self.timer = asyncio.get_running_loop().call_at(until, self._expire)
        reply.then(self._answered)

    def cancel(self, msg: object = None) -> bool:
        self._expired = False
        return not self._done and self._reply.cancel(msg)

    def _expire(self) -> None:
        if not self._reply.cancelling:
            self._expired = True
            self._reply.cancel()

    def _answered(self, reply: Reply[T]) -> None:
        if reply.error is None:
            self._value = reply.result()
        self._end(TimeoutError() if self._expired and reply.cancelled() else reply.error)
