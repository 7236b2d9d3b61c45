"""Tables for people, in the width that there is: a table where its rows fit, else each row as a paragraph.

What stands in a table was said by readers, cards and other computers: each line goes through the door for words of
others. Nothing is cut, and nothing is written behind the last word of a line.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Final

from cardferry.cli.say import say
from cardferry.pcsc.text import shown

#: Characters of a line in a cell; a reader's name has 127 at most, an ATR 66.
_WIDEST: Final = 200
#: Columns of what is read in a pipe or a file, as of a terminal that does not tell.
_COLUMNS: Final = 80
_GAP: Final = 2


def show(columns: Sequence[str], rows: Iterable[Sequence[str | list[str]]]) -> None:
    """Print a table; a list is a cell of several lines. The first column names the row."""
    cells = [[_lines(content) for content in row] for row in rows]
    if not cells:
        return
    table = [[[name] for name in columns], *cells]
    widths = [max(len(line) for row in table for line in row[number] or [""]) for number in range(len(columns))]
    if sum(widths) + _GAP * (len(widths) - 1) <= _width():
        for row in table:
            for lines in zip_longest(*row, fillvalue=""):
                say((" " * _GAP).join(text.ljust(width) for text, width in zip(lines, widths, strict=True)).rstrip())
        return
    name_width = max(map(len, columns[1:])) + _GAP
    for row in cells:
        say(" ".join(row[0]))
        for name, content in zip(columns[1:], row[1:], strict=True):
            for label, line in zip([name, *[""] * len(content)], content, strict=False):
                say(f"{label.ljust(name_width)}{line}".rstrip(), before=" " * _GAP)


def _lines(content: str | list[str]) -> list[str]:
    return [shown(line, _WIDEST) for line in ([content] if isinstance(content, str) else content)]


def _width() -> int:
    """Columns of the terminal."""
    return shutil.get_terminal_size((_COLUMNS, 24)).columns if sys.stdout.isatty() else _COLUMNS
