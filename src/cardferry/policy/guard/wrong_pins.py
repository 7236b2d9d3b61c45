"""Principals that have given wrong PINs: after two, one waits until the host forgives it, or for an hour.

They are kept in a file of the account's private folder, so that an agent which ends in between forgives nobody, and
``cardferry guests forgive`` need not find the process.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from cardferry.pcsc.caller import Principal
from cardferry.transports.folders import locked

log = logging.getLogger(__name__)

#: Wrong PINs in a row after which a principal waits.
MOST: Final = 2
#: s until it is forgiven by itself.
LONGEST: Final = 3600.0
_Wrong = dict[str, tuple[int, float]]


class WrongPins:
    """Wrong PINs in a row, by principal.

    Args:
        path: of the file, in a folder that is ours alone; None to keep them in memory.
        clock: s since 1970.
    """

    def __init__(self, path: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._known: _Wrong = {}
        self._stamp: tuple[int, int, int] | None = None

    def count(self, who: Principal) -> bool:
        """It has given a wrong PIN; whether it must wait from now on."""
        wrong = self._read()
        count = wrong.get(str(who), (0, 0.0))[0] + 1
        self._write({**wrong, str(who): (count, self._clock())})
        return count == MOST

    def right(self, who: Principal) -> None:
        """It has given the right one."""
        if str(who) in (wrong := self._read()):
            del wrong[str(who)]
            self._write(wrong)

    def waits(self, who: Principal) -> bool:
        """Whether it may give no PIN."""
        return self._read().get(str(who), (0, 0.0))[0] >= MOST

    def waiting(self) -> dict[str, float]:
        """Who waits, and for how many s at most."""
        now = self._clock()
        return {who: since + LONGEST - now for who, (count, since) in self._read().items() if count >= MOST}

    def forgive(self, name: str) -> list[str]:
        """Forget the wrong PINs of a principal, named as rules write it, or by its name alone; returns who it was."""
        wrong = self._read()
        found = [who for who in wrong if name in (who, who.partition(":")[2])]
        if found:
            self._write({who: known for who, known in wrong.items() if who not in found})
        return found

    def _read(self) -> _Wrong:
        """What is known, but what is long ago."""
        if self._path is not None:
            try:
                found = self._path.stat()
                stamp = found.st_ino, found.st_mtime_ns, found.st_size
                if stamp != self._stamp:
                    read = json.loads(self._path.read_text())
                    self._known = {str(who): (int(count), float(since)) for who, (count, since) in read.items()}
                    self._stamp = stamp
            except FileNotFoundError:
                self._known, self._stamp = {}, None
            except (OSError, ValueError, TypeError, AttributeError) as error:
                log.warning("%s: %s", self._path, error)
        now = self._clock()
        return {who: known for who, known in self._known.items() if now < known[1] + LONGEST}

    def _write(self, wrong: _Wrong) -> None:
        self._known = wrong
        if self._path is None:
            return
        new = self._path.with_suffix(f".{os.getpid()}")
        try:
            with locked(self._path.parent):
                new.touch(0o600)
                new.write_text(json.dumps(wrong))
                new.replace(self._path)
        except OSError as error:
            log.warning("%s cannot be written, so wrong PINs are forgotten with this process: %s", self._path, error)
            with suppress(OSError):
                new.unlink()
