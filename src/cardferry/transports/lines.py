"""What another program says, line by line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

#: Bytes of the longest line that is looked at; more is a program that prints rubbish.
MAX_LINE: Final = 8192


class LineSplitter:
    """Bytes in, whole lines out; a line longer than `MAX_LINE` is dropped, so memory stays bounded.

    The lines are the other side's words: whoever shows them does so by `cardferry.pcsc.text.shown`.
    """

    def __init__(self) -> None:
        self._pending = bytearray()
        self._dropping = False

    def feed(self, data: bytes) -> Iterator[str]:
        """Yield each line that ``data`` completes, without its end."""
        self._pending += data
        while (end := self._pending.find(b"\n")) >= 0:
            line = bytes(self._pending[:end])
            del self._pending[: end + 1]
            if not self._dropping and len(line) <= MAX_LINE:
                # What is no UTF-8 stays what it is: replaced, a path would be printable, and another one.
                yield line.decode(errors="surrogateescape").rstrip("\r")
            self._dropping = False
        if len(self._pending) > MAX_LINE:
            self._pending.clear()
            self._dropping = True


def last_words(lines: Sequence[str]) -> str:
    """The last line that says something."""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
