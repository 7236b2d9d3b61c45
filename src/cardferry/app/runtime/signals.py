"""One event loop, one place for signals: a long-running command ends when its main coroutine ends, or is asked to stop.

SIGINT, SIGTERM and SIGHUP cancel the main coroutine, whose ``async with`` blocks then clean up in order, on both
computers. That is a clean stop: the exit code is 0.

A systemd that has started the command hears when it stops, and all the time that its event loop goes round.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

from cardferry.pcsc.errors import UserError
from cardferry.system.limits import keep_memory_private
from cardferry.system.service_manager import ServiceManager, service_manager
from cardferry.system.terminal import in_foreground

log = logging.getLogger(__name__)

Result = TypeVar("Result")

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_FROM_TERMINAL: Final = (signal.SIGINT, signal.SIGQUIT)
_PASSED_ON: Final = (*STOP_SIGNALS, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def run(main: Callable[[], Coroutine[Any, Any, Result]], hang_up: Callable[[], None] | None = None) -> Result | None:
    """Run ``main`` to its end and return its result; None when a signal has stopped it. Nobody dumps the process.

    Args:
        hang_up: what SIGHUP does instead of stopping, where there is no terminal that could be closed: there it asks a
            service to read its configuration again.

    Raises:
        UserError: from ``main``, taken out of the exception groups that task groups make.
    """
    keep_memory_private()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        try:
            return runner.run(_stoppable(main(), None if in_foreground() else hang_up))
        except BaseExceptionGroup as group:
            raise root_cause(group) from None


async def _stoppable(main: Coroutine[Any, Any, Result], hang_up: Callable[[], None] | None = None) -> Result | None:
    loop = asyncio.get_running_loop()
    stopped = False

    def stop(task: asyncio.Task[Result], number: signal.Signals) -> None:
        nonlocal stopped
        log.debug("%s", number.name)
        if not stopped:
            stopped = True
            manager.tell(STOPPING="1")
            task.cancel()

    manager = service_manager()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(main, name="main")
        if manager.watchdog:
            living = tasks.create_task(_tell_life(manager), name="signs of life")
            task.add_done_callback(lambda _: living.cancel())
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, stop, task, number)
        if hang_up is not None:
            loop.add_signal_handler(signal.SIGHUP, hang_up)
    if task.cancelled() and not stopped:
        raise RuntimeError("the command was cancelled, and nobody has stopped it")
    return None if task.cancelled() else task.result()


async def _tell_life(manager: ServiceManager) -> None:
    """Tell systemd's watchdog that the event loop goes round, twice as often as it must be (sd_watchdog_enabled(3))."""
    while True:
        manager.tell(WATCHDOG="1")
        await asyncio.sleep(manager.watchdog / 2)


def root_cause(error: BaseException) -> BaseException:
    """The one exception of a group that a person must read: a `UserError` if there is one, else the only one, else all.

    What is no group is its own cause.
    """
    leaves = _leaves(error)
    for leaf in leaves:
        if isinstance(leaf, UserError):
            return leaf
    return leaves[0] if len(leaves) == 1 else error


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - where it exists
    except ImportError:
        return None
    return uvloop.new_event_loop


@contextmanager
def signals_to_child() -> Iterator[Callable[[int], None]]:
    """Pass signals on to a child instead of stopping, for the block; enter it before there is a child.

    What the terminal sends (Ctrl-C) it sends to the child, too, when both are in its foreground: that is not passed on.
    After the block, signals that would stop do nothing: what is left is to clean up.

    Yields:
        what to call with the child's process id; what was sent before that reaches the child then.
    """
    loop = asyncio.get_running_loop()
    child: int | None = None
    early: list[signal.Signals] = []

    def pass_on(number: signal.Signals) -> None:
        if number in _FROM_TERMINAL and in_foreground():
            return
        if child is None:
            early.append(number)
            return
        with suppress(ProcessLookupError):
            os.kill(child, number)

    def to(pid: int) -> None:
        nonlocal child
        child = pid
        for number in early:
            pass_on(number)

    for number in _PASSED_ON:
        loop.add_signal_handler(number, pass_on, number)
    try:
        yield to
    finally:
        for number in _PASSED_ON:
            if number in STOP_SIGNALS:
                loop.add_signal_handler(number, lambda: None)
            else:
                loop.remove_signal_handler(number)
