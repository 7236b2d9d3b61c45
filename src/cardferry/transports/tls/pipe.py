"""A pipe over TLS: the event loop's own TLS around a socket, and an end for those who may not stay."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, cast

from cardferry.transports.tls.ending import TlsEnd
from cardferry.transports.unix import SocketPipe


class TlsPipe(TlsEnd, SocketPipe):
    """See the module.

    Args:
        name: where it leads.
        peer: see `TlsEnd`.
    """

    def __init__(self, name: str, peer: str = "") -> None:
        SocketPipe.__init__(self, name)
        TlsEnd.__init__(self, peer)
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

    def close(self) -> None:
        """Deliver what was written, then end."""
        self.at_peace()
        if not self._transport.is_closing():  # asyncio's own must not be closed twice
            super().close()

    def abort(self) -> None:
        """End now."""
        SocketPipe.abort(self)

    def end(self) -> None:
        """End now, whether it has begun or not."""
        if self._made:
            self.abort()

    def data_received(self, data: bytes) -> None:
        """Bytes came, for the first time."""
        self.at_peace()
        self.data_received = self._delivery.received  # type: ignore[method-assign]
        self._delivery.received(data)

    def _read_rest(self) -> None:
        """What is left cannot be read without the keys, which the event loop has."""

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone."""
        super().connection_lost(self.ended(error))
