"""The queue alone."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

import pytest

from cardferry.manager.turns import Turns
from cardferry.pcsc.errors import PcscError, ReturnCode
from tests.manager.desk import elapsed, quiet, raises
from tests.manager.turns_queue import Queue, use


async def test_free_card_is_granted_at_once() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks)
        assert await elapsed(queue.enter("a", 0)) == 0
        assert queue.turns.owner == "a"


async def test_first_come_first_served() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks)
        calls = {name: queue.enter(name) for name in "abcd"}
        for name in "abcd":
            await calls[name]
            assert queue.turns.owner == name
            assert not any(call.done for other, call in calls.items() if other > name)
            queue.turns.leave(name)
        assert queue.turns.owner is None


async def test_leaving_what_one_does_not_own_changes_nothing() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks)
        await queue.enter("a")
        queue.turns.leave("b")
        assert queue.turns.owner == "a"


async def test_patience_runs_out_after_just_that_time() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks)
        await queue.enter("a")
        waiting = queue.enter("b", 1.0)
        assert await elapsed(waiting) == pytest.approx(1.0)
        assert waiting.code is ReturnCode.E_SHARING_VIOLATION


async def test_no_patience_no_wait() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks)
        await queue.enter("a")
        waiting = queue.enter("b", 0.0)
        assert await elapsed(waiting) == 0
        assert waiting.code is ReturnCode.E_SHARING_VIOLATION
        assert queue.waiting == ["b"]  # it has a place all the same


async def test_place_is_kept_for_who_comes_back() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks)
        await queue.enter("a")
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await queue.enter("b", 1.0)
        later = queue.enter("c")
        await asyncio.sleep(0.1)  # libpcsclite's own pause
        again = queue.enter("b", 1.0)
        await quiet()
        assert queue.waiting == ["b", "c"]
        queue.turns.leave("a")
        await again
        assert not later.done
        queue.turns.leave("b")
        await later


async def test_place_is_kept_over_many_returns() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks, max_idle=1000)
        await queue.enter("a")
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await queue.enter("b", 1.0)
        queue.enter("c")
        for _ in range(50):
            await asyncio.sleep(0.1)
            with raises(ReturnCode.E_SHARING_VIOLATION):
                await queue.enter("b", 1.0)
        assert queue.waiting == ["b", "c"]
        queue.turns.leave("a")


async def test_place_is_lost_by_who_does_not_come_back() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks)
        await queue.enter("a")
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await queue.enter("b", 0.5)
        queue.enter("c")
        await asyncio.sleep(1.5)
        again = queue.enter("b")
        await quiet()
        assert queue.waiting == ["c", "b"]
        queue.turns.leave("a")
        queue.turns.leave("c")
        await again


async def test_no_card_time_is_lost_to_the_absent() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks)
        await queue.enter("a")
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await queue.enter("b", 0.5)
        third = queue.enter("c")
        await quiet()
        queue.turns.leave("a")
        await third  # at once, although b is before it
        again = queue.enter("b")
        fourth = queue.enter("d")
        await quiet()
        queue.turns.leave("c")
        await again
        assert not fourth.done
        queue.turns.leave("b")
        await fourth


async def test_idle_owner_is_evicted_when_somebody_waits() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks, max_idle=30)
        await queue.enter("a")
        await asyncio.sleep(10)
        waiting = queue.enter("b")
        assert await elapsed(waiting) == pytest.approx(20)
        assert queue.evicted == ["a"]


async def test_idle_owner_keeps_the_card_while_nobody_waits() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks, max_idle=30)
        await queue.enter("a")
        await asyncio.sleep(10_000)
        assert queue.turns.owner == "a"
        waiting = queue.enter("b")
        assert await elapsed(waiting) == pytest.approx(0)  # it was idle long enough
        assert queue.evicted == ["a"]


async def test_owner_is_evicted_for_absent_waiters_too() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks, max_idle=30)
        await queue.enter("a")
        for _ in range(27):
            with raises(ReturnCode.E_SHARING_VIOLATION):
                await queue.enter("b", 1.0)
            await asyncio.sleep(0.1)
        await queue.enter("b", 1.0)
        assert queue.evicted == ["a"]


async def test_nobody_is_evicted_for_those_who_have_gone() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks, max_idle=30)
        await queue.enter("a")
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await queue.enter("b", 1.0)
        await asyncio.sleep(100)
        assert queue.evicted == []


async def test_working_owner_is_not_idle() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks, max_idle=30)
        await queue.enter("a")
        waiting = queue.enter("b")
        queue.turns.busy(True)
        await asyncio.sleep(300)
        assert queue.evicted == []
        queue.turns.busy(False)
        assert await elapsed(waiting) == pytest.approx(30)
        assert queue.evicted == ["a"]


async def test_each_use_starts_the_idle_time_anew() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks, max_idle=30)
        await queue.enter("a")
        waiting = queue.enter("b")
        for _ in range(20):
            await asyncio.sleep(29)
            queue.turns.busy(True)
            queue.turns.busy(False)
        assert queue.evicted == []
        assert await elapsed(waiting) == pytest.approx(30)


async def test_idle_time_of_one_owner_is_not_counted_for_the_next() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks, max_idle=30)
        await queue.enter("a")
        queue.enter("b")
        last = queue.enter("c")
        await asyncio.sleep(29)
        queue.turns.leave("a")
        assert await elapsed(last) == pytest.approx(30)
        assert queue.evicted == ["b"]


async def test_an_owner_that_is_never_idle_loses_the_card_after_max_hold() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks, max_hold=120)
        await queue.enter("hog")
        waiting = queue.enter("b")
        using = tasks.create_task(use(queue, 1000))
        assert await elapsed(waiting) == pytest.approx(120)
        assert queue.evicted == ["hog"]
        assert await using < 122


async def test_the_longest_time_begins_when_others_want_the_card() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks, max_hold=120)
        await queue.enter("a")
        using = tasks.create_task(use(queue, 2000))
        await asyncio.sleep(1000)
        assert queue.evicted == []
        assert await elapsed(queue.enter("b")) == pytest.approx(120)
        await using


async def test_it_goes_on_when_who_waits_changes() -> None:
    """Or else callers that give up one after the other, as connects do, would never get the card."""
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks, max_hold=120)
        await queue.enter("hog")
        using = tasks.create_task(use(queue, 1000))
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await queue.enter("b", 60)
        await asyncio.sleep(10)  # nobody has a place any more
        assert await elapsed(queue.enter("c", 60)) == pytest.approx(50)
        await using


async def test_nobody_loses_the_card_after_max_hold_while_nobody_wants_it() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks, max_hold=120)
        await queue.enter("a")
        assert await use(queue, 1000) > 1000
        assert queue.evicted == []


async def test_a_long_command_is_finished_and_what_belongs_to_it_may_follow() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks, max_idle=30, max_hold=120)
        await queue.enter("makes a key")
        queue.enter("b")
        queue.turns.busy(True)
        await asyncio.sleep(400)
        queue.turns.busy(False)
        assert await use(queue, 1000, command=0.02) == pytest.approx(30, abs=2)
        assert queue.evicted == ["makes a key"]


async def test_commands_without_a_pause_do_not_keep_the_card() -> None:
    """As when they come ahead over a link: there is always one at the card."""
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks, max_idle=30, max_hold=120)
        await queue.enter("hog")
        queue.enter("b")
        assert await use(queue, 10_000, command=0.5, pause=0) == pytest.approx(150, abs=1)
        assert queue.evicted == ["hog"]
        await quiet()


async def test_one_owners_time_is_not_counted_for_the_next() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks, max_hold=120)
        await queue.enter("a")
        queue.enter("b")
        last = queue.enter("c")
        using = tasks.create_task(use(queue, 78))
        await asyncio.sleep(117.5)
        queue.turns.leave("a")
        using_too = tasks.create_task(use(queue, 1000))
        assert await elapsed(last) == pytest.approx(120)
        assert queue.evicted == ["b"]
        await using
        await using_too


async def test_what_the_owner_waited_for_is_not_counted() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks, max_hold=120)
        await queue.enter("a")
        waiting = queue.enter("b")
        queue.turns.busy(True)  # another program at pcscd has the lock
        await asyncio.sleep(1000)
        queue.turns.busy(False)
        queue.turns.begun()
        using = tasks.create_task(use(queue, 1000))
        assert await elapsed(waiting) == pytest.approx(120)
        await using


async def test_outsiders_count_like_a_ticket() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks, max_idle=30, max_hold=120)
        await queue.enter("idle")
        queue.turns.outsiders(True)
        await asyncio.sleep(31)
        assert queue.evicted == ["idle"]
        await queue.enter("next")
        await asyncio.sleep(1000)  # nobody is waiting for this one
        queue.evicted.clear()
        queue.turns.outsiders(True)
        await quiet()
        assert queue.evicted == ["next"]  # it was idle long enough


async def test_evicting_is_left_to_the_callee() -> None:
    spared: list[Hashable] = []
    turns = Turns(30, 120, 1, 1, lambda owner, why: spared.append(owner))
    await turns.enter("a", None)
    for _ in range(3):
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await turns.enter("b", 31)
    assert turns.owner == "a"
    assert len(spared) == 3  # asked anew for each who comes, and no more often than that


async def test_cancelled_waiter_gives_up_its_place() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks)
        await queue.enter("a")
        waiting, next_one = queue.enter("b"), queue.enter("c")
        await quiet()
        waiting.cancel()
        await quiet()
        assert queue.waiting == ["c"]
        queue.turns.leave("a")
        await next_one


async def test_cancelled_waiter_gives_up_a_place_that_was_kept_for_it() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks)
        await queue.enter("a")
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await queue.enter("b", 1.0)
        waiting = queue.enter("b")
        await quiet()
        waiting.cancel()
        await quiet()
        assert queue.waiting == []


async def test_turn_that_meets_a_cancellation_goes_to_the_next() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks)
        await queue.enter("a")
        waiting, next_one = queue.enter("b"), queue.enter("c")
        await quiet()
        queue.turns.leave("a")
        waiting.cancel()  # the turn is b's, but b has not learnt it yet
        await quiet()
        assert next_one.done
        assert queue.turns.owner == "c"


async def test_patience_that_meets_a_cancellation() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks)
        await queue.enter("a")
        waiting = queue.enter("b", 1.0)
        asyncio.get_running_loop().call_later(1.0, waiting.cancel)
        with pytest.raises((PcscError, asyncio.CancelledError)):
            await waiting
        queue.turns.leave("a")
        assert queue.turns.owner is None


async def test_dropped_waiter_is_told() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks)
        await queue.enter("a")
        waiting = queue.enter("b")
        await quiet()
        queue.turns.drop("b")
        with raises(ReturnCode.E_CANCELLED):
            await waiting
        assert queue.waiting == []


async def test_handing_over_does_not_move_the_queue() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks)
        await queue.enter("a")
        waiting = queue.enter("b")
        await quiet()
        assert queue.turns.hand_over("a", "x")
        assert not queue.turns.hand_over("a", "y")
        assert queue.turns.owner == "x"
        assert not waiting.done
        queue.turns.leave("x")
        await waiting


async def test_first_place_for_who_could_not_use_its_turn() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks)
        await queue.enter("a")
        second = queue.enter("b")
        await quiet()
        queue.turns.keep_first("a", queue.turns.wanted_since)
        queue.turns.leave("a")
        await second
        again, third = queue.enter("a"), queue.enter("c")
        await quiet()
        assert queue.waiting == ["a", "c"]
        queue.turns.leave("b")
        await again
        queue.turns.leave("a")
        await third


async def test_nobody_waits_in_two_places() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks)
        await queue.enter("a")
        waiting = queue.enter("b")
        await quiet()
        with pytest.raises(RuntimeError):
            await queue.turns.enter("b", None)
        queue.turns.leave("a")
        await waiting


async def test_timer_that_is_a_little_early_counts() -> None:
    """Event loops round. A timer that is set anew for the same moment could keep the loop busy, for ever if the
    difference is a rounding error."""
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks, max_idle=30)
        await queue.enter("a")
        waiting = queue.enter("b")
        await asyncio.sleep(29.9)
        queue.turns._check()
        assert queue.evicted == []
        await asyncio.sleep(0.099)
        queue.turns._check()
        assert queue.evicted == ["a"]
        await waiting


@pytest.mark.parametrize(("bounds", "evicted_after"), [((30, 10_000), 30), ((5, 10_000), 5), ((60, 20), 20)])
async def test_bounds_that_change_are_the_owners_as_well(bounds: tuple[float, float], evicted_after: float) -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks)
        await queue.enter("a")
        began = loop.time()
        waiting = queue.enter("b")
        await asyncio.sleep(1)
        queue.turns.adjust(*bounds)
        await waiting
        assert loop.time() - began == pytest.approx(evicted_after, abs=0.01)
        assert queue.evicted == ["a"]
