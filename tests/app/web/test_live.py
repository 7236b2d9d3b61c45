"""One look for all viewers; the clock jumps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from cardferry.app.web.live import PAUSE, Live, Sections, Viewer, event
from tests.virtual_time import VirtualTimeLoop

LOOPS = {"virtual": VirtualTimeLoop}


class Page:
    """Sections that a test changes."""

    def __init__(self) -> None:
        self.sections: dict[str, str] = {"readers": "none", "audit": "nothing"}
        self.good = True
        self.bug = False
        self.live = Live(self.look)

    async def look(self) -> Sections:
        if self.bug:
            raise ZeroDivisionError
        return self.sections

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Live]:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self.live.run())
            yield self.live
            task.cancel()

    async def watch(self, seconds: float) -> list[bytes]:
        """What a viewer is sent within that time."""
        got: list[bytes] = []
        viewer = Viewer()
        await self.live.add(viewer)

        async def read() -> None:
            async for piece in viewer.stream(lambda: self.good):
                got.append(piece)

        try:
            async with asyncio.timeout(seconds):
                await read()
        except TimeoutError:
            pass
        finally:
            self.live.remove(viewer)
        return got


async def test_a_viewer_gets_all_there_is_and_then_what_changes() -> None:
    page = Page()
    async with page.running():
        loop = asyncio.get_running_loop()
        loop.call_later(3, page.sections.update, {"readers": "one"})
        got = await page.watch(5)
    assert b"event: now\n" in got[0]
    assert event("readers", "none") in got[0]
    assert event("audit", "nothing") in got[0]
    assert event("readers", "one") in got[-1]
    assert b"audit" not in got[-1]


async def test_fifty_viewers_cost_one_look_at_most_twice_a_second() -> None:
    page = Page()
    async with page.running():
        async with asyncio.TaskGroup() as tasks:
            for _ in range(50):
                tasks.create_task(page.watch(10))
        looks = page.live.looks
        assert 2 <= looks <= 10 / PAUSE + 2
        await asyncio.sleep(60)
        assert page.live.looks <= looks + 1, "nobody watches"


async def test_pages_that_are_fetched_are_one_look_as_well() -> None:
    page = Page()
    for _ in range(20):
        await page.live.sections()
    assert page.live.looks == 1


async def test_who_does_not_keep_up_gets_the_newest() -> None:
    viewer = Viewer()
    for number in range(1000):
        viewer.give({"readers": event("readers", str(number))})
    stream = viewer.stream(lambda: True)
    assert await anext(stream) == event("readers", "999")


async def test_cards_come_between_two_viewers() -> None:
    """Each viewer is told in a pass of the loop of its own: what is ready meanwhile waits for one of them."""
    page, loop = Page(), asyncio.get_running_loop()
    order: list[str] = []

    class Watching(Viewer):
        def give(self, sections: Mapping[str, bytes]) -> None:
            order.append("viewer")
            loop.call_soon(order.append, "card")

    async with page.running() as live:
        for _ in range(5):
            await live.add(Watching())
        await asyncio.sleep(2 * PAUSE)
        order.clear()
        page.sections["readers"] = "changed"
        await asyncio.sleep(2 * PAUSE)
    assert order == ["viewer", "card"] * 5


async def test_a_silent_stream_says_that_it_lives() -> None:
    page = Page()
    async with page.running():
        got = await page.watch(40)
    assert got[-2:] == [b":\n\n", b":\n\n"]


async def test_who_may_see_nothing_more_is_told_and_sees_nothing() -> None:
    page = Page()
    async with page.running():
        loop = asyncio.get_running_loop()

        def signed_out() -> None:
            page.good = False
            page.sections["readers"] = "a secret"

        loop.call_later(3, signed_out)
        got = await page.watch(30)
    assert got[-1].startswith(b"event: over\n")
    assert not any(b"secret" in piece for piece in got)


async def test_a_bug_behind_the_page_ends_nothing() -> None:
    page = Page()
    async with page.running():
        loop = asyncio.get_running_loop()
        loop.call_later(2, setattr, page, "bug", True)
        loop.call_later(4, setattr, page, "bug", False)
        loop.call_later(5, page.sections.update, {"readers": "again"})
        got = await page.watch(8)
    assert event("readers", "again") in got[-1]


def test_an_event_of_several_lines() -> None:
    assert event("audit", "a\nb\rc") == b"event: audit\ndata: a\ndata: b\ndata: c\n\n"
    assert event("questions", "") == b"event: questions\ndata:\n\n"
