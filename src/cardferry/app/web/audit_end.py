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
        self._stamp: list[tuple[int, int]] = []
        self._entries: list[dict[str, Any]] = []

    def entries(self) -> list[dict[str, Any]]:
        """The newest one first."""
        try:
            last = [path for path in files(self._path)[-2:] if path.exists()]  # it may just have gone on in a new file
            stamp = [(found.st_ino, found.st_size) for found in (path.stat() for path in last)]
            if stamp != self._stamp:
                lines = [line for path in last for line in _end(path)]
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
