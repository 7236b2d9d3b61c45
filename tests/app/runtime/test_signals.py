from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from cardferry.app.runtime import signals as lifetime
from cardferry.app.runtime.signals import STOP_SIGNALS, root_cause, run, signals_to_child
from cardferry.pcsc.errors import UserError


def test_the_result_comes_back() -> None:
    async def main() -> int:
        return 7

    assert run(main) == 7


def test_a_command_that_is_cancelled_by_nobody_has_not_done_what_it_should() -> None:
    async def main() -> None:
        raise asyncio.CancelledError

    with pytest.raises(RuntimeError, match="nobody has stopped it"):
        run(main)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_stops_in_order(number: signal.Signals) -> None:
    done: list[str] = []

    async def main() -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0)
            done.append("cleaned up")

    assert run(main) is None
    assert done == ["cleaned up"]


def test_a_hang_up_reads_the_configuration_again_where_no_terminal_was_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    async def main() -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0.01)
        done.append("goes on")

    monkeypatch.setattr(lifetime, "in_foreground", lambda: False)
    run(main, hang_up=lambda: done.append("read again"))
    assert done == ["read again", "goes on"]
    monkeypatch.setattr(lifetime, "in_foreground", lambda: True)
    run(main, hang_up=lambda: done.append("read again"))
    assert done == ["read again", "goes on"]


def test_systemd_hears_that_it_lives_and_that_it_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Manager:
        watchdog = 0.02

        def tell(self, **what: str) -> None:
            told.extend(what)
            if len(told) == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(lifetime, "service_manager", Manager)
    assert run(main) is None
    assert told[:4] == ["WATCHDOG"] * 3 + ["STOPPING"]


def test_a_second_signal_does_not_disturb_the_cleaning_up() -> None:
    done: list[str] = []

    async def main() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.get_running_loop().create_future()
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0.01)
            done.append("cleaned up")

    assert run(main) is None
    assert done == ["cleaned up"]


def test_an_error_for_people_is_taken_out_of_the_groups_that_tasks_make() -> None:
    wanted = UserError("no", "yes")

    async def fail() -> None:
        raise wanted

    async def main() -> None:
        async with asyncio.TaskGroup() as outer:
            outer.create_task(asyncio.sleep(60))
            async with asyncio.TaskGroup() as inner:
                inner.create_task(fail())

    with pytest.raises(UserError) as raised:
        run(main)
    assert raised.value is wanted


def test_a_user_error_counts_more_than_what_it_caused() -> None:
    wanted = UserError("no", "yes")
    group = BaseExceptionGroup("", [OSError(), ExceptionGroup("", [ValueError(), wanted])])
    assert root_cause(group) is wanted


def test_a_single_bug_is_shown_as_itself_and_several_stay_together() -> None:
    bug = ZeroDivisionError()
    assert root_cause(ExceptionGroup("", [ExceptionGroup("", [bug])])) is bug
    both = ExceptionGroup("", [ZeroDivisionError(), KeyError()])
    assert root_cause(both) is both


@asynccontextmanager
async def waiting_child() -> AsyncIterator[asyncio.subprocess.Process]:
    """A child that any signal ends, and that is there to be ended."""
    script = "import signal; print(flush=True); signal.pause()"
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=subprocess.PIPE)
    assert child.stdout is not None
    await child.stdout.readline()
    try:
        yield child
    finally:
        with suppress(ProcessLookupError):
            child.kill()
        await child.wait()


async def pass_on(number: signal.Signals) -> int:
    async with waiting_child() as child:
        with signals_to_child() as to:
            to(child.pid)
            os.kill(os.getpid(), number)
            return await child.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
async def test_signals_go_to_the_child_and_not_to_us(number: signal.Signals) -> None:
    assert await pass_on(number) == -number


async def test_an_interrupt_from_elsewhere_goes_to_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifetime, "in_foreground", lambda: False)
    assert await pass_on(signal.SIGQUIT) == -signal.SIGQUIT


async def test_what_the_terminal_sends_to_both_is_not_sent_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifetime, "in_foreground", lambda: True)
    async with waiting_child() as child:
        with signals_to_child() as to:
            to(child.pid)
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGUSR1)
            assert await child.wait() == -signal.SIGUSR1


async def test_a_signal_that_comes_before_the_child_reaches_it() -> None:
    async with waiting_child() as child:
        with signals_to_child() as to:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.01)  # the event loop hears of it
            assert child.returncode is None
            to(child.pid)
            assert await child.wait() == -signal.SIGTERM


def test_ctrl_c_while_a_child_starts_does_not_stop_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifetime, "in_foreground", lambda: True)

    async def main() -> int:
        with signals_to_child() as to:
            creating = asyncio.create_subprocess_exec("sh", "-c", "exit 3")
            os.kill(os.getpid(), signal.SIGINT)
            child = await creating
            to(child.pid)
            return await child.wait()

    assert run(main) == 3


def test_a_signal_after_the_child_does_not_disturb_the_cleaning_up() -> None:
    async def main() -> str:
        with signals_to_child():
            pass
        for number in STOP_SIGNALS:
            os.kill(os.getpid(), number)
        await asyncio.sleep(0.01)
        return "cleaned up"

    assert run(main) == "cleaned up"
