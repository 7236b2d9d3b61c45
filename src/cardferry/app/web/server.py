"""Runs the page beside the agent: what it shows, and who may see it, put together."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from inspect import isawaitable
from pathlib import Path
from typing import Final

from cardferry.app.commands import guests as tls_guests
from cardferry.app.runtime.configuration import audit_path
from cardferry.app.runtime.paths import runtime_folder
from cardferry.app.runtime.status_socket import Running
from cardferry.app.web import view
from cardferry.app.web.address import WebAddress
from cardferry.app.web.audit_end import AuditEnd
from cardferry.app.web.http import http
from cardferry.app.web.live import Live, Sections
from cardferry.app.web.questions import PageQuestions
from cardferry.app.web.routes import Routes
from cardferry.app.web.signing_in import SigningIn
from cardferry.app.web.viewers import Viewers
from cardferry.policy.guard import HostGuard
from cardferry.private_file import write_private
from cardferry.transports.tls.files import host_folder
from cardferry.transports.tls.guests import Guests

log = logging.getLogger(__name__)

_LINK: Final = "web-link"

Describe = Callable[[], Running | Awaitable[Running | None] | None]


class WebPage:
    """The page; who has signed in stays so as long as this object is kept.

    Args:
        address: where it is.
        guard: of the agent; its person is asked on the page as well.
        viewers: who may see it, over TLS; None for whoever has the link.

    Attributes:
        address: where it is; with the port that it has got, once it is there.
        live: what it shows.
    """

    live: Live

    def __init__(self, address: WebAddress, guard: HostGuard | None = None, viewers: Viewers | None = None) -> None:
        self.address = address
        self._guard = guard
        self._viewers = viewers
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
            routes = Routes(
                self._signing_in, self.live, self._questions, f"cardferry-{self.address.port}", self._viewers
            )
            tls = None if self._viewers is None else self._viewers.context()
            with guard.asking(self._questions) if guard is not None else nullcontext(), self._link():
                async with asyncio.TaskGroup() as tasks, http(routes.app, listening, tls):
                    publishing = tasks.create_task(self.live.run(), name="the page")
                    try:
                        yield
                    finally:
                        publishing.cancel()
                        self.live.end()

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
            configured=self._guard is not None and self._guard.rulebook.path is not None,
        )
        return view.sections(seen)

    # the link

    @contextmanager
    def _link(self) -> Iterator[None]:
        """The link is in a file of this account for the block: a log is no place for it."""
        if self._viewers is not None:
            log.info("the page is at https://%s, for those whom --web-viewer names", self.address)
            yield
            return
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
            write_private(self.link_file, f"{link}\n".encode())
        except OSError as error:
            log.error("%s cannot be written: %s", self.link_file, error.strerror)
        if sys.stderr.isatty():
            log.info("the page, good for one browser: %s", link)
        else:
            log.info("the page is at http://%s; the link to sign in is in %s", self.address, self.link_file)
