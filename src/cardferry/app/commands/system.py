"""What the unit of ``setup system`` runs: the one socket at which every program looks, for all accounts.

Frontend( Authorized( LocalManager( pcscd ) ) )                                  where the reader is
Frontend( Authorized( Union( LocalManager( pcscd ), Guest( ssh ), ... ) ) )      where other computers' readers are used
LinkServer( Authorized( LocalManager( pcscd ) ) )                                guests, in the same queue

systemd listens at the public socket, and hands it over. pcscd has moved behind us, to a socket that is root's alone.
Sessions of ssh, of any account, hand their guests over (`stdio_session`), and so do `share` and `attach` of accounts
(`system_readers`); what an account says of them counts for that account alone.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import msgspec

from cardferry.app.agent.handoff_server import HandoffServer, Tell
from cardferry.app.agent.server import AgentSettings, OpenServing, serve
from cardferry.app.agent.serving import Serving
from cardferry.app.commands.system_status import HERE, SystemStatus, shown_to
from cardferry.app.hosts.address import HostAddress
from cardferry.app.hosts.attachment import Attachment
from cardferry.app.hosts.multiple import reached_all
from cardferry.app.hosts.sources import PcscdHost
from cardferry.app.runtime.configuration import host_guard
from cardferry.app.runtime.handoff import Handoff
from cardferry.app.runtime.paths import SYSTEM_FOLDER, SYSTEM_GUESTS, SYSTEM_STATUS, runtime_folder, scratch
from cardferry.app.runtime.request import Request
from cardferry.app.runtime.service import Service
from cardferry.app.runtime.spawn import StartReport
from cardferry.app.runtime.status_socket import Running, answering
from cardferry.app.runtime.telling import telling
from cardferry.fleet import Member
from cardferry.frontends.pcsclite import PcscliteFrontend
from cardferry.pcsc.caller import Caller, Principal, PrincipalKind
from cardferry.pcsc.errors import UserError
from cardferry.pcsc.interface import ResourceManager
from cardferry.policy.authorized import Authorized
from cardferry.policy.polkit import ACCESS_PCSC, Polkit, Subject
from cardferry.system.activation import listening_sockets
from cardferry.system.peers import peer_credentials, start_time, user_name
from cardferry.system.service_manager import service_manager
from cardferry.transports.base import Pipe
from cardferry.transports.errors import PcscdRefusesError
from cardferry.transports.listening import ListeningSocket

log = logging.getLogger(__name__)

#: Where libpcsclite looks, and where pcscd is meanwhile (`cardferry.app.commands.system_setup` moves it).
PUBLIC: Final = Path("/run/pcscd/pcscd.comm")
BEHIND: Final = Path("/run/pcscd/behind-cardferry.comm")
#: The access rights of pcscd's own socket, and of the one for guests.
_EVERYBODY: Final = 0o666
_RULE: Final = "docs/troubleshooting.md has a rule to paste; it must name this account"


class NoPublicSocketError(UserError):
    """systemd has not handed the public socket over."""

    exit_code = 58


class _Public:
    """The public socket, which stays systemd's; see `Listening`."""

    def __init__(self, path: Path, handed: Sequence[socket.socket]) -> None:
        self.path = path
        found = [one for one in handed if one.family is socket.AF_UNIX and one.getsockname() == str(path)]
        if not found:
            raise NoPublicSocketError(
                f"nobody has opened {path} for this process", "systemctl start cardferry-system.socket"
            )
        self.socket = found[0]


