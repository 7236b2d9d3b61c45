"""TLS over TCP: the connection under `TlsInside`."""

from __future__ import annotations

import asyncio
from typing import Final

from cardferry.transports.unix import SocketPipe

#: s that the other end has to take what was written last, and to hang up.
_CLOSING_TIME: Final = 30.0


class TcpPipe(SocketPipe):
    """A TCP connection.

    One that is closed before all is read from it may not deliver the last of what was written to it (RFC 1122,
    4.2.2.13). So the other end is told that nothing more comes, and hangs up then.
    """

    _timer: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Deliver what was written, then end, when the other end has it or after `_CLOSING_TIME`."""
        if self._timer is None and not self._transport.is_closing():
            self._timer = asyncio.get_running_loop().call_later(_CLOSING_TIME, self.abort)
            self._transport.write_eof()
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)
