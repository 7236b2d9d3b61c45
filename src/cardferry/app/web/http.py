"""HTTP in the event loop of the agent: uvicorn as part of a program with signals of its own; bounds for strangers."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final, NoReturn

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from cardferry.transports.accepting import Newcomers, accept

if TYPE_CHECKING:
    from starlette.types import ASGIApp

log = logging.getLogger(__name__)

#: Where an application finds, in a request's state, what the other end has proved itself with (DER).
CERTIFICATE: Final = "certificate"
#: Who has connected and has not asked for anything yet: so many, for so many s.
_MOST_SILENT: Final = 64
_SILENT: Final = 10.0
#: Connections that are answered at a time; others hear that it is too much.
_MOST: Final = 256
#: s that connections get to end.
_ENDING: Final = 1
_PIECES: Final = 8192


@asynccontextmanager
async def http(app: ASGIApp, listening: socket.socket, tls: ssl.SSLContext | None = None) -> AsyncIterator[None]:
    """Serve an application for the block.

    Args:
        app: what answers.
        listening: where; it stays the caller's to close.
        tls: for HTTPS; requests have the other end's certificate in their state then.
    """
    async with asyncio.TaskGroup() as tasks:
        server = _Server(_configuration(app), tls, tasks)
        serving = tasks.create_task(server.serve([listening]), name="HTTP")
        try:
            yield
        finally:
            server.stopped.set()
            await asyncio.wait((serving,))


class _Connection(H11Protocol):
    """A connection that goes when it says nothing, so that those who say nothing keep nobody else out."""

    @property
    def _silent(self) -> dict[_Connection, None]:
        silent: dict[_Connection, None] = self.app_state.setdefault("silent", {})
        return silent

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody has come."""
        super().connection_made(transport)
        silent = self._silent
        if (tls := transport.get_extra_info("ssl_object")) is not None:
            self.app_state = self.app_state | {CERTIFICATE: tls.getpeercert(binary_form=True)}
        silent[self] = None
        self.loop.call_later(_SILENT, self._late)
        while len(silent) > _MOST_SILENT:
            oldest = next(iter(silent))
            del silent[oldest]
            oldest.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        super().data_received(data)
        if self.cycle is not None:
            self._silent.pop(self, None)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._silent.pop(self, None)
        super().connection_lost(exc)

    def _late(self) -> None:
        if self in self._silent:
            self.transport.abort()


class _Server(uvicorn.Server):
    """uvicorn, with signals left alone and without polling; over TLS with bounds for those who prove nothing.

    Args:
        tls: for HTTPS.
        tasks: who owns what it starts for that.

    Attributes:
        stopped: set it to end.
    """

    def __init__(self, config: uvicorn.Config, tls: ssl.SSLContext | None, tasks: asyncio.TaskGroup) -> None:
        super().__init__(config)
        self.stopped = asyncio.Event()
        self._tls = tls
        self._tasks = tasks
        self._proving = Newcomers(_MOST_SILENT)
        self._accepting: asyncio.Task[NoReturn] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen: uvicorn does it, but for TLS, where it would keep whoever connects and says nothing."""
        if self._tls is None or sockets is None:
            await super().startup(sockets)
            return
        await self.lifespan.startup()
        self.servers = []
        self._accepting = self._tasks.create_task(accept(sockets[0], "the page", self._take, self._proving.dismiss))
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End."""
        if self._accepting is not None:
            self._accepting.cancel()
            self._proving.dismiss()
        await super().shutdown(sockets)

    async def _take(self, connection: socket.socket, _address: object) -> None:
        self._proving.add(self._tasks.create_task(self._prove(connection)))

    async def _prove(self, connection: socket.socket) -> None:
        def protocol() -> _Connection:
            return _Connection(self.config, self.server_state, self.lifespan.state)

        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                protocol, connection, ssl=self._tls, ssl_handshake_timeout=_SILENT
            )
        except OSError as error:
            log.debug("somebody has come to the page and proved nothing: %s", error)
        except asyncio.CancelledError:
            connection.close()
            raise

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield

    async def main_loop(self) -> None:
        """Wait for the end."""
        await self.stopped.wait()


def _configuration(app: ASGIApp) -> uvicorn.Config:
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # what is worth a line has one of ours
    return uvicorn.Config(
        app,
        http=_Connection,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        limit_concurrency=_MOST,
        timeout_graceful_shutdown=_ENDING,
        h11_max_incomplete_event_size=_PIECES,
    )
