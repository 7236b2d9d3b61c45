"""Readers of this computer: behind a pcsc-lite socket, dialled in, or built in."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Final, Self

from cardferry.app.hosts.address import HostAddress
from cardferry.app.hosts.connect import OpenedReaders, ReachedHost, Way, reached_over_link
from cardferry.app.hosts.ssh_link import link_over, link_state
from cardferry.app.hosts.system_readers import lent
from cardferry.app.runtime.service import Service
from cardferry.app.runtime.status_socket import Link
from cardferry.pcsc.caller import Principal, PrincipalKind
from cardferry.pcsc.errors import UserError
from cardferry.pcsc.trouble import Cause, Trouble
from cardferry.system.peers import user_name
from cardferry.transports.errors import (
    AddressSyntaxError,
    PcscdDownError,
    PcscdMissingError,
    PcscdRefusesError,
    TransportError,
)
from cardferry.transports.listening import ListeningSocket
from cardferry.transports.probe import Answer, ask_version
from cardferry.transports.sockets import absolute_path

log = logging.getLogger(__name__)

#: Name of the reader that holds the built-in card. Tools that look for their own maker's readers find this one.
VIRTUAL_READER: Final = "Yubico YubiKey CCID cardferry"
UP: Final = "up"
_MAX_PORT: Final = 65535


class CardPortError(UserError):
    """The TCP port for cards that dial in cannot be opened."""

    exit_code = 13


class LocalHost(HostAddress):
    """Readers of this computer: one process serves them, in one queue, and lends them to who wants them."""

    __slots__ = ()

    @asynccontextmanager
    async def reach(self, way: Way) -> AsyncIterator[ReachedHost]:
        """The readers as a guest of that process sees them; programs with a socket of their own need no such link."""
        name, user = str(self), Principal(PrincipalKind.LOCAL_USER, user_name(os.getuid()))
        timing = way.timing
        request = Service(settings=way.settings).request(name, timing.grace)
        async with (
            lent(request, own_process(), tells=True) as readers,
            link_over(lambda: readers.dial(user, own_process()), name, timing, host="", memory=way.memory) as guest,
        ):
            reached = reached_over_link(name, guest)
            yield replace(reached, links=lambda path: [Link(name, link_state(guest), path)])


def own_process() -> str:
    """What this process is called in the agent's log and ``status``."""
    return f"cardferry (process {os.getpid()})"


@dataclass(frozen=True, slots=True)
class PcscdHost(LocalHost):
    """A pcsc-lite socket on this computer."""

    FORMS: ClassVar[tuple[str, ...]] = ("pcscd:PATH",)

    path: Path

    @classmethod
    def parse(cls, rest: str, text: str) -> Self:
        """What follows ``pcscd:``; raises `AddressSyntaxError`."""
        return cls(absolute_path(rest, text, "pcscd:/run/pcscd/pcscd.comm"))

    def __str__(self) -> str:
        return f"pcscd:{self.path}"

    @asynccontextmanager
    async def open_readers(self, way: Way) -> AsyncIterator[OpenedReaders]:
        """The readers of that pcscd."""
        del way
        await check_pcscd(self.path)
        watched = WatchedPcscd(self.path, str(self.path))
        yield OpenedReaders(watched.source, watched.known.wait, watched.state)


@dataclass(frozen=True, slots=True)
class VpiccHost(LocalHost):
    """Cards that dial in, as they do to vpcd: to a TCP port of this computer, or to a Unix socket.

    Any user of this computer can reach the port; the socket has access rights.
    """

    FORMS: ClassVar[tuple[str, ...]] = ("vpicc:PORT", "vpicc:unix:PATH")

    where: int | Path

    @classmethod
    def parse(cls, rest: str, text: str) -> Self:
        """What follows ``vpicc:``; raises `AddressSyntaxError`."""
        if rest.startswith(("/", "unix:")):
            return cls(absolute_path(rest.removeprefix("unix:"), text, "vpicc:unix:/run/cards/card"))
        if not rest.isascii() or not rest.isdigit() or not 0 < int(rest) <= _MAX_PORT:
            raise AddressSyntaxError(f"not a port: {text!r}", "write it as in vpicc:35963, vpcd's own")
        return cls(int(rest))

    def __str__(self) -> str:
        return f"vpicc:{self.where}" if isinstance(self.where, int) else f"vpicc:unix:{self.where}"

    def _label(self) -> str:
        return f"vpicc-{self.where}".replace("-/", "/")

    @asynccontextmanager
    async def open_readers(self, way: Way) -> AsyncIterator[OpenedReaders]:
        """A reader, and one more for each card that dials in."""
        del way
        from cardferry.readers.vpicc import VpiccSource  # noqa: PLC0415 - only where cards dial in

        with ExitStack() as stack:
            if isinstance(self.where, int):
                source = VpiccSource(port=self.where)
            else:
                elsewhere = "choose another path, as in vpicc:unix:PATH"
                listening = stack.enter_context(ListeningSocket(self.where, elsewhere=elsewhere))
                source = VpiccSource(listening=listening.socket)
            try:
                await source.listen()
            except OSError as error:
                raise CardPortError(
                    f"cards cannot dial in at port {self.where}: {error.strerror}",
                    "choose another port, as in vpicc:35963",
                ) from None
            if isinstance(self.where, int):
                log.info(
                    "any user of this computer can put a card in at port %d; vpicc:unix:PATH is for you alone",
                    self.where,
                )
            yield OpenedReaders(source, _at_once, lambda: UP)


