"""Why pcscd cannot be used: told apart, because a person must do something else about each."""

from __future__ import annotations

from enum import Enum
from typing import Final

from cardferry.pcsc.errors import CardferryError
from cardferry.pcsc.trouble import Cause, Trouble


class Reason(Enum):
    """What is wrong. The value says it in words for people, to follow "pcscd at PATH"."""

    NO_SOCKET = "has no socket there"
    NOBODY_LISTENS = "has left a socket there, but nobody listens"
    NO_PERMISSION = "may not be used by this user"
    UNREACHABLE = "cannot be reached"
    #: polkit's denial arrives like this. Through a forwarded socket this is also what a missing pcscd looks like.
    CLOSED_AT_ONCE = "closed the connection without an answer"
    SILENT = "does not answer"
    VERSION_REFUSED = "speaks another protocol version"
    TURNED_AWAY = "turned us away"
    GARBAGE = "does not speak the pcsc-lite protocol"
    LOST = "has gone"


_CAUSES: Final = {
    Reason.NO_SOCKET: Cause.MISSING,
    Reason.NOBODY_LISTENS: Cause.DOWN,
    Reason.NO_PERMISSION: Cause.NOT_PERMITTED,
    Reason.UNREACHABLE: Cause.AWAY,
    Reason.CLOSED_AT_ONCE: Cause.REFUSED,
    Reason.SILENT: Cause.SILENT,
    Reason.VERSION_REFUSED: Cause.STRANGE,
    Reason.TURNED_AWAY: Cause.REFUSED,
    Reason.GARBAGE: Cause.STRANGE,
    Reason.LOST: Cause.DOWN,
}


class NoPcscdError(CardferryError):
    """There is no working connection to a pcscd.

    Args:
        reason: what is wrong.
        detail: what is known besides, for the log.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.reason = reason
        self.detail = detail

    def trouble(self, place: str, *, forwarded: bool) -> Trouble:
        """The same as everybody is told.

        Args:
            place: where that pcscd is, for people.
            forwarded: whether it is at another computer, whose name ``place`` is.
        """
        cause = _CAUSES[self.reason]
        if forwarded and self.reason is Reason.CLOSED_AT_ONCE:
            cause = Cause.CLOSED
        detail = str(self) if cause is Cause.STRANGE else self.detail if cause is Cause.AWAY else ""
        return Trouble(cause, place, detail, place if forwarded else "")
