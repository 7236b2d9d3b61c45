"""An event loop whose clock jumps: what waits for a time gets it at once, in the right order.

It is for tests in which nothing outside the loop takes part. When nobody can go on any more, the test has failed.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import Any


class DeadlockError(AssertionError):
    """Everybody waits, for nothing."""


class _JumpingSelector(selectors.SelectSelector):
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
