"""What several use is open as long as anybody does, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cardferry.app.agent.shared import Shared
from tests.virtual_time import loop_factories

LOOPS = loop_factories()


class Things:
    """Notes what is opened and closed, which takes a second each.

    Attributes:
        missing: what cannot be opened.
        kept: set when nothing keeps a thing that nobody uses.
    """

    def __init__(self) -> None:
        self.told: list[str] = []
        self.missing = ""
        self.kept = asyncio.Event()
        self.kept.set()

    @asynccontextmanager
    async def open(self, name: str) -> AsyncIterator[str]:
        await asyncio.sleep(1)
        if name == self.missing:
            raise OSError(f"no {name}")
        self.told.append(f"open {name}")
        try:
            yield name.upper()
        finally:
            await asyncio.sleep(1)
            self.told.append(f"close {name}")

    async def last(self, thing: str) -> None:
        await self.kept.wait()


async def test_it_is_opened_for_the_first_and_closed_after_the_last() -> None:
    things = Things()
    async with (
        Shared(things.open) as shared,
        shared.use("a") as one,
        shared.use("a") as two,
        shared.use("b") as other,
    ):
        assert (one, two, other) == ("A", "A", "B")
        assert shared.opened == ["A", "B"]
    assert things.told[:2] == ["open a", "open b"]
    assert sorted(things.told[2:]) == ["close a", "close b"]


async def test_who_comes_while_it_is_closed_gets_a_new_one() -> None:
    things = Things()
    async with Shared(things.open) as shared:
        async with shared.use("a"):
            pass
        await asyncio.sleep(0.5)
        async with shared.use("a"):
            assert things.told == ["open a", "close a", "open a"]


async def test_who_comes_before_it_is_closed_keeps_it_open() -> None:
    things = Things()
    things.kept.clear()
    async with Shared(things.open, things.last) as shared:
        async with shared.use("a"):
            pass
        await asyncio.sleep(5)
        async with shared.use("a"):
            things.kept.set()
            await asyncio.sleep(5)
            assert things.told == ["open a"]
    assert things.told == ["open a", "close a"]


async def test_all_who_wait_hear_why_it_cannot_be_opened_and_the_next_one_tries_again() -> None:
    things = Things()
    things.missing = "a"
    async with Shared(things.open) as shared:

        async def ask() -> None:
            with pytest.raises(OSError, match="no a"):
                async with shared.use("a"):
                    pass

        async with asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(ask())
        things.missing = ""
        async with shared.use("a") as one:
            assert one == "A"


async def test_who_does_not_wait_any_more_leaves_nothing_open() -> None:
    things = Things()
    async with Shared(things.open) as shared:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5), shared.use("a"):
                pass
    assert things.told in (["open a", "close a"], [])


async def test_the_end_closes_in_order_what_is_kept_for_somebody_who_may_come_back() -> None:
    things = Things()
    things.kept.clear()
    async with Shared(things.open, things.last) as shared, shared.use("a"):
        pass
    assert things.told == ["open a", "close a"]
