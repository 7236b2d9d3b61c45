"""How the end of a TLS connection comes about, and what to tell people of it: the same for a socket and a pipe."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Protocol as Interface

from cardferry.transports.base import Pipe
from cardferry.transports.errors import RevokedError
from cardferry.transports.tls.errors import TlsError, what_is_wrong


class SecurePipe(Pipe, Interface):
    """A pipe whose other end has proved who it is, if it has a certificate.

    Attributes:
        gone: called when the pipe is lost.
        over: whether that was so.
    """

    gone: Callable[[], None]
    over: bool

    @property
    def tls(self) -> ssl.SSLObject:
        """What was agreed on in the handshake."""
        ...

    def abort_in(self, seconds: float) -> None:
        """End after so many s."""
        ...

    def revoke(self, why: str) -> None:
        """End now: who is at the other end must not be here any more, so its session ends, too."""
        ...

    def end(self) -> None:
        """End now, whether it has begun or not."""
        ...


class TlsEnd:
    """See the module; derive a pipe from it.

    Args:
        peer: the other end in words, for the error when it says nothing and hangs up; empty at a host.
    """

    def __init__(self, peer: str = "") -> None:
        self._peer = peer
        self._timer: asyncio.TimerHandle | None = None
        self._revoked: RevokedError | None = None
        #: Called when the pipe is lost; whether that was so.
        self.gone: Callable[[], None] = lambda: None
        self.over = False

    def abort(self) -> None:
        """End now."""
        raise NotImplementedError

    def abort_in(self, seconds: float) -> None:
        """End after so many s."""
        self._timer = asyncio.get_running_loop().call_later(max(0.0, seconds), self._expire)

    def _expire(self) -> None:
        self.at_peace()
        self.abort()

    def revoke(self, why: str) -> None:
        """End now: who is at the other end must not be here any more, so its session ends, too."""
        self._revoked = RevokedError(why)
        self.abort()

    def at_peace(self) -> None:
        """The other end has done nothing wrong: it has said something, or may have nothing to say."""
        self._peer = ""

    def ended(self, error: Exception | None) -> Exception | None:
        """The connection is gone; returns what the user is to hear."""
        if self._timer is not None:
            self._timer.cancel()
        self.over = True
        self.gone()
        if self._revoked is not None:
            return self._revoked
        if not self._peer:
            return error
        # In TLS 1.3 a host looks at the guest's certificate when the guest believes that all is said; and loops do
        # not send the alert with which it says what is wrong.
        says = what_is_wrong(error) if isinstance(error, ssl.SSLError) else "has hung up without a word"
        hint = "the log of cardferry host there says why; for a new one: cardferry invite NAME there, and join anew"
        return TlsError(f"{self._peer} {says}: it does not want the certificate of this computer", hint)
