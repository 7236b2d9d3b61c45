"""How far ahead of its host a guest's context is: calls that were sent without waiting, one after the other."""

from __future__ import annotations

from typing import Final

from cardferry.link.guest_session import GuestSession

#: Calls that a context sends without waiting, before it waits for one.
MOST_UNSEEN: Final = 256


class Unseen:
    """Counts, for one context, the calls of which it is not known whether the host has carried them out.

    Args:
        patience: s that the context's calls wait for a turn, None for ever.
    """

    __slots__ = ("_count", "_patience")

    def __init__(self, patience: float | None) -> None:
        self._count = 0
        self._patience = patience

    def may_go_on(self, session: GuestSession) -> bool:
        """Whether another call may be sent without waiting."""
        return self._count < MOST_UNSEEN and session.unseen < session.welcome.calls // 2

    def may_begin(self, session: GuestSession) -> bool:
        """Whether a transaction may begin without waiting."""
        return self.may_go_on(session) and (self._patience is None or self._patience > 0)

    def sent(self, session: GuestSession) -> None:
        """A call was sent without waiting."""
        self._count += 1
        session.unseen += 1
        session.counters.pipelined += 1

    def seen(self, session: GuestSession) -> None:
        """An answer has come: everything that was sent before it has been carried out."""
        session.unseen -= self._count
        self._count = 0

    def forget(self) -> None:
        """There is a new session: nothing was sent in it."""
        self._count = 0
