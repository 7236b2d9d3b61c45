"""Runs the page in the agent's event loop: a listening socket, uvicorn's HTTP, and what the page shows."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from inspect import isawaitable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from cardferry.app.commands import guests as tls_guests
from cardferry.app.runtime.configuration import audit_path
from cardferry.app.runtime.paths import runtime_folder
from cardferry.app.runtime.status_socket import Running
from cardferry.app.web import view
from cardferry.app.web.address import WebAddress
from cardferry.app.web.audit_end import AuditEnd
from cardferry.app.web.live import Live, Sections
from cardferry.app.web.questions import PageQuestions
from cardferry.app.web.routes import Routes
from cardferry.app.web.signing_in import SigningIn
from cardferry.policy.guard import HostGuard
from cardferry.transports.tls.files import host_folder, write
from cardferry.transports.tls.guests import Guests

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

log = logging.getLogger(__name__)

#: Who has connected and has not asked for anything yet: so many, for so many s.
_MOST_SILENT: Final = 64
_SILENT: Final = 10.0
#: Connections that are answered at a time; others hear that it is too much.
_MOST: Final = 256
#: s that connections get to end.
_ENDING: Final = 1
_LINK: Final = "web-link"
_PIECES: Final = 8192

Describe = Callable[[], Running | Awaitable[Running | None] | None]


class WebPage:
    """The page; who has signed in stays so as long as this object is kept.

    Args:
        address: where it is.
        guard: of the agent; its person is asked on the page as well.
        more: further routes that need no signing in, such as metrics.

    Attributes:
        address: where it is; with the port that it has got, once it is there.
        live: what it shows.
    """

    live: Live

    def __init__(self, address: WebAddress, guard: HostGuard | None = None, more: Sequence[BaseRoute] = ()) -> None:
        self.address = address
        self._guard = guard
        self._more = more
        self._questions = PageQuestions()
        self._signing_in = SigningIn(self._tell_link)
        self._guests = Guests(host_folder())
        self._audit: AuditEnd | None = None

    @asynccontextmanager
    async def serve(self, describe: Describe) -> AsyncIterator[None]:
        """Be there for the block; raises `WebError` when it cannot be where it is to be.

        Args:
            describe: what the agent tells.
        """
        guard = self._guard
        with self.address.listen() as listening:
            self.address = WebAddress(*listening.getsockname()[:2])
            self._audit = AuditEnd(audit_path(guard.rulebook)) if guard is not None and guard.audits else None
            self.live = Live(lambda: self._look(describe))
            routes = Routes(self._signing_in, self.live, self._questions, f"cardferry-{self.address.port}", self._more)
            server = _Server(_configuration(routes.app))
            with guard.asking(self._questions) if guard is not None else nullcontext(), self._link():
                async with asyncio.TaskGroup() as tasks:
                    publishing = tasks.create_task(self.live.run(), name="the page")
                    serving = tasks.create_task(server.serve([listening]), name="the page's server")
                    try:
                        yield
                    finally:
                        publishing.cancel()
                        self.live.end()
                        server.stopped.set()
                        await asyncio.wait((serving,))

    async def _look(self, describe: Describe) -> Sections:
        described = describe()
        running = await described if isawaitable(described) else described
        seen = view.Seen(
            running,
            self._questions.open,
            tls_guests.listed([] if running is None else [running], self._guests),
            [words] if (words := tls_guests.wrong_secrets(self._guests)) else [],
            None if self._audit is None else self._audit.entries(),
            time.time(),
        )
        return view.sections(seen)

    # the link

    @contextmanager
    def _link(self) -> Iterator[None]:
        """The link is in a file of this account for the block: a log is no place for it."""
        self._signing_in.offer()
        try:
            yield
        finally:
            with suppress(OSError):
                self.link_file.unlink()

    @property
    def link_file(self) -> Path:
        """Where the link is."""
        return runtime_folder() / _LINK

    def _tell_link(self, secret: str) -> None:
        link = f"http://{self.address}/sign-in?secret={secret}"
        try:
            write(self.link_file, f"{link}\n".encode())
        except OSError as error:
            log.error("%s cannot be written: %s", self.link_file, error.strerror)
        if sys.stderr.isatty():
            log.info("the page, good for one browser: %s", link)
        else:
            log.info("the page is at http://%s; the link to sign in is in %s", self.address, self.link_file)


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
    """uvicorn as a part of a program that has signals of its own, and in which nothing polls.

    Attributes:
        stopped: set it to end.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stopped = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield

    async def main_loop(self) -> None:
        """Wait for the end."""
        await self.stopped.wait()


def _configuration(app: Any) -> uvicorn.Config:
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
