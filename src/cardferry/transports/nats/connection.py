"""A connection to a NATS service that lasts as long as its first socket does.

What was under way when a connection broke may be lost, and nobody says which part: so whoever uses a connection is told
of its end, and makes a new one, to whichever server of the service answers. ``nats-py`` is used without its own way of
connecting again, and without a limit of its own on what is to be sent, so that publishing never waits; the users of
connections have limits.

When a socket breaks while there is something left to send, the library gives up half-way through its own closing: one
of its tasks fails, and nobody is told. So a connection looks for itself, too, whether its client is closed
(`Connection.look`), and takes what those tasks fail with.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from cardferry.pcsc.reply import Reply, in_task, running
from cardferry.transports.nats.errors import ExtraMissingError, NatsError, NatsRefusesError
from cardferry.transports.nats.explaining import explained
from cardferry.transports.nats.proving import is_seed, tls_context
from cardferry.transports.nats.settings import FleetSettings, host_and_port, public

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.js import JetStreamContext

log = logging.getLogger(__name__)

#: s until a server that does not answer is given up.
_CONNECT_TIME: Final = 5.0
#: s after which the next server is tried beside one that does not answer: its computer may be gone.
_NEXT_AFTER: Final = 0.5
#: s that a connection gets for its end, with all that is said in it, and, when nothing is left of these, to be closed.
_END_TIME: Final = 1.0
_CLOSE_TIME: Final = 0.1
#: s between two looks whether a server is still there, and how many it may leave unanswered.
_PING, _UNANSWERED = 2, 2
#: s between two looks whether the library has closed a connection and said nothing; after an error it is looked soon.
_LOOK, _SOON = 1.0, 0.05
#: The library's own tasks for as long as a connection lasts.
_TASKS: Final = ("_reading_task", "_flusher_task", "_ping_interval_task")
_NO_RESPONDERS: Final = "503"

#: Connections that are being closed.
_LEAVING: Final[set[Reply[None]]] = set()


class Connection:
    """See the module; `connect` makes one.

    Args:
        client: the library's own.
        where: see below.
        named: servers of the same service that we know by name.

    Attributes:
        where: the server, for people.
        lost: done when the connection is gone.
        denied: called with what the service says it does not let us do.
    """

    def __init__(self, client: Client, where: str, named: int = 1) -> None:
        self.where = where
        self._named = named
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.denied: Callable[[str], None] = lambda what: log.warning("NATS at %s: %s", where, what)
        self._client = client
        self._timer: asyncio.TimerHandle | None = None
        self._end: float | None = None

    @property
    def client(self) -> Client:
        """The library's own."""
        return self._client

    @property
    def servers(self) -> int:
        """How many servers the service has: so many are named here, or have said that they are there."""
        return max(self._named, len({(one.hostname, one.port) for one in self._client.servers}))

    @property
    def jetstream(self) -> JetStreamContext:
        """What keeps the directory."""
        return self._client.jetstream()

    def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        """Send a message; on a connection that is lost it vanishes."""
        if self._client.is_closed:
            self.ended()
        if not self.lost.done():
            sent = running(self._client.publish(subject, data, reply))
            if not sent.done():
                raise AssertionError("publishing waits")

    async def subscribe(self, subject: str, took: Callable[[str, bytes, Mapping[str, str]], None]) -> None:
        """Take messages from now on.

        Args:
            took: gets subject, data and header of each.
        """

        async def take(message: Msg) -> None:
            took(message.subject, message.data, message.headers or {})

        with explained(self.where):
            await self._client.subscribe(subject, cb=take)

    async def flush(self) -> None:
        """Wait until the server has seen all that was sent, subscriptions as well; raises `NatsError`."""
        with explained(self.where):
            await self._client.flush(timeout=int(_CONNECT_TIME))

    async def own_address(self) -> str:
        """This computer as it is seen from there: its name and IP address, for people."""
        host, port = host_and_port(self.where)
        name = socket.gethostname()
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
            with socket.socket(found[0][0], socket.SOCK_DGRAM) as probe:
                probe.connect(found[0][4])  # which sends nothing
                return f"{name} ({probe.getsockname()[0]})"
        except OSError:
            return name

    @property
    def end(self) -> float:
        """Until when, in the loop's time, it may be waited for the service: the end begins when this is asked first."""
        if self._end is None:
            self._end = asyncio.get_running_loop().time() + _END_TIME
        return self._end

    async def finish(self) -> None:
        """Wait in the end until the server has seen what was sent, if it does so in time."""
        with suppress(NatsError, TimeoutError):
            async with asyncio.timeout_at(self.end):
                await self.flush()

    async def close(self) -> None:
        """Be done with it."""
        until = max(self.end, asyncio.get_running_loop().time() + _CLOSE_TIME)
        try:
            # What is left cannot be sent; it was never there; a TLS that was refused is never closed (cpython#29970).
            with suppress(OSError, AssertionError, TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._client.close()
        finally:
            self.ended()

    async def over(self) -> None:
        """Wait until it is gone. (Who waits for `lost` itself and is cancelled would cancel that.)"""
        await asyncio.wait({self.lost})

    def leave(self) -> None:
        """Likewise, without waiting for it."""
        if not self.lost.done():
            self.ended()
            leaving = in_task(asyncio.get_running_loop().create_task, self._leave())
            _LEAVING.add(leaving)
            leaving.then(_LEAVING.discard)

    async def _leave(self) -> None:
        await self.finish()
        await self.close()

    def ended(self) -> None:
        """The connection is gone."""
        if self._timer is not None:
            self._timer.cancel()
        if not self.lost.done():
            self.lost.set_result(None)

    def look(self, after: float = _LOOK) -> None:
        """See whether it is gone, and from now on every `_LOOK` s.

        Args:
            after: s until the first look.
        """
        if self._timer is not None:
            self._timer.cancel()
        if not self.lost.done():
            self._timer = asyncio.get_running_loop().call_later(after, self._looked)

    def stopped(self, task: asyncio.Task[None]) -> None:
        """One of the library's own tasks has ended, which says why to nobody else."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.debug("NATS at %s: %s", self.where, error)
        self.look(0)

    def _looked(self) -> None:
        if self._client.is_closed:
            self.ended()
        else:
            self.look()


def no_responders(header: Mapping[str, str]) -> bool:
    """Whether a message is the server's own, which says that nobody gets what was sent."""
    return header.get("Status") == _NO_RESPONDERS


def check_extra() -> None:
    """See that the library is there; raises `ExtraMissingError`."""
    try:
        import nats.aio.client  # noqa: F401, PLC0415 - only for who needs it
    except ImportError:
        raise ExtraMissingError(
            "the library for fleets is not installed",
            "install it with the extra fleet, as in: uv tool install './cardferry[fleet]'",
        ) from None


def check_servers(settings: FleetSettings) -> None:
    """See that there is a server to connect to; raises `NatsRefusesError`."""
    if not settings.servers:
        raise NatsRefusesError(
            "no NATS server of a fleet is known here",
            "name them: --fleet nats://HOST:4222, or servers in the table [fleet] of the configuration",
        )


async def connect(settings: FleetSettings) -> Connection:
    """Connect to any one of the servers, the first that answers; raises `UserError`."""
    check_extra()
    check_servers(settings)
    results: list[Connection | NatsError] = []
    attempts = _attempts(settings, tls_context(settings), results)
    try:
        async with asyncio.TaskGroup() as tasks:
            trying = {tasks.create_task(next(attempts))}
            while trying:
                _, trying = await asyncio.wait(trying, timeout=_NEXT_AFTER, return_when=asyncio.FIRST_COMPLETED)
                if any(isinstance(one, Connection) or not one.heals for one in results):
                    break
                if (another := next(attempts, None)) is not None:
                    trying.add(tasks.create_task(another))
            for task in trying:
                task.cancel()
    except asyncio.CancelledError:
        _leave_all(results)
        raise
    found = next((one for one in results if isinstance(one, Connection)), None)
    _leave_all(one for one in results if one is not found)
    if found is None:
        raise min((one for one in results if isinstance(one, NatsError)), key=lambda error: error.heals)
    return found


def _attempts(
    settings: FleetSettings, using: ssl.SSLContext | None, results: list[Connection | NatsError]
) -> Iterator[Coroutine[Any, Any, None]]:
    """Attempts at the servers, in no order; what each comes to is added to ``results``."""

    async def attempt(server: str) -> None:
        try:
            results.append(await _connect(server, settings, using))
        except NatsError as error:
            results.append(error)

    return (attempt(server) for server in random.sample(settings.servers, len(settings.servers)))


def _leave_all(results: Iterable[Connection | NatsError]) -> None:
    for one in results:
        if isinstance(one, Connection):
            one.leave()


@asynccontextmanager
async def connected(settings: FleetSettings) -> AsyncIterator[Connection]:
    """Likewise, for the block."""
    connection = await connect(settings)
    try:
        yield connection
    finally:
        await connection.close()


async def _connect(server: str, settings: FleetSettings, using: ssl.SSLContext | None) -> Connection:
    from nats.aio.client import Client  # noqa: PLC0415 - an extra

    client = Client()
    connection = Connection(client, public(server), len(settings.servers))
    failures: list[Exception] = []

    async def error(failure: Exception) -> None:
        text = str(failure)
        if "permissions violation" in text.lower():
            connection.denied(text.removeprefix("nats: "))
        elif not client.is_connected:
            failures.append(failure)
        else:
            log.debug("NATS at %s: %s", connection.where, text or type(failure).__name__)
            connection.look(_SOON)

    async def closed() -> None:
        connection.ended()

    seed = is_seed(settings.credentials)
    try:
        with explained(connection.where):
            async with asyncio.timeout(2 * _CONNECT_TIME):
                await client.connect(
                    servers=[server],
                    error_cb=error,
                    closed_cb=closed,
                    name=f"cardferry {settings.token}",
                    allow_reconnect=False,
                    connect_timeout=int(_CONNECT_TIME),
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    ping_interval=_PING,
                    max_outstanding_pings=_UNANSWERED,
                    pending_size=0,
                    inbox_prefix=f"cardferry.inbox.{settings.token}",
                    tls=using,
                    user_credentials=None if seed else settings.credentials or None,
                    nkeys_seed=settings.credentials if seed else None,
                )
    except NatsError as failed:
        await connection.close()
        raise _better(failed, failures, connection.where, tls=using is not None) from None
    except BaseException:
        await connection.close()
        raise
    connection.look()
    for name in _TASKS:
        if isinstance(task := getattr(client, name, None), asyncio.Task):
            task.add_done_callback(connection.stopped)
    return connection


def _better(failed: NatsError, failures: list[Exception], where: str, *, tls: bool) -> NatsError:
    """What went wrong first; in the end the library only says that no server is left."""
    failures.sort(key=lambda one: not isinstance(one, ssl.SSLError))  # what TLS says is why the rest happened
    try:
        if failures:
            with explained(where):
                raise failures[0]
    except NatsError as error:
        failed = error
    if tls and failed.heals and isinstance(failed.__context__, ConnectionError):  # the reason can come too late
        return NatsError(
            f"NATS at {where} hung up when TLS began",
            "if it wants a certificate of this computer, name one that its authority has signed: "
            "cert and key in the table [fleet]; its log says why",
        )
    return failed


def still_wanted() -> None:
    """Raise `asyncio.CancelledError` in a task that was cancelled, if that was lost on the way.

    The library waits with `asyncio.wait_for`, which up to Python 3.11 returns an answer that has just come instead of
    raising (https://github.com/python/cpython/issues/86296). So whatever asks it again and again looks here in between.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