async def serve_everybody(hosts: Sequence[HostAddress], public: Path = PUBLIC, behind: Path = BEHIND) -> None:
    """Serve all programs of this computer until cancelled.

    Args:
        hosts: whose readers are there, too.
        public, behind: sockets, see above.

    Raises:
        UserError: the readers of this computer cannot be reached, or the rules are wrong.
    """
    system = _System(hosts, _Public(public, listening_sockets()))
    SYSTEM_FOLDER.mkdir(mode=0o755, exist_ok=True)  # units of an earlier version do not make it
    if not behind.is_socket():  # noqa: ASYNC240 - at once
        log.info("no pcscd is here: programs get the readers of %s", " ".join(map(str, hosts)) or "nobody")
        async with system.programs(None):
            await asyncio.get_running_loop().create_future()
    service = Service(guard=host_guard(everybody=True))
    await serve(AgentSettings(PcscdHost(behind), service, around=system.accounts.around, beside=system.beside))


class _System:
    """What is served beside the agent of the computer's own readers."""

    def __init__(self, hosts: Sequence[HostAddress], public: _Public) -> None:
        self._hosts = hosts
        self._public = public
        self._polkit = Polkit()
        self.accounts = Accounts(self._polkit)
        self._status = SystemStatus(public.path, self.accounts.servings)

    @asynccontextmanager
    async def beside(self, own: Serving, open_as: OpenServing) -> AsyncIterator[None]:
        """Serve programs, and guests of all accounts, for the block."""
        async with AsyncExitStack() as stack:
            self.accounts.serve_with(own, open_as)
            place = ListeningSocket(SYSTEM_GUESTS, _EVERYBODY)
            stack.enter_context(place)
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            server = HandoffServer(place.socket, self.accounts.receive, proved=self.accounts.proved)
            taking = tasks.create_task(server.run(), name="guests of accounts")
            stack.callback(taking.cancel)
            await stack.enter_async_context(self.programs(own))
            yield

    @asynccontextmanager
    async def programs(self, own: Serving | None) -> AsyncIterator[None]:
        """Serve programs at the public socket for the block.

        Args:
            own: this computer's readers, None where there is no pcscd.
        """
        async with self._manager(own) as manager:
            authorized = Authorized(manager, self._polkit)
            async with PcscliteFrontend(authorized, self._public, admit=self._admit) as front:
                self._status.front = front
                with ListeningSocket(SYSTEM_STATUS, _EVERYBODY) as asked:
                    async with answering(asked, self._describe):
                        log.info("programs find the readers at %s", self._public.path)
                        state = f"programs find the readers at {self._public.path}"
                        service_manager().tell(READY="1", STATUS=state)
                        yield

    @asynccontextmanager
    async def _manager(self, own: Serving | None) -> AsyncIterator[ResourceManager]:
        if not self._hosts and own is not None:
            yield own.host.manager
            return
        here = [] if own is None else [Member(HERE, own.host.manager)]
        for member in here:
            member.known.set()
        wanted = Attachment(tuple(self._hosts), wait=True)
        with scratch(runtime_folder()) as workdir:
            async with reached_all(wanted, workdir, here, patient=True) as reached, telling(reached.manager):
                self._status.hosts = reached
                yield reached.manager

    async def _admit(self, caller: Caller) -> bool:
        subject = Subject.of(caller)
        return subject is not None and await self._polkit.may(subject, ACCESS_PCSC)

    async def _describe(self, connection: socket.socket) -> Running:
        subject = _subject_at(connection)
        if not await self._polkit.may(subject, ACCESS_PCSC):
            return self._status.refused(_kept_from(subject), _RULE)
        whole = self._status.whole()
        return whole if subject.uid == 0 else shown_to(whole, subject.uid, user_name(subject.uid))


def _subject_at(connection: socket.socket) -> Subject:
    """The process at the other end."""
    pid, uid = peer_credentials(connection)
    return Subject(pid, start_time(pid), uid)


def _kept_from(subject: Subject) -> str:
    """What polkit does to a process."""
    return f"polkit keeps cards from {user_name(subject.uid)}, process {subject.pid}"


class _Proved(Handoff, frozen=True):
    """What comes along with streams, as far as it is proved.

    Attributes:
        subject: the process that has handed them over.
        connection: to that process, whose end is the end of what it has handed over.
    """

    subject: Subject = Subject(0, 0, -1)
    connection: socket.socket | None = None


