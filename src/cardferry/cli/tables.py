"""Tables for people. rich is imported here and only here, because it takes longer than most commands.

What stands in a table was said by readers, cards and other computers: it is shown as it is, brackets are no markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cardferry.pcsc.text import shown

#: Characters of a line in a cell; a reader's name has 127 at most, an ATR 66.
_WIDEST: Final = 200


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[str | list[str]]]) -> None:
    """Print a table; a list is a cell of several lines. Lines are never cut when the output is not a terminal."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 1000
    console.print(table)


def _cell(content: str | list[str]) -> Text:
    lines = [content] if isinstance(content, str) else content
    return Text("\n".join(shown(line, _WIDEST) for line in lines))
