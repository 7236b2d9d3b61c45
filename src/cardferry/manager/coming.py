"""Handles that wait until they can be opened: whoever believes to be alone on a reader must know of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Coming:
    """Those of one reader.

    Args:
        changed: called when there are more or fewer.

    Attributes:
        count: how many there are.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.count = 0
        self._changed = changed

    @contextmanager
    def one(self, *, waits: bool) -> Iterator[None]:
        """One handle is opened within the block.

        Args:
            waits: whether somebody has the card; otherwise it is open in a moment, and nobody need be told before.
        """
        if not waits:
            yield
            return
        self.count += 1
        self._changed()
        try:
            yield
        finally:
            self.count -= 1
            self._changed()
