"""The queue alone: a card that is kept for those of one kind, such as a principal's."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from cardferry.manager.turns import Kind
from cardferry.pcsc.errors import ReturnCode
from tests.manager.desk import elapsed, quiet, raises
from tests.manager.turns_queue import Queue, use


def of(letter: str) -> Kind:
    """Whether a caller's name begins with that."""
    return lambda caller: str(caller).startswith(letter)


async def test_a_card_is_kept_for_those_of_a_kind() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks, stay=1.0)
        await queue.turns.enter("a1", None)
        b, a2 = queue.enter("b"), queue.enter("a2")
        await quiet()
        queue.turns.leave("a1", of("a"))
        await a2
        assert queue.turns.owner == "a2"
        queue.turns.leave("a2", of("a"))
        assert queue.whose() == (None, "a2")
        assert queue.turns.take_free("a1"), "also who comes only now"
        queue.turns.leave("a1", of("a"))
        assert await elapsed(b) == pytest.approx(1.0)
        assert queue.whose() == ("b", None)


async def test_a_card_that_is_kept_is_not_free_for_others() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks, stay=1.0)
        await queue.turns.enter("a", None)
        queue.turns.leave("a", of("a"))
        assert not queue.turns.take_free("b")
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await queue.turns.enter("b", 0.5)
        assert queue.turns.take_free("a")
        queue.turns.leave("a")
        assert queue.turns.take_free("b")


async def test_it_is_kept_no_more_when_none_of_them_is_left() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks, stay=1.0)
        await queue.turns.enter("a", None)
        queue.turns.leave("a", of("a"))
        b = queue.enter("b")
        queue.turns.look_again(["b", "a2"])
        await quiet()
        assert queue.turns.owner is None
        queue.turns.look_again(["b"])
        assert await elapsed(b) == 0


async def test_those_of_a_kind_have_the_card_for_the_time_of_one_owner_together() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks, max_hold=10.0, stay=1.0)
        await queue.turns.enter("a", None)
        b = queue.enter("b")
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not b.done:
            queue.turns.leave("a", of("a"))
            await asyncio.sleep(0.4)
            if queue.turns.take_free("a"):
                queue.turns.begun()
        assert 10 <= loop.time() - began <= 11.5


async def test_each_of_a_kind_is_an_owner_like_any_other() -> None:
    """Those who wait are their own: nobody is evicted for what the others before it have had."""
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks, max_hold=10.0, stay=1.0)
        loop = asyncio.get_running_loop()
        began = loop.time()
        names = itertools.cycle("123")
        await queue.turns.enter("a0", None)
        owner = "a0"
        while loop.time() < began + 100 and not queue.evicted:
            following = f"a{next(names)}"
            waiting = queue.enter(following)
            queue.turns.begun()
            await use(queue, 3, command=0.3, pause=0.1)
            queue.turns.leave(owner, of("a"))
            await waiting
            owner = following
        assert queue.evicted == []


async def test_who_is_of_a_kind_that_had_its_time_does_not_have_it_anew_before_others() -> None:
    async with asyncio.TaskGroup() as tasks:
        queue = Queue(tasks, max_hold=10.0, stay=1.0)
        loop = asyncio.get_running_loop()
        await queue.turns.enter("a1", None)
        a2, b = queue.enter("a2"), queue.enter("b")
        queue.turns.leave("a1", of("a"))
        began = loop.time()
        await a2
        while loop.time() < began + 9.9:
            queue.turns.leave("a2", of("a"))
            assert queue.turns.take_free("a2")
            await asyncio.sleep(0.3)
        a3 = queue.enter("a3")
        queue.turns.leave("a2", of("a"))
        await b
        assert not a3.done
        queue.turns.leave("b")
        await a3
