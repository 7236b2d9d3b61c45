"""Reading an audit: its entries, those to come, and whether it is whole."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from cardferry.policy.audit import AuditError
from cardferry.policy.audit.chain import NOTHING, Problem, check
from cardferry.policy.audit.log import files

#: s between two looks for new lines.
_PAUSE: Final = 0.5
Entry = dict[str, Any]


def entries(path: Path) -> Iterator[Entry]:
    """All entries of an audit, oldest first; raises `AuditError` when there is none."""
    found = [each for each in files(path) if each.exists()]
    if not found:
        raise AuditError(f"there is no audit at {path}", "`cardferry host` and `share` write one with a configuration")
    for each in found:
        with _opened(each) as lines:
            yield from (entry for raw in lines if (entry := _entry(raw)) is not None)


class Tail:
    """Reads what is added to a file from now on, also when a new one takes its place."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = _opened(path) if path.exists() else None
        self._begun = b""
        if self._file is not None:
            self._file.seek(0, os.SEEK_END)

    def new(self) -> Iterator[Entry]:
        """Entries that were added since the last call."""
        while True:
            replaced = self._is_replaced()  # looked at first: what was added before that is read below
            for raw in self._file or ():
                self._begun += raw
                if raw.endswith(b"\n"):
                    if (entry := _entry(self._begun)) is not None:
                        yield entry
                    self._begun = b""
            if not replaced:
                return
            if self._file is not None:
                self._file.close()
            self._file = _opened(self._path)

    def _is_replaced(self) -> bool:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return False
        return self._file is None or not os.path.samestat(os.fstat(self._file.fileno()), found)


async def follow(path: Path, show: Callable[[Entry], None]) -> None:
    """Show entries that are added from now on, until cancelled."""
    tail = Tail(path)
    while True:
        for entry in tail.new():
            show(entry)
        await asyncio.sleep(_PAUSE)


@dataclass(frozen=True, slots=True)
class Whole:
    """An audit in which nothing was changed.

    Attributes:
        head: the hash of the last line.
    """

    files: int
    lines: int
    head: str


def verify(path: Path, anchor: Path | None = None) -> Whole:
    """See that an audit is whole.

    Args:
        anchor: a file of hashes that it has had; see that they are still in it, and add the last one.

    Raises:
        AuditError: it is not.
    """
    found = [each for each in files(path) if each.exists()]
    if not found:
        raise AuditError(f"there is no audit at {path}", "`cardferry host` and `share` write one with a configuration")
    known = _anchored(anchor) if anchor is not None and anchor.exists() else []
    missing = {head for head in known if head != NOTHING}
    count, head = 0, None
    for each in found:
        with _opened(each) as lines:
            for result in check(lines, head):
                if isinstance(result, Problem):
                    raise AuditError(f"{each}, line {result.line}: {result.what}", "compare it with a copy of before")
                head = result
                count += 1
                missing.discard(head)
    if missing:
        raise AuditError(
            f"{path} does not have what {anchor} says it had: {len(missing)} of {len(known)} hashes are not in it",
            "lines were left out at its end, or all of it was written anew: compare it with a copy of before",
        )
    if anchor is not None and head is not None and (not known or known[-1] != head):
        with anchor.open("a") as file:
            file.write(f"{head} {count} {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}\n")
    return Whole(len(found), count, head or NOTHING)


def _anchored(anchor: Path) -> list[str]:
    return [line.split()[0] for line in anchor.read_text().splitlines() if line.strip()]


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        why = f"the audit {path} cannot be read: {error.strerror}"
        raise AuditError(why, "read it as the account that writes it") from None


def _entry(raw: bytes) -> Entry | None:
    """An entry without its hash; None for what is no line of ours."""
    try:
        entry = json.loads(raw)
    except ValueError:
        return None
    if not isinstance(entry, dict):
        return None
    entry.pop("hash", None)
    return entry
