"""What commands print: each line goes through the door for words of others, and JSON is ASCII."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from cardferry.pcsc.text import shown


def say(text: str, *, before: str = "", err: bool = False) -> None:
    """Print a line.

    Args:
        text: anybody's words.
        before: our own, such as a coloured mark or blanks; it stays as it is.
        err: on standard error.
    """
    click.echo(before + shown(text), err=err)  # noqa: TID251 - this is the door


def mark(sign: str, plain: str, colour: str) -> str:
    """A sign in front of a line: in ASCII where it must be, in colour unless somebody wants none (no-color.org)."""
    try:
        sign.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        sign = plain
    return sign if os.environ.get("NO_COLOR") else click.style(sign, fg=colour)


def say_json(value: Any) -> None:
    """Print a value as JSON."""
    from cardferry.app.runtime import ascii_json  # noqa: PLC0415 - msgspec, which sessions of ssh do without

    click.echo(ascii_json.encode(value, indent=2))  # noqa: TID251 - all of it is ASCII
