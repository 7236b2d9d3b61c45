"""Log lines for people: on standard error, one per event, more with each ``-v``."""

from __future__ import annotations

import logging
import sys
import traceback
from types import TracebackType
from typing import Any, Final

from cardferry.pcsc.text import shown, shown_lines

#: Below DEBUG: what crosses the sockets, without what the cards' commands carry.
TRAFFIC: Final = 5
_LEVELS: Final = (logging.INFO, logging.DEBUG, TRAFFIC)


class _OneLine(logging.Formatter):
    """Each message is one line, whoever chose the names in it; a traceback of ours keeps its lines."""

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
    sys.stderr.write(shown_lines("".join(traceback.format_exception(kind, error, trace))) + "\n")


def set_up(verbosity: int, *, quiet: bool = False) -> None:
    """Send log lines to standard error.

    Args:
        verbosity: how often ``-v`` was given: 0 events, 1 what happens inside, 2 the traffic, redacted.
        quiet: without ``-v`` only what somebody should do something about.
    """
    logging.addLevelName(TRAFFIC, "TRAFFIC")
    level = _LEVELS[min(verbosity, len(_LEVELS) - 1)]
    if verbosity == 0:
        level = logging.WARNING if quiet else level
        # `app.origin` tells people what its sources report.
        logging.getLogger("cardferry.readers.pcscd").setLevel(logging.WARNING)
    form = "%(message)s" if verbosity == 0 else "%(asctime)s %(levelname)s %(name)s: %(message)s"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine(form))
    logging.basicConfig(handlers=[handler], level=level)
    # asyncio's own lines are about the program, not about cards.
    logging.getLogger("asyncio").setLevel(max(level, logging.WARNING))
