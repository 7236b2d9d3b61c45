from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import uvloop

from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.reply import DONE, Reply, answered, failed, in_task, replying, running, within

REFUSED = PcscError(ReturnCode.E_SHARING_VIOLATION)


async def passes(count: int = 3) -> None:
    """Let the event loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)


def taking(into: list[Any]) -> Callable[[Reply[Any]], None]:
    return lambda reply: into.append(reply.error or reply.result())


# callbacks


def test_a_callback_is_called_when_the_answer_comes_and_at_once_when_it_is_there() -> None:
    reply = Reply[int]()
    seen: list[Any] = []
    assert reply.then(taking(seen)) is reply
    assert not seen
    assert not reply.done()
    reply.resolve(7)
    assert seen == [7]
    reply.then(taking(seen))
    assert seen == [7, 7]


def test_callbacks_are_called_in_the_order_in_which_they_were_given() -> None:
    reply = Reply[int]()
    seen: list[int] = []
    for number in range(4):
        reply.then(lambda _, number=number: seen.append(number))  # type: ignore[misc]
    reply.fail(REFUSED)
    assert seen == [0, 1, 2, 3]
    assert reply.error is REFUSED
    assert reply.exception() is REFUSED


@pytest.mark.parametrize("there", [True, False])
def test_what_a_callback_raises_is_logged_and_goes_no_further(there: bool, caplog: pytest.LogCaptureFixture) -> None:
    def broken(reply: Reply[int]) -> None:
        raise ZeroDivisionError

    seen: list[Any] = []
    reply = Reply[int]()
    if there:
        reply.resolve(1)
    reply.then(broken).then(taking(seen))
    if not there:
        reply.resolve(1)
    assert seen == [1]
    assert "ZeroDivisionError" in caplog.text
    assert "broken" in caplog.text


def test_a_reply_that_is_not_there_has_no_result() -> None:
    with pytest.raises(asyncio.InvalidStateError):
        Reply[int]().result()
    with pytest.raises(PcscError) as caught:
        failed(REFUSED).result()
    assert caught.value is REFUSED
    assert DONE.result() is None
    assert answered(b"x").result() == b"x"


# in tasks


async def test_a_task_awaits_a_reply_as_it_awaits_a_future() -> None:
    reply = Reply[int]()
    async with asyncio.TaskGroup() as tasks:
        first, second = (tasks.create_task(awaiting(reply)) for _ in range(2))
        await passes()
        assert not first.done()
        reply.resolve(3)
    assert (first.result(), second.result()) == (3, 3)
    assert await reply == 3


async def awaiting(reply: Reply[int]) -> int:
    return await reply


async def test_a_task_that_is_cancelled_cancels_the_reply_that_it_awaits() -> None:
    reply = Reply[int]()
    seen: list[Any] = []
    reply.then(taking(seen))
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(awaiting(reply))
        await passes()
        task.cancel()
    assert task.cancelled()
    assert reply.cancelled()
    assert isinstance(seen[0], asyncio.CancelledError)
    assert not reply.cancel()
    with pytest.raises(asyncio.CancelledError):
        reply.exception()


async def test_asyncio_waits_for_replies_and_shields_them() -> None:
    reply, never = Reply[int](), Reply[int]()
    asyncio.get_running_loop().call_soon(reply.resolve, 5)
    done, pending = await asyncio.wait((reply, never), return_when=asyncio.FIRST_COMPLETED)  # type: ignore[type-var]
    assert done == {reply}
    assert pending == {never}
    never.resolve(1)  # nobody is told any more: `wait` has taken its callback back
    shielded = Reply[int]()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(awaiting(asyncio.shield(shielded)))  # type: ignore[arg-type]
        await passes()
        task.cancel()
    assert not shielded.done()


# coroutines


@replying
async def add(*parts: Reply[int]) -> int:
    return sum([await part for part in parts])


def test_a_coroutine_that_waits_for_nothing_is_over_at_once_and_needs_no_event_loop() -> None:
    assert add(answered(1), answered(2)).result() == 3


def test_a_coroutine_goes_on_in_the_stack_of_who_answers() -> None:
    parts = [Reply[int](), Reply[int]()]
    seen: list[Any] = []
    add(add(*parts), answered(10)).then(taking(seen))
    parts[0].resolve(1)
    assert not seen
    parts[1].resolve(2)
    assert seen == [13]


def test_an_error_goes_up_through_all_coroutines() -> None:
    part = Reply[int]()
    total = add(answered(1), add(part))
    part.fail(REFUSED)
    assert total.error is REFUSED


def test_a_bug_in_a_coroutine_is_logged_and_is_an_internal_error_for_who_waits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @replying
    async def broken() -> int:
        return 1 // 0

    total = add(broken())
    assert isinstance(total.error, PcscError)
    assert total.error.code is ReturnCode.F_INTERNAL_ERROR
    assert isinstance(total.error.__cause__, ZeroDivisionError)
    assert "broken" in caplog.text
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1


def test_an_exit_is_no_answer() -> None:
    @replying
    async def leaving() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leaving()


async def test_a_coroutine_waits_for_futures_too_and_for_the_next_pass() -> None:
    future = asyncio.get_running_loop().create_future()

    @replying
    async def waits() -> int:
        await asyncio.sleep(0)
        return int(await future)

    reply = waits()
    await passes()
    assert not reply.done()
    future.set_result(4)
    assert await reply == 4


# cancelling


class Waiter:
    """A coroutine with a place where it waits, and a note of how that ended."""

    def __init__(self, awaitable: Any, *, stubborn: bool = False) -> None:
        self.ended = ""
        self._awaitable = awaitable
        self._stubborn = stubborn

    @replying
    async def wait(self) -> str:
        try:
            await self._awaitable
        except asyncio.CancelledError:
            self.ended = "cancelled"
            if not self._stubborn:
                raise
        else:
            self.ended = "answered"
        return self.ended


@pytest.mark.parametrize("kind", ["reply", "future", "coroutine"])
async def test_a_coroutine_is_cancelled_where_it_waits(kind: str) -> None:
    inner = Waiter(Reply[None]())
    what = {"reply": Reply[None](), "future": asyncio.get_running_loop().create_future(), "coroutine": inner.wait()}
    waiter = Waiter(what[kind])
    reply = waiter.wait()
    assert reply.cancel()
    await passes()
    assert reply.cancelled()
    assert waiter.ended == "cancelled"
    assert (inner.ended == "cancelled") is (kind == "coroutine")


async def test_a_coroutine_may_outlive_being_cancelled() -> None:
    reply = Waiter(Reply[None](), stubborn=True).wait()
    reply.cancel()
    assert reply.result() == "cancelled"


@pytest.mark.parametrize("kind", ["reply", "future", "pass"])
async def test_a_coroutine_that_is_cancelled_while_it_runs_is_cancelled_where_it_waits_next(kind: str) -> None:
    loop = asyncio.get_running_loop()
    what: Any = {"reply": Reply[None](), "future": loop.create_future(), "pass": asyncio.sleep(0)}
    waiter = Waiter(what[kind])
    gate = Reply[None]()

    @replying
    async def run() -> None:
        await gate
        own.cancel()
        await waiter.wait()

    own = run()
    gate.resolve(None)
    await passes()
    assert own.cancelled()
    assert waiter.ended == "cancelled"
    what["pass"].close()


async def test_an_answer_that_came_first_does_not_undo_a_cancellation() -> None:
    future = asyncio.get_running_loop().create_future()
    waiter = Waiter(future)
    reply = waiter.wait()
    future.set_result(None)  # the coroutine hears of it in the next pass
    reply.cancel()
    await passes()
    assert reply.cancelled()
    assert waiter.ended == "cancelled"


# in time


async def test_within_waits_until_then() -> None:
    loop = asyncio.get_running_loop()
    slow = Waiter(Reply[None]())
    with pytest.raises(TimeoutError):
        await within(slow.wait(), loop.time())
    assert slow.ended == "cancelled"
    assert await within(answered(1), loop.time() - 1) == 1
    assert await within(answered(1), None) == 1
    reply = Reply[int]()
    loop.call_soon(reply.resolve, 2)
    assert await within(reply, loop.time() + 60) == 2


async def test_within_passes_on_that_it_was_cancelled() -> None:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(within(Reply[int](), asyncio.get_running_loop().time() + 60))
        await passes()
        task.cancel()
    assert task.cancelled()


async def test_who_was_cancelled_before_his_time_was_over_is_cancelled() -> None:
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    @replying
    async def waiting() -> None:
        await future

    async with asyncio.TaskGroup() as tasks:
        until = loop.time() + 0.01
        task = tasks.create_task(within(waiting(), until))
        await passes()
        while loop.time() < until:
            pass  # both in one pass: the timer is due when the task has been cancelled, and does not know it
        task.cancel()
    assert task.cancelled()


class Lingering:
    """A wait that takes another pass of the event loop to clean up when it is cancelled."""

    @replying
    async def wait(self) -> None:
        try:
            await Reply[None]()
        finally:
            await asyncio.sleep(0)


@pytest.mark.parametrize("wait", [Reply[None], Lingering().wait], ids=["at once", "in a while"])
@pytest.mark.parametrize("driven", ["task", "reply"])
async def test_who_is_cancelled_when_his_time_is_just_over_is_cancelled(
    wait: Callable[[], Reply[None]], driven: str
) -> None:
    loop = asyncio.get_running_loop()
    times: list[str] = []

    async def again_and_again() -> None:
        while len(times) < 5:
            try:
                await within(wait(), loop.time() + 0.001)
            except TimeoutError:
                times.append("over")

    async with asyncio.TaskGroup() as tasks:
        if driven == "task":
            work: Any = tasks.create_task(again_and_again())
            await passes(1)
        else:
            work = running(again_and_again())
        until = loop.time() + 0.001
        loop.call_at(until, work.cancel)
        while loop.time() < until:
            pass  # both are due in one pass, the end of the time first
        await asyncio.wait([work], timeout=10)
        assert work.cancelled()
        assert len(times) <= 1


async def test_a_task_that_is_cancelled_before_it_begins_ends_its_reply() -> None:
    async def never() -> None:
        raise AssertionError

    async with asyncio.TaskGroup() as tasks:
        reply = in_task(tasks.create_task, never())
        assert reply.cancel()
        assert reply.cancelling
    assert reply.cancelled()


async def test_a_task_ends_its_reply() -> None:
    async def ends(outcome: BaseException | int) -> int:
        await asyncio.sleep(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async with asyncio.TaskGroup() as tasks:
        replies = [in_task(tasks.create_task, ends(outcome)) for outcome in (1, REFUSED, ZeroDivisionError())]
    assert replies[0].result() == 1
    assert replies[1].error is REFUSED
    assert isinstance(replies[2].error, PcscError)
    assert replies[2].error.code is ReturnCode.F_INTERNAL_ERROR


# what errors leave behind


async def _refused_later() -> int:
    reply = Reply[int]()
    asyncio.get_running_loop().call_soon(reply.fail, PcscError(ReturnCode.E_SHARING_VIOLATION))
    held = [reply]
    del reply
    return await held.pop()


async def _refused() -> int:
    raise PcscError(ReturnCode.E_SHARING_VIOLATION)


async def _within() -> int:
    return await within(_refused_later(), asyncio.get_running_loop().time() + 10)


async def _too_late() -> int:
    return await within(Reply[int](), asyncio.get_running_loop().time() + 0.001)


async def _for_ever() -> int:
    return int(await asyncio.get_running_loop().create_future())


def _in_task(work: Callable[[], Any]) -> Reply[Any]:
    return in_task(asyncio.get_running_loop().create_task, work())


async def _cancelled() -> int:
    held = [_in_task(_for_ever)]
    await passes()
    held[0].cancel()
    return int(await held.pop())


@pytest.mark.parametrize(
    "call",
    [
        _refused_later,
        lambda: running(_refused()),
        lambda: running(_refused_later()),
        lambda: running(_within()),
        lambda: _in_task(_refused),
        lambda: _in_task(_refused_later),
        _within,
        _too_late,
        _cancelled,
    ],
)
def test_a_call_that_fails_leaves_nothing_to_the_garbage_collector(call: Callable[[], Any]) -> None:
    """Thousands of them would make it stop everybody. On uvloop: the loop of asyncio itself leaves its handles."""

    async def look() -> None:
        gc.disable()
        try:
            for _ in range(2):
                gc.collect()
                with suppress(PcscError, TimeoutError, asyncio.CancelledError):
                    await call()
                await passes()
            assert gc.collect() == 0
        finally:
            gc.enable()

    uvloop.run(look())
