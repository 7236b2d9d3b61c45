"""What commands print: each line goes through the door for words of others, and JSON is ASCII."""

from __future__ import annotations

import os
import sys
from typing import Any, Final

import click

from cardferry.pcsc.text import shown

#: What we write that not every encoding has, and what looks like it.
_ALIKE: Final = {"✓": "+", "·": "-", "✗": "!", "█": "#", "…": "~"}


def say(text: str, *, before: str = "", err: bool = False) -> None:
    """Print a line.

    Args:
        text: anybody's words.
        before: our own, such as a coloured mark or blanks; it stays as it is.
        err: on standard error.
    """
    stream = sys.stderr if err else sys.stdout  # itself: click has another one where the encoding is ASCII
    click.echo(before + shown(text), file=stream)  # noqa: TID251 - this is the door


def mark(sign: str, colour: str) -> str:
    """A sign in front of a line: in colour, unless somebody wants none (no-color.org)."""
    return sign if os.environ.get("NO_COLOR") else click.style(sign, fg=colour)


def look_alike(error: UnicodeError) -> tuple[str, int]:
    """What is printed for characters that the terminal's encoding lacks: a handler for `codecs.register_error`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(_ALIKE.get(one) or one.encode("ascii", "backslashreplace").decode() for one in missing), error.end


def say_json(value: Any, indent: int | None = 2) -> None:
    """Print a value as JSON; without ``indent`` on one line."""
    from cardferry.app.runtime import ascii_json  # noqa: PLC0415 - msgspec, which sessions of ssh do without

    click.echo(ascii_json.encode(value, indent=indent))  # noqa: TID251 - all of it is ASCII
