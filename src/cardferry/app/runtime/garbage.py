"""How often Python's garbage collector may stop this process."""

from __future__ import annotations

import gc
from typing import Final

#: How many objects more make the collector look at the youngest, how many such looks at the younger, and then at all.
#: Python's own 700, 10 and 10 make it look at all objects several times a second while a guest opens thousands of
#: contexts, 0.1 s or more each time. What is done with is freed by its reference count, nearly all of it. So all
#: objects are looked at hardly ever; and the younger ones soon: many of them would stop everybody for long.
_COLLECT: Final = (10_000, 2, 100)


def collect_rarely() -> None:
    """Let the garbage collector stop this process less often, and not look at what was there from the start."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT)