@dataclass(frozen=True, slots=True)
class VirtualHost(LocalHost):
    """The built-in card."""

    FORMS: ClassVar[tuple[str, ...]] = ("virtual:",)

    @classmethod
    def parse(cls, rest: str, text: str) -> Self | None:
        """Nothing follows ``virtual:``; None when something does."""
        del text
        return None if rest else cls()

    def __str__(self) -> str:
        return "virtual:"

    @asynccontextmanager
    async def open_readers(self, way: Way) -> AsyncIterator[OpenedReaders]:
        """A reader with the card in it."""
        del way
        from cardferry.cards.piv import PivCard  # noqa: PLC0415 - brings cryptography along
        from cardferry.readers.virtual import VirtualReaderSource  # noqa: PLC0415

        source = VirtualReaderSource()
        source.add_reader(VIRTUAL_READER).insert(PivCard.personalised())
        yield OpenedReaders(source, _at_once, lambda: UP)


#: The pcscd of this computer.
LOCAL_PCSCD: Final = PcscdHost(Path("/run/pcscd/pcscd.comm"))
_PCSCD_PATHS: Final = (LOCAL_PCSCD.path, Path("/var/run/pcscd/pcscd.comm"))
#: Where services are, which are not in everybody's PATH.
_SERVICES: Final = "/usr/sbin:/usr/local/sbin:/sbin:/usr/bin"


def missing_hint(path: Path) -> str:
    """What to do where no socket is: is the reader here, is the daemon?"""
    if path not in _PCSCD_PATHS:
        return f"name the socket of a pcscd that runs, such as pcscd:{LOCAL_PCSCD.path}"
    if shutil.which("pcscd", path=_SERVICES) is not None:
        here = "systemctl enable --now pcscd.socket"
    else:
        here = "apt install pcscd"
    return f"is the reader plugged in at another computer? cardferry attach HOST; only if it is at this one: {here}"


def restart_hint(path: Path, unit: str = "pcscd") -> str:
    """What to do about a server that does not answer at a path: pcscd's own, or whoever else should be there."""
    return f"restart it: systemctl restart {unit}" if path in _PCSCD_PATHS else "start anew what serves there"


async def check_pcscd(path: Path) -> None:
    """See that a pcscd on this computer answers; raises `TransportError` with what to do if it does not."""
    place = str(path)
    try:
        answer = await ask_version(path)
    except FileNotFoundError:
        raise _error(PcscdMissingError, Cause.MISSING, place, missing_hint(path)) from None
    except PermissionError:
        raise _error(PcscdRefusesError, Cause.NOT_PERMITTED, place) from None
    except BlockingIOError:
        raise PcscdDownError(
            f"the queue of connections at {path} is full: pcscd takes none", restart_hint(path)
        ) from None
    except OSError:
        if not path.is_socket():  # noqa: ASYNC240 - at once
            raise PcscdMissingError(f"{path} is not a socket", "name the socket of a pcscd") from None
        raise _error(PcscdDownError, Cause.DOWN, place, restart_hint(path, "pcscd.socket")) from None
    match answer:
        case Answer.CLOSED:
            raise _error(PcscdRefusesError, Cause.REFUSED, place)
        case Answer.SILENT:
            raise _error(PcscdDownError, Cause.SILENT, place, restart_hint(path))


def _error(kind: type[TransportError], cause: Cause, place: str, hint: str = "") -> TransportError:
    """The error that says the same as everybody is told of that trouble later.

    Args:
        hint: what to do, where more is known of that than by whom it is told later.
    """
    trouble = Trouble(cause, place)
    return kind(trouble.says, hint or trouble.hint)


class WatchedPcscd:
    """A pcscd's readers, and whether they have been reported.

    Args:
        path: of a socket here.
        name: where that pcscd is, for people.
        connection: ``up``, or why nothing can be at ``path``, of a socket that is forwarded; None where it is not.
    """

    def __init__(self, path: Path, name: str, connection: Callable[[], str] | None = None) -> None:
        from cardferry.readers.pcscd import PcscdSource, unix_connector  # noqa: PLC0415

        self.known = asyncio.Event()
        self._connection = connection or (lambda: UP)
        dial_socket = unix_connector(str(path))

        async def dial(factory: Callable[[], asyncio.Protocol]) -> object:
            if self._connection() != UP:
                raise ConnectionError(self._connection())
            return await dial_socket(factory)

        def on_state(up: bool, failure: object) -> None:
            del failure
            if up:
                self.known.set()

        self.source = PcscdSource(dial, name, on_state, forwarded=connection is not None)

    def state(self) -> str:
        """``up``, or why not; that of the connection first."""
        state, trouble = self._connection(), self.source.trouble
        if state == UP and trouble is not None and trouble.cause is not Cause.NO_READER:
            state = trouble.says
        return state


async def _at_once() -> None:
    """What is there is reported when the source starts: one turn of the loop."""
    await asyncio.sleep(0)
