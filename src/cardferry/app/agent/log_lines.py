"""What the agent logs about readers, passed on to those who have them lent: it appears where a person looks.

Each set of readers, and each lend, marks what is done for it (`mark`): tasks and callbacks inherit the mark of those
who have started them, and a log line belongs to the mark under which it is written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, NamedTuple

#: The loggers that are passed on.
_OURS: Final = logging.getLogger("cardferry")
#: Those that say little unless somebody wants to hear more (`cardferry.app.runtime.logging.set_up`).
_QUIET: Final = (logging.getLogger("cardferry.readers.pcscd"),)
#: Those of what all users of a set of readers share, whoever has given the occasion.
_OF_ALL: Final = ("cardferry.manager", "cardferry.readers")
#: That of the rules, which are the same for everybody: whoever notices first that they have changed says so.
_RULES: Final = "cardferry.policy.rulebook"
_form: Final = logging.Formatter("%(message)s")


class Mark(NamedTuple):
    """For whom something is done.

    Attributes:
        readers: for users of this set of readers, as a `HostAddress` is written.
        lend: of them, for this one; 0 for all of them.
    """

    readers: str
    lend: int = 0


_MARK: Final[ContextVar[Mark | None]] = ContextVar("_MARK", default=None)


@contextmanager
def mark(readers: str, lend: int = 0) -> Iterator[None]:
    """What begins in the block, and all that comes of it, is done for these."""
    token = _MARK.set(Mark(readers, lend))
    try:
        yield
    finally:
        _MARK.reset(token)


class _Lines(logging.Handler):
    def __init__(self, level: int, wanted: Mark, tell: Callable[[int, str, str], None]) -> None:
        super().__init__(level)
        self._wanted = wanted
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Tell of a line that is for this one."""
        mine = _MARK.get()
        if record.name == _RULES:
            self._tell(record.levelno, record.name, _form.format(record))
            return
        if mine is None or mine.readers != self._wanted.readers:
            return
        if mine.lend in (0, self._wanted.lend) or record.name.startswith(_OF_ALL):
            self._tell(record.levelno, record.name, _form.format(record))


@contextmanager
def passed_on(level: int, wanted: Mark, tell: Callable[[int, str, str], None]) -> Iterator[None]:
    """Tell of log lines for the block.

    Args:
        level: of the least important ones.
        wanted: for whom.
        tell: gets level, logger and text of each.
    """
    handler = _Lines(level, wanted, tell)
    root = logging.getLogger()
    for own in root.handlers:  # this process's own log does not grow by what others want to know
        if own.level == logging.NOTSET:
            own.setLevel(root.getEffectiveLevel())
    _OURS.addHandler(handler)
    _adjust()
    try:
        yield
    finally:
        _OURS.removeHandler(handler)
        _adjust()


def _adjust() -> None:
    """Let through what anybody wants to know; without anybody, what this process's own log wants."""
    wanted = [one.level for one in _OURS.handlers if isinstance(one, _Lines)]
    _OURS.setLevel(min([*wanted, logging.getLogger().getEffectiveLevel()]) if wanted else logging.NOTSET)
    for quiet in _QUIET:  # whoever hears of them leaves them out again
        quiet.setLevel(logging.NOTSET if wanted else logging.WARNING)
