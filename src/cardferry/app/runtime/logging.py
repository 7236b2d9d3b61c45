"""Log lines for people: on standard error, one per event, more with each ``-v``."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from types import TracebackType
from typing import Any, Final

from cardferry.pcsc.text import shown, shown_lines

#: Below DEBUG: what crosses the sockets, without what the cards' commands carry.
TRAFFIC: Final = 5
_LEVELS: Final = (logging.INFO, logging.DEBUG, TRAFFIC)
_DETAILS: Final = "%(levelname)s %(name)s: %(message)s"
_WITH_TIME: Final = "%(asctime)s "
#: From this level on: how the journal wants it marked (syslog's numbers).
_PRIORITIES: Final = ((logging.ERROR, "<3>"), (logging.WARNING, "<4>"), (logging.INFO, "<6>"), (0, "<7>"))


def _in_journal() -> bool:
    """Whether standard error is systemd's journal (systemd.exec(5), ``JOURNAL_STREAM``)."""
    try:
        error = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{error.st_dev}:{error.st_ino}"


def priority(level: int) -> str:
    """What begins a line on standard error so that the journal knows how grave it is (sd-daemon(3)); else nothing."""
    return next(sign for least, sign in _PRIORITIES if level >= least) if _in_journal() else ""


class _OneLine(logging.Formatter):
    """Each message is one line, whoever chose the names in it; a traceback of ours keeps its lines."""

    def format(self, record: logging.LogRecord) -> str:
        if not (before := priority(record.levelno)):
            return super().format(record)
        return "\n".join(before + line for line in super().format(record).split("\n"))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        return shown(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's own name
        return shown_lines(super().formatException(ei))


def guard_standard_error() -> None:
    """See that nobody's words reach standard error as they are: in no traceback, and in no line before `set_up`."""
    sys.excepthook = _traceback
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_OneLine())


def _traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    lines = shown_lines("".join(traceback.format_exception(kind, error, trace))).split("\n")
    sys.stderr.write("".join(f"{priority(logging.ERROR)}{line}\n" for line in lines))


def set_up(verbosity: int, *, quiet: bool = False, timed: bool = False) -> None:
    """Send log lines to standard error.

    Args:
        verbosity: how often ``-v`` was given: 0 events, 1 what happens inside, 2 the traffic, redacted; -1 for ``-q``.
        quiet: without ``-v`` only what somebody should do something about.
        timed: with the time also without ``-v``, for files. The journal has its own in any case.
    """
    logging.addLevelName(TRAFFIC, "TRAFFIC")
    quiet, verbosity = quiet or verbosity < 0, max(verbosity, 0)
    level = _LEVELS[min(verbosity, len(_LEVELS) - 1)]
    if verbosity == 0:
        level = logging.WARNING if quiet else level
        # `app.origin` tells people what its sources report.
        logging.getLogger("cardferry.readers.pcscd").setLevel(logging.WARNING)
    form = _DETAILS if verbosity else "%(message)s"
    if (timed or verbosity) and not _in_journal():
        form = _WITH_TIME + form
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine(form))
    logging.basicConfig(handlers=[handler], level=level)
    # asyncio's own lines are about the program, not about cards.
    logging.getLogger("asyncio").setLevel(max(level, logging.WARNING))
