"""Principals that have given wrong PINs: after two, one waits until the host forgives it, or for an hour.

They are kept in a file of the account's private folder, so that an agent which ends in between forgives nobody, and
``cardferry guests forgive`` need not find the process.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from cardferry.pcsc.caller import Principal
from cardferry.private_file import write_private
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
        with self._changed() as wrong:
            count = wrong.get(str(who), (0, 0.0))[0] + 1
            wrong[str(who)] = count, self._clock()
        return count == MOST

    def right(self, who: Principal) -> None:
        """It has given the right one."""
        if str(who) in self._read():
            with self._changed() as wrong:
                wrong.pop(str(who), None)

    def waits(self, who: Principal) -> bool:
        """Whether it may give no PIN."""
        return self._read().get(str(who), (0, 0.0))[0] >= MOST

    def waiting(self) -> dict[str, float]:
        """Who waits, and for how many s at most."""
        now = self._clock()
        return {who: since + LONGEST - now for who, (count, since) in self._read().items() if count >= MOST}

    def forgive(self, name: str) -> list[str]:
        """Forget the wrong PINs of a principal, named as rules write it, or by its name alone; returns who it was."""
        with self._changed() as wrong:
            found = [who for who in wrong if name in (who, who.partition(":")[2])]
            for who in found:
                del wrong[who]
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
                if self._stamp is not None:  # somebody has removed it; one that could not be written never was there
                    self._known, self._stamp = {}, None
            except (OSError, ValueError, TypeError, AttributeError) as error:
                log.warning("%s: %s", self._path, error)
        now = self._clock()
        return {who: known for who, known in self._known.items() if now < known[1] + LONGEST}

    @contextmanager
    def _changed(self) -> Iterator[_Wrong]:
        """What is known, to be changed in the block and written down after it; other processes wait until then."""
        with ExitStack() as stack:
            path = self._path
            try:
                if path is not None:
                    stack.enter_context(locked(path.parent))
            except OSError as error:
                self._not_written(error)
                path = None
            self._known = wrong = self._read()
            yield wrong
            try:
                if path is not None:
                    write_private(path, json.dumps(wrong).encode())
            except OSError as error:
                self._not_written(error)

    def _not_written(self, error: OSError) -> None:
        log.warning("%s cannot be written, so wrong PINs are forgotten with this process: %s", self._path, error)
