"""The last entries of an audit, read from the end of its file: no more than a few kB, however long it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from cardferry.policy.audit.log import files

#: Bytes of a file that are read, and entries that are kept.
_BYTES: Final = 16 << 10
MOST: Final = 40


class AuditEnd:
    """See the module.

    Args:
        path: the file of the audit; it need not be there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._entries: list[dict[str, Any]] = []

    def entries(self) -> list[dict[str, Any]]:
        """The newest one first."""
        try:
            found = self._path.stat()
            stamp = found.st_ino, found.st_size
            if stamp != self._stamp:
                lines = _end(self._path)
                if len(lines) < MOST and (old := files(self._path)[:-1]):
                    lines = _end(old[-1]) + lines  # it has just gone on in a new file
                self._entries = [entry for line in lines[-MOST:] if (entry := _entry(line)) is not None][::-1]
                self._stamp = stamp
        except OSError:
            return []
        return self._entries


def _end(path: Path) -> list[bytes]:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _BYTES))
        lines = file.read(_BYTES).split(b"\n")
    return [line for line in (lines if size <= _BYTES else lines[1:]) if line]


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and "event" in entry else None
