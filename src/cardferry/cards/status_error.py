"""How an application on a card says no: by raising, anywhere below the command's entry."""

from __future__ import annotations

from cardferry.pcsc.apdu import StatusWord
from cardferry.pcsc.errors import CardferryError


class StatusError(CardferryError):
    """The command is refused; ``status`` is the whole response.

    Args:
        status: the status word.
        reason: words for a log or a test, never sent.
    """

    def __init__(self, status: StatusWord, reason: str = "") -> None:
        super().__init__(f"{status} {reason or status.text}")
        self.status = status