class Accounts:
    """Guests that accounts hand over, whose account is what the kernel says and not what they say.

    Args:
        polkit: is asked about the process that hands them over, as pcscd would ask.
    """

    def __init__(self, polkit: Polkit) -> None:
        self._polkit = polkit
        self._subjects: defaultdict[Principal, list[Subject]] = defaultdict(list)
        self._own: Serving | None = None
        self._open_as: OpenServing | None = None
        self._used: list[Serving] = []

    def serve_with(self, own: Serving, open_as: OpenServing) -> None:
        """Say what serves this computer's readers, and what opens them as somebody wants them."""
        self._own, self._open_as = own, open_as

    def servings(self) -> list[Serving]:
        """How the readers are served now: the service's own way first."""
        return [] if self._own is None else list(dict.fromkeys((self._own, *self._used)))

    def around(self, manager: ResourceManager) -> ResourceManager:
        """This computer's readers as guests have them."""
        return Authorized(manager, self._polkit, self._subject)

    def _subject(self, caller: Caller) -> Subject | None:
        """Guests of an account are the process that brought them; programs have been asked about."""
        here = self._subjects.get(caller.principal) if caller.session else None
        return here[-1] if here else None

    def proved(self, connection: socket.socket, handoff: Handoff) -> Handoff:
        """What is known of a guest: the account is the kernel's word, a key's name is the account's own.

        What it asks for is granted as far as it is about that guest: which readers are offered, and how it is served.
        Bounds of the queue are about others, and files would be root's.
        """
        subject = _subject_at(connection)
        account = user_name(subject.uid)
        kind, name = handoff.principal
        if kind is not PrincipalKind.SSH:
            kind, name = PrincipalKind.LOCAL_USER, account
        elif subject.uid != 0:
            name = account if name == account else f"{account}/{name}"
        asked = handoff.request or Request()
        granted = Request(
            offered=asked.offered, grace=min(asked.grace, Request().grace), accelerate=asked.accelerate,
            memory=asked.memory,
        )  # fmt: skip
        return _Proved(handoff.name, principal=(kind, name), request=granted, subject=subject, connection=connection)

    async def receive(self, pipe: Pipe, handoff: Handoff, tell: Tell) -> None:
        """Serve such a guest until its pipe is lost, or whoever has brought it goes."""
        if not isinstance(handoff, _Proved) or self._own is None or self._open_as is None:
            raise TypeError(handoff)
        subject, principal = handoff.subject, Principal(*handoff.principal)
        if not await self._polkit.may(subject, ACCESS_PCSC):
            tell(StartReport.of(PcscdRefusesError(_kept_from(subject), _RULE)))
            return
        here = self._subjects[principal]
        here.append(subject)
        try:
            readers = self._own.served.name
            request = msgspec.structs.replace(handoff.request or Request(), readers=readers)
            async with self._open_as(request) as serving:
                self._used.append(serving)
                try:
                    with _leaving(handoff.connection) as leaving:
                        await serving.host.serve(pipe, principal, handoff.name, leaving=leaving)
                finally:
                    self._used.remove(serving)
        finally:
            here.remove(subject)
            if not here:
                self._subjects.pop(principal, None)


@contextmanager
def _leaving(connection: socket.socket | None) -> Iterator[asyncio.Future[bool] | None]:
    """When whoever has brought a guest goes, and whether it says that this is the end of it: see `LinkServer.serve`."""
    if connection is None:
        yield None
        return
    loop = asyncio.get_running_loop()
    leaving: asyncio.Future[bool] = loop.create_future()

    def look() -> None:
        loop.remove_reader(connection)
        try:
            said = connection.recv(1)
        except OSError:
            said = b""
        if not leaving.done():
            leaving.set_result(bool(said))

    loop.add_reader(connection, look)
    try:
        yield leaving
    finally:
        loop.remove_reader(connection)
