"""TLS inside of any pipe, so that who carries the pipe sees nothing (``ssl.MemoryBIO``).

Event loops can do TLS themselves, over a socket; uvloop needs 45 us more for each message then
(``docs/link-performance.md``). Here a message is encrypted and written in one piece, and what comes is
decrypted in the moment when it comes, in the buffer that is overwritten (`cardferry.wiping`).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

from cardferry.transports.base import Pipe, PipeUser
from cardferry.transports.delivery import Delivery
from cardferry.transports.errors import RevokedError
from cardferry.transports.tls.errors import TlsError, what_is_wrong
from cardferry.wiping import room_for, wipe_soon

#: Bytes of the largest record (RFC 8446, 5.1).
_RECORD: Final = 16 * 1024
_zeros: Final = memoryview(bytes(_RECORD))


class TlsInside:
    """The user of one pipe, and a pipe for its own user.

    Args:
        pipe: connected, and without a user.
        using: what this end proves itself with, and what it believes.
        server: whether this is the host's end.
        name: of the host, for a guest that compares it with the certificate.
        peer: the other end in words, for the error when it says nothing and hangs up; empty at a host.

    Attributes:
        tls: what was agreed on in the handshake.
        proved: done when both ends have said all that they must; the error when it cannot come to that.
        gone: called when the pipe is lost.
        over: whether that was so.
    """

    def __init__(
        self, pipe: Pipe, using: ssl.SSLContext, *, server: bool, name: str | None = None, peer: str = ""
    ) -> None:
        self.name = pipe.name
        self.gone: Callable[[], None] = lambda: None
        self.over = False
        self.proved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pipe = pipe
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = using.wrap_bio(self._in, self._out, server_side=server, server_hostname=name)
        self._delivery = Delivery(pipe.pause_reading, pipe.resume_reading)
        self._closed = False
        self._peer = peer
        self._error: Exception | None = None
        self._timer: asyncio.TimerHandle | None = None
        pipe.start(self)
        self._prove()

    # what the pipe tells

    def received(self, data: bytes) -> None:
        """Bytes came."""
        if self._closed:
            return
        self._in.write(data)
        if self.proved.done():
            self._read()
        else:
            self._prove()

    def _prove(self) -> None:
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            self._fail(error)
        else:
            self._flush()
            if not self.proved.done():  # whoever waited may have given up
                self.proved.set_result(None)
            self._read()

    def _read(self) -> None:
        while self._in.pending and not self._closed:
            if (data := self._record()) is not None:
                self._peer = ""
                self._delivery.received(data)
        if self._out.pending:  # new keys, say
            self._flush()

    def _record(self) -> bytes | None:
        """The content of the next record; None when it has none for the user, or is not whole yet."""
        room, read = room_for(_RECORD), cast(Any, self.tls).read  # typeshed: it reads into no memoryview
        try:
            size = read(_RECORD, room)
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLZeroReturnError:
            size = 0
        except ssl.SSLError as error:
            self._fail(error)
            return None
        if not size:  # the other end has said that nothing comes any more
            self._say_good_bye()
            self._pipe.close()
            return None
        data = room[:size].tobytes()
        room[:size] = _zeros[:size]
        wipe_soon()
        return data

    def congested(self, congested: bool) -> None:
        """The other end does not keep up, or has caught up."""
        self._delivery.congested(congested)

    def lost(self, error: Exception | None) -> None:
        """The pipe is gone."""
        if self._timer is not None:
            self._timer.cancel()
        self.over = True
        self.gone()
        error = self._error or error
        if error is not None and not isinstance(error, ssl.SSLError | ConnectionResetError):
            self._peer = ""  # the way is broken, and nobody has hung up
        if not self.proved.done():
            self.proved.set_exception(error or ConnectionResetError("it has hung up"))
            self.proved.exception()  # whoever waited may have given up
        elif self._peer and not isinstance(error, RevokedError):
            error = self._turned_away(error)
        self._delivery.lost(error)

    def _turned_away(self, error: Exception | None) -> TlsError:
        """In TLS 1.3 a host looks at the guest's certificate when the guest believes that all is said."""
        says = what_is_wrong(error) if isinstance(error, ssl.SSLError) else "has hung up without a word"
        hint = "the log of cardferry host there says why; for a new one: cardferry invite NAME there, and join anew"
        return TlsError(f"{self._peer} {says}: it does not want the certificate of this computer", hint)

    def _fail(self, error: ssl.SSLError) -> None:
        """What came is not what the other end has written, or it is somebody else: say so, and end."""
        self._error = error
        self._closed = True
        if not self.proved.done():
            self.proved.set_exception(error)
            self.proved.exception()  # whoever waited may have given up
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
        if data and not self.over and not self._closed:
            self.tls.write(data)
            self._pipe.write(self._out.read())

    def pause_reading(self) -> None:
        """Deliver nothing for now."""
        self._delivery.pause()

    def resume_reading(self) -> None:
        """Deliver again."""
        self._delivery.resume()

    def close(self) -> None:
        """Deliver what was written, then end."""
        self._peer = ""  # which has done nothing wrong
        if not self._closed and not self.over:
            self._say_good_bye()
            self._pipe.close()

    def _say_good_bye(self) -> None:
        self._closed = True
        with suppress(ssl.SSLError):  # that the other end has not said it yet
            self.tls.unwrap()
        self._flush()

    def abort(self) -> None:
        """End now."""
        self._peer = ""  # which has done nothing wrong
        self._closed = True
        self._pipe.abort()

    def abort_in(self, seconds: float) -> None:
        """End after so many s."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, seconds), self.abort)

    def revoke(self, why: str) -> None:
        """End now: who is at the other end must not be here any more, so its session ends, too."""
        self._error = RevokedError(why)
        self.abort()
