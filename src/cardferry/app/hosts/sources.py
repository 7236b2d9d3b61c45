"""Where the readers come from: each kind of `Host` becomes a source of readers, with what must run beside it.

An ``ssh`` host's pcscd is forwarded to a private socket here (``ssh -L``), so to the reader source it is a pcscd like
the local one that goes away and comes back.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cardferry.app.hosts.address import Host, PcscdHost, SshHost, UnixHost, VirtualHost, VpiccHost, VsockHost, spelled
from cardferry.app.hosts.ssh_connection import Carrier
from cardferry.app.runtime.retry import Supervisor
from cardferry.pcsc.errors import UserError
from cardferry.readers.base import ReaderSource
from cardferry.transports.errors import PcscdDownError, PcscdMissingError, PcscdRefusesError
from cardferry.transports.listening import ListeningSocket
from cardferry.transports.probe import Answer, ask_version
from cardferry.transports.ssh import SshCommand, SshConnection, forward_pcscd

log = logging.getLogger(__name__)

#: Name of the reader that holds the built-in card. Tools that look for their own maker's readers find this one.
VIRTUAL_READER: Final = "Yubico YubiKey CCID cardferry"
_UP: Final = "up"


class CardPortError(UserError):
    """The TCP port for cards that dial in cannot be opened."""

    exit_code = 13


class LinkedHostError(UserError):
    """The host is another cardferry, not a place with readers."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Origin:
    """Readers that are about to be served.

    Attributes:
        source: what reports them.
        known: waits until the first list of readers has been reported, or it is known that this will take longer;
            call it while the source runs.
        state: ``up``, or why the readers cannot be reached.
    """

    source: ReaderSource
    known: Callable[[], Awaitable[object]]
    state: Callable[[], str]


@asynccontextmanager
async def opened(
    host: Host, ssh: SshCommand, parts: Path, *, patient: bool = False, one_of_several: bool = False
) -> AsyncIterator[Origin]:
    """The readers of ``host`` for the block.

    Args:
        ssh: the ssh program.
        parts: a private folder for sockets between parts of this process.
        patient: whether an ssh host may be away at first.
        one_of_several: the first attempt is given up sooner, and nothing that happens later ends the block.

    Raises:
        UserError: they cannot be reached; later losses are mended.
    """
    match host:
        case SshHost(destination):
            async with (
                Carrier(destination, ssh, parts, hurry=one_of_several) as carrier,
                forwarded(carrier, parts, patient=patient, enduring=one_of_several) as origin,
            ):
                yield origin
        case PcscdHost(path):
            await check_pcscd(path)
            yield _Watched(path, str(path)).origin
        case UnixHost() | VsockHost():
            raise LinkedHostError(
                f"{spelled(host)} can only be linked with", f"cardferry attach {spelled(host)}, without --no-link"
            )
        case VpiccHost(int() as port):
            yield await _vpicc(port)
        case VpiccHost(Path() as path):
            with ListeningSocket(path, elsewhere="choose another path, as in vpicc:unix:PATH") as listening:
                yield await _vpicc(listening)
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
        raise PcscdRefusesError(f"this account may not use {path}", f"see ls -l {shlex.quote(str(path))}") from None
    except BlockingIOError:
        raise PcscdDownError(
            f"the queue of connections at {path} is full: pcscd takes none", "restart it: systemctl restart pcscd"
        ) from None
    except OSError as error:
        if not _is_socket(path):
            raise PcscdMissingError(f"{path} is not a socket", "name the socket of a pcscd") from None
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


def _is_socket(path: Path) -> bool:
    return path.is_socket()


class _Watched:
    """A pcscd's readers, and whether they have been reported.

    Args:
        path: of a socket here.
        name: where that pcscd is, for people.
        carrier: ``up``, or why nothing can be at ``path``.
    """

    def __init__(self, path: Path, name: str, carrier: Callable[[], str] = lambda: _UP) -> None:
        from cardferry.readers.pcscd import NoPcscdError, PcscdSource, Reason, unix_connector  # noqa: PLC0415

        self.known = asyncio.Event()
        self._carrier = carrier
        told = False
        dial_socket = unix_connector(str(path))

        async def dial(factory: Callable[[], asyncio.Protocol]) -> object:
            if carrier() != _UP:
                raise ConnectionError(carrier())
            return await dial_socket(factory)

        def on_state(up: bool, failure: NoPcscdError | None) -> None:
            """Tell a person what the carrier does not tell, and what is not over at the next attempt."""
            nonlocal told
            if up:
                self.known.set()
                if told:
                    log.warning("pcscd at %s is back", name)
                told = False
            elif failure is not None and failure.reason is not Reason.LOST and carrier() == _UP:
                log.warning("pcscd at %s %s", name, failure)
                told = True

        self.source = PcscdSource(dial, name, on_state)

    def state(self) -> str:
        """``up``, or why not; the carrier's reason first."""
        state = self._carrier()
        if state == _UP and self.source.failure is not None:
            state = f"pcscd {self.source.failure}"
        return state

    @property
    def origin(self) -> Origin:
        """As `opened` yields it."""
        return Origin(self.source, self.known.wait, self.state)


@asynccontextmanager
async def forwarded(
    carrier: Carrier, parts: Path, *, patient: bool = False, enduring: bool = False
) -> AsyncIterator[Origin]:
    """The readers of a host's pcscd, whose socket is forwarded for the block; losses are mended.

    Args:
        carrier: the way to the host.
        parts: a private folder for sockets between parts of this process.
        patient: whether the host may be away at first.
        enduring: nothing that happens after the first connection ends the block.
    """
    path = parts / "pcscd"
    destination = carrier.destination

    @asynccontextmanager
    async def dial() -> AsyncIterator[SshConnection]:
        connection = await carrier.connection()
        try:
            await forward_pcscd(connection, path)
            yield connection
        finally:
            await carrier.drop()

    async def known() -> None:
        if supervisor.error is None:
            await watched.known.wait()

    def on_up() -> None:
        watched.source.reconnect_now()

    supervisor = Supervisor(destination, dial, on_up, patient=patient, enduring=enduring)
    watched = _Watched(path, destination, lambda: supervisor.state)
    async with asyncio.TaskGroup() as tasks:
        keeping = tasks.create_task(supervisor.run(), name=f"connection to {destination}")
        await supervisor.tried.wait()
        yield Origin(watched.source, known, watched.state)
        keeping.cancel()


def _virtual() -> Origin:
    from cardferry.cards.piv import PivCard  # noqa: PLC0415 - brings cryptography along
    from cardferry.readers.virtual import VirtualReaderSource  # noqa: PLC0415

    source = VirtualReaderSource()
    source.add_reader(VIRTUAL_READER).insert(PivCard.personalised())
    return Origin(source, _at_once, lambda: _UP)


async def _vpicc(where: int | ListeningSocket) -> Origin:
    from cardferry.readers.vpicc import VpiccSource  # noqa: PLC0415 - only where cards dial in

    source = VpiccSource(port=where) if isinstance(where, int) else VpiccSource(listening=where.socket)
    try:
        await source.listen()
    except OSError as error:
        raise CardPortError(
            f"cards cannot dial in at port {where}: {error.strerror}", "choose another port, as in vpicc:35963"
        ) from None
    if isinstance(where, int):
        log.info("any user of this computer can put a card in at port %d; vpicc:unix:PATH is for you alone", where)
    return Origin(source, _at_once, lambda: _UP)


async def _at_once() -> None:
    """What is there is reported when the source starts: one turn of the loop."""
    await asyncio.sleep(0)
