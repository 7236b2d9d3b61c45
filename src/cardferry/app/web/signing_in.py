"""Who may see the page: a link that is good once makes a session, a cookie holds it, a token proves each action.

Where viewers come with certificates (`Viewers`), there are no links and no cookies: each has one session.

The link's secret (256 random bits) is used up by whoever opens it first; there is another one then. Sessions are in
memory only: they end after `LIFE`, when their viewer signs out, and with the process.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

#: s for which a session holds.
LIFE: Final = 12 * 3600.0
#: Sessions at a time; the oldest one gives way.
MOST: Final = 256


@dataclass(eq=False)
class WebSession:
    """One viewer.

    Attributes:
        key: the cookie.
        token: what proves that an action comes from our page.
        until: on the clock of `SigningIn`.
        over: nothing may be done with it any more.
    """

    until: float
    key: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    over: bool = False


class SigningIn:
    """See the module.

    Args:
        told: gets each new secret.
        clock: in s.

    Attributes:
        wrong: how often somebody has come with a secret that was good for nothing.
    """

    def __init__(self, told: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._told = told
        self._clock = clock
        self._sessions: dict[str, WebSession] = {}
        self._secret = ""
        self.wrong = 0

    def offer(self) -> None:
        """Make another link; the one before is void."""
        self._secret = secrets.token_urlsafe(32)
        self._told(self._secret)

    def use(self, secret: str) -> WebSession | None:
        """Use the link up; None, and counted, when it is not the one that is good."""
        if not self._secret or not _same(secret, self._secret):
            self.wrong += 1
            return None
        self.offer()
        return self._new(WebSession(self._clock() + LIFE))

    def _new(self, made: WebSession) -> WebSession:
        self._sessions[made.key] = made
        while len(self._sessions) > MOST:
            self.end(next(iter(self._sessions.values())))
        return made

    def of(self, viewer: str) -> WebSession:
        """The session of somebody who has proved who it is."""
        return self.find(viewer) or self._new(WebSession(self._clock() + LIFE, key=viewer))

    def find(self, key: str | None) -> WebSession | None:
        """The session with that cookie."""
        found = self._sessions.get(key or "")
        return found if found is not None and self.holds(found) else None

    def holds(self, session: WebSession) -> bool:
        """Whether it is still good."""
        if self._clock() >= session.until:
            self.end(session)
        return not session.over

    def end(self, session: WebSession) -> None:
        """Sign somebody out."""
        session.over = True
        self._sessions.pop(session.key, None)

    @staticmethod
    def proves(session: WebSession, token: str) -> bool:
        """Whether an action comes from the page of that session."""
        return _same(token, session.token)


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(errors="replace"), other.encode())
