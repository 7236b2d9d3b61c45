"""Names of readers as people name several at once: a shell's patterns, the first that matches counts."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence


def rank(name: str, patterns: Sequence[str]) -> int | None:
    """Which pattern a reader's name matches first; None for no one. Without patterns every name has rank 0.

    A pattern is a shell's (``*``, ``?``, ``[...]``), upper and lower case are alike. A whole name matches itself, also
    where it has brackets.
    """
    if not patterns:
        return 0
    folded = name.casefold()
    for number, pattern in enumerate(patterns):
        if pattern.casefold() == folded or fnmatch.fnmatchcase(folded, pattern.casefold()):
            return number
    return None
