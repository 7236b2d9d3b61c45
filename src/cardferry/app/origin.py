"""Where the readers come from: each kind of `Host` becomes a source of readers, with what must run beside it.

An ``ssh`` host's pcscd is forwarded to a private socket here (``ssh -L``), so to the reader source it is a pcscd like
the local one that goes away and comes back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cardferry.app.host import Host, PcscdHost, SshHost, VirtualHost, VpiccHost
from cardferry.app.supervise import Supervisor
from cardferry.readers.base import ReaderSource
from cardferry.transports.errors import PcscdDownError, PcscdMissingError, PcscdRefusesError
from cardferry.transports.probe import Answer, ask_version
from cardferry.transports.ssh import SshCommand, SshConnection, connect, forward_pcscd

log = logging.getLogger(__name__)

#: Name of the reader that holds the built-in card. Tools that look for their own maker's readers find this one.
VIRTUAL_READER: Final = "Yubico Virtual cardferry"
_UP: Final = "up"


@dataclass(frozen=True, slots=True)
class Origin:
    """Readers that are about to be served.

    Attributes:
        source: what reports them.
        known: waits until the first list of readers has been reported; call it while the source runs.
        state: ``up``, or why the readers cannot be reached.
    """

    source: ReaderSource
    known: Callable[[], Awaitable[object]]
    state: Callable[[], str]


@asynccontextmanager
async def opened(host: Host, ssh: SshCommand, parts: Path) -> AsyncIterator[Origin]:
    """The readers of ``host`` for the block.

    Args:
        ssh: the ssh program.
        parts: a private folder for sockets between parts of this process.

    Raises:
        UserError: they cannot be reached; later losses are mended.
    """
    match host:
        case SshHost(destination):
            async with _over_ssh(destination, ssh, parts) as origin:
                yield origin
        case PcscdHost(path):
            await check_pcscd(path)
            yield _Watched(path, str(path)).origin
        case VpiccHost(port):
            yield _vpicc(port)
        case VirtualHost():
            yield _virtual()


async def check_pcscd(path: Path) -> None:
    """See that a pcscd on this computer answers; raises `TransportError` with what to do if it does not."""
    try:
        answer = await ask_version(path)
    except FileNotFoundError:
        raise PcscdMissingError(
            f"there is no pcscd socket at {path}", "install and start it here: apt install pcscd"
        ) from None
    except PermissionError:
        raise PcscdRefusesError(f"this account may not use {path}", f"see ls -l {path}") from None
    except OSError as error:
        raise PcscdDownError(
            f"nobody listens at {path}: {error.strerror}", "start it: systemctl restart pcscd.socket"
        ) from None
    match answer:
        case Answer.CLOSED:
            raise PcscdRefusesError(
                f"pcscd at {path} turned us away",
                "its polkit rule org.debian.pcsc-lite.access_pcsc wants an active desktop session, or a rule for you",
            )
        case Answer.SILENT:
            raise PcscdDownError(f"pcscd at {path} does not answer", "restart it: systemctl restart pcscd")


class _Watched:
    """A pcscd's readers, and whether they have been reported.

    Args:
        path: of a socket here.
        name: where that pcscd is, for people.
        carrier: ``up``, or why nothing can be at ``path``.
    """

    def __init__(self, path: Path, name: str, carrier: Callable[[], str] = lambda: _UP) -> None:
        from cardferry.readers.pcscd import PcscdSource, unix_dial  # noqa: PLC0415 - only if needed

        self.known = asyncio.Event()
        self._carrier = carrier
        dial_socket = unix_dial(str(path))

        async def dial(factory: Callable[[], asyncio.Protocol]) -> object:
            if carrier() != _UP:
                raise ConnectionError(carrier())
            return await dial_socket(factory)

        def on_state(up: bool, _failure: Exception | None) -> None:
            if up:
                self.known.set()

        self.source = PcscdSource(dial, name, on_state)

    def state(self) -> str:
        """``up``, or why not; the carrier's reason first."""
        carrier = self._carrier()
        if carrier != _UP:
            return carrier
        return _UP if self.source.failure is None else f"pcscd {self.source.failure}"

    @property
    def origin(self) -> Origin:
        """As `opened` yields it."""
        return Origin(self.source, self.known.wait, self.state)


@asynccontextmanager
async def _over_ssh(destination: str, ssh: SshCommand, parts: Path) -> AsyncIterator[Origin]:
    path = parts / "pcscd"
    up = asyncio.Event()

    @asynccontextmanager
    async def dial() -> AsyncIterator[SshConnection]:
        async with connect(destination, ssh, parts) as connection:
            await forward_pcscd(connection, path)
            yield connection

    def on_up() -> None:
        up.set()
        watched.source.reconnect_now()

    supervisor = Supervisor(destination, dial, on_up)
    watched = _Watched(path, destination, lambda: supervisor.state)
    async with asyncio.TaskGroup() as tasks:
        keeping = tasks.create_task(supervisor.run(), name=f"connection to {destination}")
        await up.wait()
        yield watched.origin
        keeping.cancel()


def _virtual() -> Origin:
    from cardferry.cards.piv import PivCard  # noqa: PLC0415 - brings cryptography along
    from cardferry.readers.virtual import VirtualReaderSource  # noqa: PLC0415

    source = VirtualReaderSource()
    source.add_reader(VIRTUAL_READER).insert(PivCard.personalised())
    return Origin(source, _at_once, lambda: _UP)


def _vpicc(port: int) -> Origin:
    from cardferry.readers.vpicc import VpiccSource  # noqa: PLC0415 - only where cards dial in

    source = VpiccSource(port=port)
    return Origin(source, _at_once, lambda: _UP)


async def _at_once() -> None:
    """What is there is reported when the source starts: one turn of the loop."""
    await asyncio.sleep(0)
