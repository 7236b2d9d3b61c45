"""TLS inside of any pipe, so that who carries the pipe sees nothing (``ssl.MemoryBIO``)."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import Final

from cardferry.transports.base import Pipe, PipeUser
from cardferry.transports.delivery import Delivery
from cardferry.transports.tls.ending import TlsEnd

_PIECE: Final = 64 * 1024


class TlsInside(TlsEnd):
    """The user of one pipe, and a pipe for its own user.

    Args:
        pipe: connected, and without a user.
        using: what this end proves itself with, and what it believes.
        server: whether this is the host's end.
        name: of the host, for a guest that compares it with the certificate.
        peer: see `TlsEnd`.

    Attributes:
        proved: done when both ends have said all that they must; the error when it cannot come to that.
    """

    def __init__(
        self, pipe: Pipe, using: ssl.SSLContext, *, server: bool, name: str | None = None, peer: str = ""
    ) -> None:
        super().__init__(peer)
        self.name = pipe.name
        self.proved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pipe = pipe
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = using.wrap_bio(self._in, self._out, server_side=server, server_hostname=name)
        self._delivery = Delivery(pipe.pause_reading, pipe.resume_reading)
        self._closed = False
        self._error: Exception | None = None
        pipe.start(self)
        self._prove()

    @property
    def tls(self) -> ssl.SSLObject:
        """What was agreed on in the handshake."""
        return self._tls

    # what the pipe tells

    def received(self, data: bytes) -> None:
        """Bytes came."""
        if self._error is not None:
            return
        self._in.write(data)
        if self.proved.done():
            self._read()
        else:
            self._prove()

    def _prove(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            self._fail(error)
        else:
            self._flush()
            self.proved.set_result(None)
            self._read()

    def _read(self) -> None:
        pieces = []
        try:
            while piece := self._tls.read(_PIECE):
                pieces.append(piece)
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
        except ssl.SSLError as error:
            self._fail(error)
        self._flush()
        if pieces:
            self.at_peace()
            self._delivery.received(b"".join(pieces))

    def congested(self, congested: bool) -> None:
        """The other end does not keep up, or has caught up."""
        self._delivery.congested(congested)

    def lost(self, error: Exception | None) -> None:
        """The pipe is gone."""
        error = self._error or error
        if error is not None and not isinstance(error, ssl.SSLError):
            self.at_peace()  # the way is broken, and nobody has hung up
        if not self.proved.done():
            self.proved.set_exception(error or ConnectionResetError("it has hung up"))
            self.proved.exception()  # whoever waited may have given up
        self._delivery.lost(self.ended(error))

    def _fail(self, error: ssl.SSLError) -> None:
        """What came is not what the other end has written, or it is somebody else: say so, and end."""
        self._error = error
        self._flush()  # the alert
        self._pipe.close()

    def _flush(self) -> None:
        if data := self._out.read():
            self._pipe.write(data)

    # what the user asks

    def start(self, user: PipeUser) -> None:
        """Give the pipe its user."""
        self._delivery.start(user)

    def write(self, data: bytes) -> None:
        """Send bytes."""
        if data and not self.over and not self._closed and self._error is None:
            self._tls.write(data)
            self._flush()

    def pause_reading(self) -> None:
        """Deliver nothing for now."""
        self._delivery.pause()

    def resume_reading(self) -> None:
        """Deliver again."""
        self._delivery.resume()

    def close(self) -> None:
        """Deliver what was written, then end."""
        self.at_peace()
        if self._closed or self.over:
            return
        self._closed = True
        with suppress(ssl.SSLError):  # the other end has not said the same; it need not
            self._tls.unwrap()
        self._flush()
        self._pipe.close()

    def abort(self) -> None:
        """End now."""
        self.at_peace()
        self._closed = True
        self._pipe.abort()

    def end(self) -> None:
        """End now."""
        self.abort()
