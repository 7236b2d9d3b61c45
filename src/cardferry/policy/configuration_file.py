"""The configuration file as a text: read only where nobody else can have written it, and where a key is written in it.

Only light imports: sessions that ssh opens look at it.
"""

from __future__ import annotations

import difflib
import os
import stat
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cardferry.pcsc.errors import UserError
from cardferry.transports.folders import check_trusted

_ELSEWHERE: Final = "name another file with --config"
#: Where something is in a document: the keys of tables, and numbers in arrays, from 0.
KeyPath = tuple[str | int, ...]


class ConfigurationError(UserError):
    """The configuration file cannot be used: it is not as it must be, cannot be read, or is not ours alone."""

    exit_code = 14


def read_text(path: Path) -> str:
    """A configuration file's text.

    Raises:
        ConfigurationError: it cannot be read, or others may write it.
        FolderUnsafeError: others could put something in its place.
    """
    try:
        check_trusted(path.parent.absolute(), _ELSEWHERE)
        found = path.stat()
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigurationError(f"the configuration {path} cannot be read: {why}", _ELSEWHERE) from None
    if found.st_uid not in (os.getuid(), 0) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigurationError(f"the configuration {path} cannot be trusted: others may write it", "chmod go-w it")
    return text


def parse(text: str, name: str) -> dict[str, Any]:
    """What a file says.

    Args:
        name: of the file, for errors.

    Raises:
        ConfigurationError: it is no TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{name} is no TOML: {error}", "correct it; https://toml.io says how") from None


def unknown_key(key: str, known: Sequence[str], where: str, inside: str) -> ConfigurationError:
    """The error about a key that is none; with the one that is meant, if one is like it.

    Args:
        where: file and line.
        inside: the table, as it is written; empty at the top.
    """
    near = difflib.get_close_matches(key, known, 1)
    hint = f"is {near[0]!r} meant?" if near else f"what there is: {', '.join(known)}"
    return ConfigurationError(f"{where}: there is no key {key!r}" + (f" in {inside}" if inside else ""), hint)


def line_of(text: str, path: KeyPath) -> int:
    """The line where something is written, from 1; where what it is in begins, if it is not written.

    It is the first line without which the text does not have it: so all ways to write it are found, in few attempts.
    """
    while path and not _has(tomllib.loads(text), path):
        path = path[:-1]
    if not path:
        return 1
    lines = text.split("\n")
    without, low, high = 0, 0, len(lines)
    while high - low > 1:
        middle = (low + high) // 2
        count, document = _readable(lines, low, middle)
        if document is None:  # in the middle of a value
            low = middle
        elif _has(document, path):
            high = count
        else:
            without, low = count, middle
    return without + 1


def _readable(lines: list[str], low: int, high: int) -> tuple[int, dict[str, Any] | None]:
    """What the first lines say: as many as can be read, up to ``high``, but more than ``low``."""
    for count in range(high, low, -1):
        try:
            return count, tomllib.loads("\n".join(lines[:count]))
        except tomllib.TOMLDecodeError:
            continue
    return high, None


def _has(document: Any, path: KeyPath) -> bool:
    for key in path:
        try:
            document = document[key]
        except (KeyError, IndexError, TypeError):
            return False
    return True
