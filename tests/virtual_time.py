"""An event loop whose clock jumps: what waits for a time gets it at once, in the right order.

For tests in which everything happens in one process. The clock stands still while anything can go on, and moves to
the next timer when nothing can. When there is none, everybody waits for nothing: `DeadlockError`.
"""

from __future__ import annotations

import asyncio
import gc
import selectors
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, TypeVar

import pytest

T = TypeVar("T")


class DeadlockError(AssertionError):
    """Everybody waits, for nothing."""


class _JumpingSelector(selectors.DefaultSelector):
    """Instead of waiting it moves the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise DeadlockError
        self.now += max(0.0, timeout)
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """See the module.

    Attributes:
        problems: what callbacks raised, and errors that nobody has looked at.
    """

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        self.problems: list[str] = []

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.problems.append(f"{context.get('message')}: {context.get('exception')!r}")
        super().call_exception_handler(context)

    def time(self) -> float:
        return self._jumping.now


async def quiet() -> None:
    """Wait until nothing can go on any more without time passing."""
    await asyncio.sleep(1e-9)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end in virtual time; nothing may go wrong unseen."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        result = runner.run(main)
        loop = runner.get_loop()
        assert isinstance(loop, VirtualTimeLoop)
        assert loop.problems == []
    return result


def loop_factories(*_: object) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """For ``pytest_asyncio_loop_factories`` in a conftest: all tests of that folder run in virtual time."""
    return {"virtual time": VirtualTimeLoop}


@pytest.fixture(autouse=True)
async def no_problems() -> AsyncIterator[None]:
    """For a conftest: whatever goes wrong without a test's looking fails the test."""
    yield
    gc.collect(1)
    loop = asyncio.get_running_loop()
    if isinstance(loop, VirtualTimeLoop):  # tests without await get a loop of the usual kind
        assert loop.problems == []
