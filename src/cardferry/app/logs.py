"""Log lines for people: on standard error, one per event, more with each ``-v``."""

from __future__ import annotations

import logging
import sys
from typing import Final

#: Below DEBUG: what crosses the sockets, without what the cards' commands carry.
TRAFFIC: Final = 5
_LEVELS: Final = (logging.INFO, logging.DEBUG, TRAFFIC)


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
    logging.basicConfig(stream=sys.stderr, level=level, format=form)
    # asyncio's own lines are about the program, not about cards.
    logging.getLogger("asyncio").setLevel(max(level, logging.WARNING))
