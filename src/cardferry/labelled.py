"""What is counted under names that others choose: for so many names, and all that come later share one.

Who reads numbers for weeks, such as Prometheus, keeps a series for each name that it has ever seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

#: What is beyond the bound.
OTHER: Final = "other"
#: Names of one kind.
MOST: Final = 64


class Labelled(Generic[T]):
    """Something for each name.

    Args:
        make: makes it, when a name comes for the first time.
        most: how many names have one of their own.

    Attributes:
        values: by name.
    """

    def __init__(self, make: Callable[[], T], most: int = MOST) -> None:
        self.values: dict[str, T] = {}
        self._make = make
        self._most = most

    def of(self, name: str) -> T:
        """What that name has, or all have that are beyond the bound."""
        found = self.values.get(name)
        if found is None:
            if len(self.values) >= self._most:
                name = OTHER
            found = self.values.get(name)
            if found is None:
                found = self.values[name] = self._make()
        return found
