"""The file of ``--record``: each call as a line of JSON, whole or not at all, readable by the user alone."""

from __future__ import annotations

import json
import logging
import os
import stat
import weakref
from dataclasses import asdict
from pathlib import Path
from typing import Final

from cardferry.pcsc.errors import UserError
from cardferry.policy.recorded import CallRecord
from cardferry.transports.folders import check_trusted

log = logging.getLogger(__name__)

_ELSEWHERE: Final = "name another file with --record"
#: `CallRecord.call` of the line that stands for calls which could not be written.
MISSING: Final = "not recorded"


class RecordError(UserError):
    """The file for records cannot be written, or is not the user's own."""

    exit_code = 12


class RecordFile:
    """Adds records to a file. It never blocks, and raises nothing when the disk is full: then calls are missing.

    Args:
        path: made if it is not there; what is there must be the user's, and not lead elsewhere.

    Raises:
        RecordError: it cannot be written, or is somebody else's.
        FolderUnsafeError: others could put something in its place.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._missing = 0
        self._torn = False
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
        try:
            check_trusted(path.parent.absolute(), _ELSEWHERE)
            self._handle = os.open(path, flags, 0o600)
        except OSError as error:
            what = "it is a symbolic link" if path.is_symlink() else error.strerror
            raise RecordError(f"cannot record to {path}: {what}", _ELSEWHERE) from error
        weakref.finalize(self, os.close, self._handle)
        found = os.fstat(self._handle)
        self._regular = stat.S_ISREG(found.st_mode)
        if found.st_uid != os.getuid() or (self._regular and found.st_nlink != 1):
            whose = "belongs to somebody else" if found.st_uid != os.getuid() else "has another name, too"
            raise RecordError(f"cannot record to {path}: it {whose}", _ELSEWHERE)
        if self._regular:
            os.fchmod(self._handle, 0o600)

    def write(self, record: CallRecord) -> None:
        """Add a record, and before it how many are missing."""
        line = _line(record)
        if self._missing:
            line = _line(CallRecord(record.at, "", "", False, "", MISSING, f"{self._missing} calls")) + line
        if self._torn:
            line = b"\n" + line
        rest = line
        try:
            while rest:
                rest = rest[os.write(self._handle, rest) :]
        except OSError as error:
            self._take_back(len(line) - len(rest))
            if not self._missing:
                log.error("calls are not recorded in %s any more: %s", self._path, error.strerror)
            self._missing += 1
            return
        if self._missing:
            log.warning("calls are recorded in %s again; %d are missing", self._path, self._missing)
        self._missing, self._torn = 0, False

    def _take_back(self, written: int) -> None:
        """Remove the piece of a line that was written before there was no more room."""
        if written and self._regular:
            os.ftruncate(self._handle, os.fstat(self._handle).st_size - written)
        elif written:
            self._torn = True


def _line(record: CallRecord) -> bytes:
    return json.dumps(asdict(record), separators=(",", ":")).encode() + b"\n"
