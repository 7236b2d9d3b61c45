"""Who is told everything that passes between this computer and a card, in the order in which it passes."""

from __future__ import annotations

from typing import Protocol as Interface

from cardferry.pcsc.caller import Principal


class CardWatcher(Interface):
    """Watches the card in one reader; what it is told happens before the next thing is done with the reader."""

    def answered(self, principal: Principal, apdu: bytes, response: bytes | None) -> None:
        """The card has answered a command; None: it was sent, and nobody knows what the card said."""
        ...

    def reset(self) -> None:
        """The card was reset, by us."""
        ...

    def opened(self, away: float | None) -> None:
        """The reader was opened again, after it was let go for so many s; None: for the first time."""
        ...

    def others(self, present: bool) -> None:
        """Users of the reader that are in no queue of ours have had the card; whether they are there now."""
        ...

    def touched(self) -> None:
        """Something was done with the reader that may have done anything to the card."""
        ...

    def gone(self) -> None:
        """There is another card, or none."""
        ...
