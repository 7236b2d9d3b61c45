"""The configuration file as a text: read only where nobody else can have written it, and where a key is written in it.

Only light imports: sessions that ssh opens look at it.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import stat
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cardferry.pcsc.errors import UserError
from cardferry.transports.folders import check_trusted

_ELSEWHERE: Final = "name another file with --config"
#: The numbers of Linux's ``/dev/null`` (null(4)): everybody may write there, and nobody ever reads any of it.
_NULL: Final = (1, 3)
#: Of a value that is none.
NO_TEXT: Final = "it is text"
_EXAMPLES: Final = "correct it; docs/sharing-with-a-team.md has examples"
#: The table of rules: as a step on the way to a value it is no key that has a wrong one.
_RULES: Final = "allow"
#: What msgspec says of a value, and where that is.
_AT: Final = re.compile(r"(?P<what>.*?)(?: - at `\$(?P<path>.*)`)?", re.DOTALL)
_STEP: Final = re.compile(r"\.([\w-]+)|\[(\d+)\]")
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
        if not stat.S_ISREG(found.st_mode) and not stat.S_ISFIFO(found.st_mode):
            return _device(path, found)
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigurationError(f"the configuration {path} cannot be read: {why}", _ELSEWHERE) from None
    if found.st_uid not in (os.getuid(), 0):
        raise ConfigurationError(f"the configuration {path} cannot be trusted: it is somebody else's", _ELSEWHERE)
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        own = found.st_uid == os.getuid() and stat.S_ISREG(found.st_mode)
        mend = f"chmod go-w {shlex.quote(str(path))}, or " if own else ""
        raise ConfigurationError(
            f"the configuration {path} cannot be trusted: others may write it", f"{mend}{_ELSEWHERE}"
        )
    return text


def _device(path: Path, found: os.stat_result) -> str:
    """The text of what is no file: ``/dev/null`` is an empty one; raises `ConfigurationError` for all else."""
    if stat.S_ISCHR(found.st_mode) and found.st_rdev == os.makedev(*_NULL):
        return ""
    raise ConfigurationError(f"the configuration {path} cannot be read: it is no file", _ELSEWHERE)


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


def quotes_hint(key: str, value: Any) -> str:
    """The hint for a number, or a date, that is to be text: what is missing are quotes. Empty for what is neither."""
    one = value[0] if isinstance(value, list) and value else value
    if isinstance(one, bool | str | list | dict):
        return ""
    return f'put it in quotes: {key} = "{one}"' if one is value else f'put each in quotes: {key} = ["{one}"]'


def wrong_value(error: str, values: Any, table: KeyPath, text: str, name: str) -> ConfigurationError:
    """The error about a value that is of another type than its key takes, or out of its range.

    Args:
        error: what msgspec says, with the place in ``values``.
        values: the table.
        table: where that is in the document.
        text, name: of the file.
    """
    found = _AT.fullmatch(error)
    what, place = (found["what"], found["path"] or "") if found else (error, "")
    path: list[str | int] = [word or int(number) for word, number in _STEP.findall(place)]
    names = [number for number, step in enumerate(path) if isinstance(step, str) and step != _RULES]
    to_key = path[: names[-1] + 1] if names else path
    key, value = str(to_key[-1]) if names else "", values
    for step in to_key:
        value = value[step]
    hint = quotes_hint(key, value) if key and "`str" in what else ""
    if hint:
        what = NO_TEXT if "array" not in what else f"{NO_TEXT}, or several in [ ]"
    elif "`array`" in what and key and not isinstance(value, list | dict):
        what, hint = "it is several in [ ]", f'put it in brackets: {key} = ["{value}"]'
    said = f"{key}: {what}" if key else what
    return ConfigurationError(f"{name}, line {line_of(text, (*table, *to_key))}: {said}", hint or _EXAMPLES)


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
