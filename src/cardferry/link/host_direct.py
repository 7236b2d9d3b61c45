"""On the host: connections of a guest's own, beside the pipe through which it has come.

The guest asks through that pipe, with a certificate that it has made for this one attempt. The host answers where it
waits for whoever has the key of that certificate (`Introducer`), and the session moves there when it comes. Who it is
stays as it was proved over the first pipe. That one is kept as the spare one: without it, the other one is ended after
`ALONE_TIME`, because who may not log in any more may not stay either.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final
from typing import Protocol as Interface

from cardferry.link import messages as m
from cardferry.link.channel import Channel, PipeEnd
from cardferry.pcsc.errors import CardferryError
from cardferry.transports.base import Pipe

log = logging.getLogger(__name__)

#: s that a connection of the guest's own may outlive the pipe through which it was asked for.
ALONE_TIME: Final = 60.0
#: s between two of them for one guest: what they cost is bounded.
_PAUSE: Final = 0.2


class Introducer(Interface):
    """Takes connections of guests that have come in another way."""

    async def introduce(self, certificate: bytes, serve: Callable[[Pipe], Awaitable[None]]) -> m.Introduction:
        """Wait for whoever has the key of that certificate, from now on and for a short time, once.

        Args:
            certificate: the guest's (DER).
            serve: gets the pipe to it; returns when that is of no use any more.

        Raises:
            OSError | CardferryError: that cannot be.
        """
        ...


class DirectPipes:
    """What one session has to do with this.

    Args:
        channel: of the session.
        start: runs something in a task that must not raise.
        post: tells the guest.

    Attributes:
        introducer: how the way through which the guest has come last allows it; None when it does not.
        serve: gives the session a pipe to its guest; returns when that is of no use any more.
    """

    def __init__(
        self,
        channel: Channel,
        start: Callable[[Coroutine[Any, Any, None]], object],
        post: Callable[[m.FromHost], None],
    ) -> None:
        self.introducer: Introducer | None = None
        self.serve: Callable[[Pipe], Awaitable[None]]
        self._channel = channel
        self._start = start
        self._post = post
        self._busy = False
        self._end: PipeEnd | None = None

    @property
    def used(self) -> bool:
        """Whether the session runs over a connection of the guest's own now."""
        return self._end is not None and self._channel.end is self._end

    @property
    def _alone(self) -> bool:
        """Whether nothing has proved any more, since this connection was made, that the guest may still log in."""
        return self.used and self._channel.spare is None

    def came(self, introducer: Introducer | None) -> None:
        """The guest has come through a pipe that allows this, or not."""
        self.introducer = introducer
        self._channel.session.returns = introducer is not None

    def asked(self, message: m.Introduce) -> None:
        """The guest wants one."""
        if self._busy:
            self._post(m.Introduction("", 0, refusal="one after the other, and not too fast"))
            return
        self._busy = True
        self._start(self._introduce(message.certificate))

    async def _introduce(self, certificate: bytes) -> None:
        try:
            if self.introducer is None or self._alone:
                answer = m.Introduction("", 0, refusal="the host does not allow it to this key")
            else:
                answer = await self.introducer.introduce(certificate, self.serve)
        except (OSError, CardferryError) as error:
            log.warning("%s: no direct connection can be taken: %s", self._channel.name, error)
            answer = m.Introduction("", 0, refusal=str(error)[: m.MOST_TEXT])
        except Exception:  # the boundary that `cardferry.link.channel` describes
            log.exception("%s: a bug behind an introduction", self._channel.name)
            answer = m.Introduction("", 0, refusal="an error at the host; its log has it")
        if not self._channel.ended:
            self._post(answer)
        await asyncio.sleep(_PAUSE)
        self._busy = False

    def attach(self, pipe: Pipe) -> PipeEnd:
        """The guest has come through a connection of its own: use that."""
        end = self._end = self._channel.attach(pipe, spares=not self._alone)
        if self._channel.spare is None:
            self.spare_lost()
        return end

    def spare_lost(self) -> None:
        """See the module."""
        asyncio.get_running_loop().call_later(ALONE_TIME, self._check, self._end)

    def _check(self, end: PipeEnd | None) -> None:
        if end is self._end and self.used and self._channel.spare is None:
            log.warning("%s: ended, because the connection that had introduced it is gone", self._channel.name)
            self._channel.drop(ConnectionAbortedError("the connection that had introduced it is gone"))
