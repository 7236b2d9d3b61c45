"""Something that several use at the same time: opened for the first who asks for it, closed after the last."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Generic, Self, TypeVar

log = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class _Held(Generic[Value]):
    """One thing, as long as somebody uses it."""

    def __init__(self) -> None:
        self.value: asyncio.Future[Value] = asyncio.get_running_loop().create_future()
        self.users = 0
        self.unused = asyncio.Event()
        self.closing = False
        self.task: asyncio.Task[None] | None = None


class Shared(Generic[Key, Value]):
    """Things by what they are asked for; an asynchronous context manager that owns the tasks in which they are open.

    Args:
        open_one: opens one.
        last: waits until nothing is left that keeps one open when nobody uses it any more.
    """

    def __init__(
        self,
        open_one: Callable[[Key], AbstractAsyncContextManager[Value]],
        last: Callable[[Value], Awaitable[object]] | None = None,
    ) -> None:
        self._open = open_one
        self._last = last
        self._held: dict[Key, _Held[Value]] = {}
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for held in self._held.values():
            if held.task is not None and not held.closing:
                held.task.cancel()  # also where a guest may come back: it will find nobody
        # Without the error, so that nothing that is being closed is cancelled in the middle of that.
        await self._tasks.__aexit__(None, None, None)

    @property
    def opened(self) -> list[Value]:
        """All that are open at this moment, who was opened first in front."""
        done = [held.value for held in self._held.values() if held.value.done()]
        return [value.result() for value in done if not value.cancelled() and value.exception() is None]

    @asynccontextmanager
    async def use(self, key: Key) -> AsyncIterator[Value]:
        """Use one for the block; raises what `open_one` raises."""
        held = await self._to_use(key)
        held.users += 1
        try:
            yield await asyncio.shield(held.value)
        finally:
            held.users -= 1
            if not held.users:
                held.unused.set()

    async def _to_use(self, key: Key) -> _Held[Value]:
        while (held := self._held.get(key)) is not None:
            if not held.closing or held.task is None:
                return held
            await asyncio.wait((held.task,))
        held = self._held[key] = _Held()
        held.task = self._tasks.create_task(self._hold(key, held), name=f"held open: {key}")
        return held

    async def _hold(self, key: Key, held: _Held[Value]) -> None:
        try:
            async with self._open(key) as value:
                held.value.set_result(value)
                await self._unused(held, value)
                held.closing = True
        except Exception as error:  # of who asked first, and of those who have asked meanwhile
            if held.value.done():
                log.exception("a bug behind what several use")
            else:
                held.value.set_exception(error)
                held.value.exception()  # they may all have gone
        finally:
            if not held.value.done():
                held.value.cancel()
            del self._held[key]

    async def _unused(self, held: _Held[Value], value: Value) -> None:
        while True:
            await held.unused.wait()
            held.unused.clear()
            if self._last is not None:
                await self._last(value)
            if not held.users:
                return
