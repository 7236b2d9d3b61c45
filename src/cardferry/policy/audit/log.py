"""The file of an audit: lines are added whole or not at all, and several processes of an account may add them.

It grows to `MOST` bytes; then it gets a number (``audit.jsonl.1`` is the oldest), and a new file goes on where it has
ended. None is ever removed here. Where systemd's journal is, it gets each line as well.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from cardferry.pcsc.errors import UserError
from cardferry.policy.audit.chain import NOTHING, Entry, entry_line, first_line, hash_of
from cardferry.system.locks import lock, unlock
from cardferry.transports.folders import check_trusted

log = logging.getLogger(__name__)

#: Bytes after which a new file is begun.
MOST: Final = 16 << 20
_LAST_LINE: Final = 16 << 10
_JOURNAL: Final = "/run/systemd/journal/socket"
_ELSEWHERE: Final = "name another file by audit-file in the configuration"


class AuditError(UserError):
    """The audit cannot be written or read, or is not what was written."""

    exit_code = 15


class AuditLog:
    """Adds entries to a file.

    Args:
        path: made with its folder if it is not there; what is there must be the user's.
        most: bytes after which a new file is begun.

    Raises:
        AuditError: it cannot be written, or what is there is no audit.
        FolderUnsafeError: others could put something in its place.
    """

    def __init__(self, path: Path, most: int = MOST) -> None:
        self._path = path
        self._most = most
        self._handle = -1
        self._head = NOTHING
        self._size = -1
        self._missing = 0
        self._journal = _journal()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_trusted(path.parent.absolute(), _ELSEWHERE)
            self._open()
            self._locked_add([])
        except OSError as error:
            raise AuditError(f"the audit {path} cannot be written: {error.strerror}", _ELSEWHERE) from error

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def add(self, *entries: Entry) -> bool:
        """Add entries; whether they are written. Raises nothing: how many are missing is told in the file later."""
        before = [Entry(entries[0].at, "missing", times=self._missing)] if self._missing else []
        try:
            lines = self._locked_add([*before, *entries])
        except OSError as error:
            if not self._missing:
                log.error("the audit %s cannot be written any more: %s", self._path, error.strerror)
            self._missing += len(entries)
            return False
        self._missing = 0
        self._tell_journal(lines)
        return True

    def close(self) -> None:
        """No more entries."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _open(self) -> None:
        self.close()
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        self._handle = os.open(self._path, flags, 0o600)
        if os.fstat(self._handle).st_uid != os.getuid():
            raise AuditError(f"the audit {self._path} cannot be written: it belongs to somebody else", _ELSEWHERE)
        self._size = -1

    def _locked_add(self, entries: list[Entry]) -> list[bytes]:
        """Add lines while no other process does; find the head again if one has in the meantime."""
        while True:
            lock(self._handle)
            try:
                if self._is_current():
                    return self._add(entries)
            finally:
                unlock(self._handle)
            self._open()  # another process has begun a new file

    def _is_current(self) -> bool:
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._handle), self._path.lstat())
        return False

    def _add(self, entries: list[Entry]) -> list[bytes]:
        size = os.fstat(self._handle).st_size
        if size != self._size:
            self._head = self._last_hash(size)
        head, lines = self._head, []
        if not size:
            made, head = first_line(time.time(), head)
            lines.append(made)
        for entry in entries:
            made, head = entry_line(entry, head)
            lines.append(made)
        self._write(b"".join(lines), size)
        self._head = head
        if self._size >= self._most:
            self._begin_next()
        return lines

    def _write(self, data: bytes, size: int) -> None:
        rest = data
        try:
            while rest:
                rest = rest[os.write(self._handle, rest) :]
        except OSError:
            os.ftruncate(self._handle, size)  # no piece of a line stays
            raise
        self._size = size + len(data)

    def _last_hash(self, size: int) -> str:
        if not size:
            return self._hash_of_file_before()
        tail = os.pread(self._handle, _LAST_LINE, max(0, size - _LAST_LINE))
        found = hash_of(tail.rstrip(b"\n").rpartition(b"\n")[2])
        if found is None or not tail.endswith(b"\n"):
            raise AuditError(
                f"the audit {self._path} does not end with a line of an audit",
                "look at it with `cardferry audit verify`, and put the file aside",
            )
        return found

    def _hash_of_file_before(self) -> str:
        old = files(self._path)[:-1]
        if not old:
            return NOTHING
        with old[-1].open("rb") as file:
            file.seek(max(0, old[-1].stat().st_size - _LAST_LINE))
            return hash_of(file.read().rstrip(b"\n").rpartition(b"\n")[2]) or NOTHING

    def _begin_next(self) -> None:
        """The file is full: the lines that come are in a new one, which begins with the hash of this one's last."""
        old = files(self._path)[:-1]
        number = int(old[-1].name.rpartition(".")[2]) + 1 if old else 1
        self._path.rename(self._path.with_name(f"{self._path.name}.{number}"))

    def _tell_journal(self, lines: list[bytes]) -> None:
        if self._journal is None:
            return
        for each in lines:
            message = b"SYSLOG_IDENTIFIER=cardferry\nPRIORITY=6\nMESSAGE=" + each
            with suppress(OSError):  # it is a copy
                self._journal.send(message, socket.MSG_DONTWAIT)


def files(path: Path) -> list[Path]:
    """The files of an audit, the oldest first; that which is written comes last, whether it is there or not."""
    numbered = [each for each in path.parent.glob(f"{path.name}.*") if each.name.rpartition(".")[2].isdecimal()]
    return [*sorted(numbered, key=lambda each: int(each.name.rpartition(".")[2])), path]


def _journal() -> socket.socket | None:
    journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        journal.connect(_JOURNAL)
    except OSError:
        journal.close()
        return None
    return journal
