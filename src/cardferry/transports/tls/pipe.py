"""A pipe over TLS: a TCP connection whose bytes are encrypted here, and an end for those who may not stay.

Event loops can do TLS themselves; uvloop needs 45 us more for each message then (``docs/link-performance.md``). So
OpenSSL is called here: a message is encrypted and written in one piece, and what comes is decrypted in the moment when
it comes, into the buffer that is overwritten (`cardferry.wiping`).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

from cardferry.transports.errors import RevokedError
from cardferry.transports.tls.errors import TlsError, what_is_wrong
from cardferry.transports.unix import SocketPipe

#: s that the other end has to take what was written last, and to hang up.
_CLOSING_TIME: Final = 30.0


class TlsPipe(SocketPipe):
    """See the module. Before it is used, `proved` must be done.

    Args:
        name: where it leads.
        context: what this end proves itself with, and what it believes.
        server: this end has taken the connection.
        dialled: the name that was dialled, at the other end.
        peer: the other end in words, for the error when it says nothing and hangs up; empty at a host.

    Attributes:
        tls: what was agreed on in the handshake.
        proved: done when the handshake is; raises `OSError` (`ssl.SSLError` is one) when it has failed.
    """

    def __init__(
        self, name: str, context: ssl.SSLContext, *, server: bool = False, dialled: str | None = None, peer: str = ""
    ) -> None:
        super().__init__(name)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server, server_hostname=dialled)
        self.proved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._peer = peer
        self._timer: asyncio.TimerHandle | None = None
        #: Why the pipe is ended from this side.
        self._error: Exception | None = None
        #: Called when the pipe is lost; whether that was so.
        self.gone: Callable[[], None] = lambda: None
        self.over = False
        self._made = self._closed = False

    # the handshake

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """There is a connection: prove who is at its ends."""
        self._made = True
        super().connection_made(transport)
        self._transport.resume_reading()
        self._shake_hands()

    def _shake_hands(self) -> None:
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            self._flush()  # the alert that says what is wrong
            self._fail(error)
        else:
            self._flush()
            if not self.proved.done():
                self.proved.set_result(None)

    def _flush(self) -> None:
        if self._outgoing.pending and not self._transport.is_closing():
            self._transport.write(self._outgoing.read())

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        self._closed = True
        self._transport.close()

    # bytes

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes came."""
        view = self.get_buffer(nbytes)
        incoming, read = self._incoming, cast(Any, self.tls).read  # typeshed: it reads into no memoryview
        incoming.write(view[:nbytes])
        if not self.proved.done():
            self._shake_hands()
        if not self.proved.done():
            return
        try:
            while incoming.pending:
                size = read(len(view), view)
                if not size:
                    self._ended()
                    break
                super().buffer_updated(size)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._ended()
        except ssl.SSLError as error:
            self._flush()
            self._fail(error)
            return
        if self._outgoing.pending:  # new keys, say
            self._flush()

    def data_received(self, data: bytes) -> None:
        """Decrypted bytes came."""
        if self._closed:
            return
        self._peer = ""
        self._delivery.received(data)

    def _ended(self) -> None:
        """The other end has said that nothing comes any more."""
        self._peer = "" if self._closed else self._peer
        self._say_good_bye()
        self._transport.close()

    def write(self, data: bytes) -> None:
        """Send bytes."""
        if data and not self._closed and not self._transport.is_closing():
            try:
                self.tls.write(data)
            except ssl.SSLError as error:
                self._fail(error)
            else:
                self._transport.write(self._outgoing.read())

    # the end

    def abort_in(self, seconds: float) -> None:
        """End after so many s."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, seconds), self._expire)

    def _expire(self) -> None:
        self._peer = ""  # which has done nothing wrong
        self.abort()

    def close(self) -> None:
        """Deliver what was written, then end, when the other end has it or after `_CLOSING_TIME`.

        A connection that is closed before all is read from it may not deliver the last of what was written to it.
        """
        self._peer = ""  # it may have nothing to say
        if self._closed or self._transport.is_closing():
            return
        self._closed = True
        self._say_good_bye()
        self._transport.write_eof()
        self._transport.resume_reading()
        self.abort_in(_CLOSING_TIME)

    def _say_good_bye(self) -> None:
        with suppress(ssl.SSLError):  # that the other end has not said it yet
            self.tls.unwrap()
        self._flush()

    def end(self) -> None:
        """End now, whether it has begun or not."""
        if self._made:
            self.abort()

    def revoke(self, why: str) -> None:
        """End now: who is at the other end must not be here any more, so its session ends, too."""
        self._error = RevokedError(why)
        self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone."""
        if self._timer is not None:
            self._timer.cancel()
        self.over = True
        self.gone()
        error = self._error or error
        if not self.proved.done():
            self.proved.set_exception(error or ConnectionResetError("the connection was closed"))
        elif self._peer and not isinstance(error, RevokedError):
            # In TLS 1.3 a host looks at the guest's certificate when the guest believes that all is said.
            says = what_is_wrong(error) if isinstance(error, ssl.SSLError) else "has hung up without a word"
            hint = "the log of cardferry host there says why; for a new one: cardferry invite NAME there, and join anew"
            error = TlsError(f"{self._peer} {says}: it does not want the certificate of this computer", hint)
        super().connection_lost(error)
