"""A pipe over TLS: the event loop's own TLS around a socket, and an end for those who may not stay."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, cast

from cardferry.transports.errors import RevokedError
from cardferry.transports.tls.errors import TlsError, what_is_wrong
from cardferry.transports.unix import SocketPipe


class TlsPipe(SocketPipe):
    """See the module.

    Args:
        name: where it leads.
        peer: the other end in words, for the error when it says nothing and hangs up; empty at a host.
    """

    def __init__(self, name: str, peer: str = "") -> None:
        super().__init__(name)
        self._peer = peer
        self._timer: asyncio.TimerHandle | None = None
        self._revoked: RevokedError | None = None
        #: Called when the pipe is lost; whether that was so.
        self.gone: Callable[[], None] = lambda: None
        self.over = False
        self._made = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is done."""
        self._made = True
        super().connection_made(transport)
        # Loops send a guest's last words of the handshake when they look whether there is anything to read.
        self._transport.resume_reading()

    @property
    def tls(self) -> ssl.SSLObject:
        """What was agreed on in the handshake."""
        return cast("ssl.SSLObject", cast(Any, self._transport).get_extra_info("ssl_object"))

    def abort_in(self, seconds: float) -> None:
        """End after so many s."""
        self._timer = asyncio.get_running_loop().call_later(max(0.0, seconds), self._expire)

    def _expire(self) -> None:
        self._peer = ""  # which has done nothing wrong
        self.abort()

    def close(self) -> None:
        """Deliver what was written, then end."""
        self._peer = ""  # it may have nothing to say
        if not self._transport.is_closing():  # asyncio's own must not be closed twice
            super().close()

    def end(self) -> None:
        """End now, whether it has begun or not."""
        if self._made:
            self.abort()

    def revoke(self, why: str) -> None:
        """End now: who is at the other end must not be here any more, so its session ends, too."""
        self._revoked = RevokedError(why)
        self.abort()

    def data_received(self, data: bytes) -> None:
        """Bytes came, for the first time."""
        self._peer = ""
        self.data_received = self._delivery.received  # type: ignore[method-assign]
        self._delivery.received(data)

    def _read_rest(self) -> None:
        """What is left cannot be read without the keys, which the event loop has."""

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone."""
        if self._timer is not None:
            self._timer.cancel()
        self.over = True
        self.gone()
        if self._revoked is not None:
            error = self._revoked
        elif self._peer:
            # In TLS 1.3 a host looks at the guest's certificate when the guest believes that all is said; and loops do
            # not send the alert with which it says what is wrong.
            says = what_is_wrong(error) if isinstance(error, ssl.SSLError) else "has hung up without a word"
            hint = "the log of cardferry host there says why; for a new one: cardferry invite NAME there, and join anew"
            error = TlsError(f"{self._peer} {says}: it does not want the certificate of this computer", hint)
        super().connection_lost(error)
