"""Readers that the service of the whole computer lends: the real service and its other end, both in this process."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cardferry.app.agent.server import AgentSettings
from cardferry.app.commands import system
from cardferry.app.commands.system import _System
from cardferry.app.hosts import system_readers
from cardferry.app.hosts.attachment import Attachment
from cardferry.app.hosts.direct_link import LinkHost
from cardferry.app.hosts.lend import LentReaders
from cardferry.app.hosts.multiple import reached_all
from cardferry.app.hosts.sources import LOCAL_PCSCD, VIRTUAL_READER, VirtualHost
from cardferry.app.hosts.system_readers import SystemReaders, lent
from cardferry.app.runtime import status_socket, system_service
from cardferry.app.runtime.paths import agent_path, runtime_folder
from cardferry.app.runtime.request import Request
from cardferry.app.runtime.service import Service, fronts
from cardferry.app.runtime.spawn import BackgroundError
from cardferry.link import Guest, LinkState
from cardferry.pcsc.caller import Caller, Principal, PrincipalKind
from cardferry.policy.polkit import Polkit
from cardferry.system.peers import user_name
from cardferry.transports.base import Pipe
from cardferry.transports.listening import ListeningSocket
from cardferry.transports.unix import UnixAddress, adopt
from cardferry.wire.link.greeting import Reason
from tests.app.agent.at_work import SELECT, agent, use
from tests.app.handoffs import PATIENCE
from tests.frontends.library import BEGIN, END, Build, Library

BUILD = Build(4)
ACCOUNT = user_name(os.getuid())
#: What this account may say of its guests: as root any name counts as it is.
WITHIN = "" if os.getuid() == 0 else f"{ACCOUNT}/"
FAR = Principal(PrincipalKind.SSH, "far")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the service and this account are."""
    tmp_path.chmod(0o755)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    for module in (system, system_readers):
        monkeypatch.setattr(module, "SYSTEM_GUESTS", tmp_path / "guests")
    monkeypatch.setattr(system, "SYSTEM_STATUS", tmp_path / "status")
    monkeypatch.setattr(
        system_readers, "system_running", lambda: status_socket._ask(tmp_path / "status", lambda *_: None)
    )
    return tmp_path


@asynccontextmanager
async def service(folder: Path) -> AsyncIterator[Path]:
    """The service at work; yields the public socket."""
    with ListeningSocket(folder / "public") as public:
        everything = _System([], public)  # type: ignore[arg-type]
        settings = AgentSettings(VirtualHost(), around=everything.accounts.around, beside=everything.beside)
        async with agent(settings):
            yield public.path


@asynccontextmanager
async def readers(request: Request | None = None) -> AsyncIterator[SystemReaders]:
    async with asyncio.timeout(PATIENCE), SystemReaders(request or Request()) as here:
        yield here


async def test_guests_programs_at_our_sockets_and_those_of_everybody_are_in_one_queue(folder: Path) -> None:
    async with service(folder) as public, readers() as share:
        with ListeningSocket(folder / "front") as front:
            await share.programs(front, Caller(FAR, guest="far"))
            assert (await share.describe()).guests == [], "who has not come yet is no guest"
            async with (
                Library(BUILD, public) as local,
                Library(BUILD, folder / "front") as far,
                Guest(lambda: share.dial(Principal(PrincipalKind.SSH, "build1"), "build1")) as linked,
                asyncio.TaskGroup() as tasks,
            ):
                await local.establish()
                card, _ = await local.connect(VIRTUAL_READER)
                await local.ask(BEGIN, "iI", card, 0)
                await far.establish()
                far_card, _ = await far.connect(VIRTUAL_READER)
                far.tell(BEGIN, "iI", far_card, 0)
                await linked.ready()
                waiting = tasks.create_task(use(linked))
                while len((await share.describe()).readers[0].waiters) < 2:
                    assert not waiting.done()
                (reader,) = (await share.describe()).readers
                assert reader.principal == f"local-user:{ACCOUNT}"
                assert {one.principal for one in reader.waiters} == {f"ssh:{WITHIN}build1", f"ssh:{WITHIN}far"}
                assert {guest.guest for guest in (await share.describe()).guests} == {"build1", "far"}
                await local.ask(END, "iII", card, 0, 0)
                assert (await far.hear("iI"))[1] == 0
                await far.ask(END, "iII", far_card, 0, 0)


async def handed(share: SystemReaders) -> tuple[Guest, asyncio.Task[None]]:
    """A guest behind a stream that is handed over, as `share` does it."""
    near, far = socket.socketpair()
    serving = asyncio.get_running_loop().create_task(share.serve(far, FAR, "far"))
    streams = [near]

    async def dial() -> Pipe:
        if not streams:
            raise ConnectionError("there is one")
        return await adopt(streams.pop(), "the service")

    return Guest(dial), serving


async def test_a_guest_hears_good_bye_when_the_share_ends(folder: Path) -> None:
    async with service(folder):
        async with readers() as share:
            guest, serving = await handed(share)
            await guest.__aenter__()
            await guest.ready()
        assert guest.farewell is not None
        assert guest.farewell.reason is Reason.CLOSED
        serving.cancel()
        async with readers() as another:
            assert (await another.describe()).guests == [], "it holds nothing any more"
        await guest.__aexit__(None, None, None)


async def test_a_guest_of_a_share_that_was_killed_is_out_of_reach_and_may_come_back(folder: Path) -> None:
    async with service(folder), readers() as share:
        guest, serving = await handed(share)
        async with guest:
            await guest.ready()
            for writer in share._handed:
                writer.close()  # as the kernel does
            while guest.state is LinkState.UP:
                await share.describe()
            assert guest.farewell is None
            (known,) = (await share.describe()).guests
            assert not known.connected
        serving.cancel()


async def test_what_a_share_offers_is_all_that_its_guests_see(folder: Path) -> None:
    async with service(folder), readers(Request(offered=("no such reader",))) as share:
        async with Guest(lambda: share.dial(FAR, "far")) as guest:
            await guest.ready()
            assert guest.snapshot.readers == ()
        assert (await share.describe()).readers == []


async def test_whoever_polkit_keeps_from_cards_is_told_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def no(*_: object) -> bool:
        return False

    async with service(folder):
        monkeypatch.setattr(Polkit, "may", no)
        async with readers() as share:
            with pytest.raises(BackgroundError, match=f"polkit keeps cards from {ACCOUNT}, process {os.getpid()}"):
                await share.serve(socket.socketpair()[0], FAR, "far")
            told = await share.describe()
            assert (told.readers, told.guests, [one.cause for one in told.troubles]) == ([], [], ["refused"])


@pytest.mark.parametrize("beside_another", [False, True])
async def test_an_attach_of_this_computers_readers_is_in_that_queue(
    folder: Path, monkeypatch: pytest.MonkeyPatch, beside_another: bool
) -> None:
    """Also beside other hosts, whose readers are in the same socket: each host is reached by itself."""
    monkeypatch.setattr(system_readers, "has_the_queue", lambda request: request.readers == str(LOCAL_PCSCD))
    hosts = (LOCAL_PCSCD, LinkHost(UnixAddress(folder / "away"))) if beside_another else (LOCAL_PCSCD,)
    (work := folder / "work").mkdir(mode=0o700)
    with ListeningSocket(folder / "mine") as mine:
        async with (
            service(folder),
            reached_all(Attachment(hosts), work) as reached,
            fronts(reached.manager, [(mine, None)], Service()),
            readers() as look,
        ):
            await reached.known()
            async with Library(BUILD, mine.path) as library:
                await library.establish()
                card, _ = await library.connect(VIRTUAL_READER)
                await library.transmit(card, 2, SELECT)
                await library.ask(BEGIN, "iI", card, 0)
                await library.transmit(card, 2, SELECT)
                async with asyncio.timeout(10):
                    told = f"local-user:{ACCOUNT}"
                    while (await look.describe()).readers[0].principal != told:  # noqa: ASYNC110 - it is asked for
                        await asyncio.sleep(0.01)
                await library.ask(END, "iII", card, 0, 0)


async def test_bounds_of_the_queue_are_not_an_accounts_and_it_is_told(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with service(folder), readers(Request(max_idle=1.0)):
        assert "bounds of this computer's service apply" in caplog.text
    caplog.clear()
    async with service(folder), readers():
        assert "bounds" not in caplog.text


async def test_a_service_that_has_gone_is_waited_for(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with service(folder):
        share = await SystemReaders(Request()).__aenter__()
    assert (await share.describe()).state == "the service of this computer has gone"
    await share.serve(socket.socketpair()[0], FAR, "far")  # returns: it is tried again
    with pytest.raises(OSError, match=r"No such file|refused"):
        await share.dial(FAR, "far")
    waiting = asyncio.get_running_loop().create_task(share.ready())
    while "it is waited for: systemctl restart cardferry-system" not in caplog.text:
        await asyncio.wait((waiting,), timeout=0.01)
    assert not waiting.done()
    async with service(folder):
        await asyncio.wait_for(waiting, PATIENCE)
        async with Guest(lambda: share.dial(FAR, "far")) as guest:
            await guest.ready()
        await share.__aexit__(None, None, None)


@pytest.mark.parametrize(
    "request_",
    [
        Request(record="/tmp/record"),
        Request(config="/home/ada/rules"),
        Request(readers="virtual:"),
        Request(readers="pcscd:/elsewhere"),
    ],
)
def test_what_the_service_does_not_do_for_an_account_is_its_agents(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system_service, "serves", lambda config: True)
    assert system_service.has_the_queue(Request(offered=("PIV*",), max_idle=1.0, memory=False))
    assert isinstance(lent(Request(), "a test"), SystemReaders)
    assert not system_service.has_the_queue(request_)
    assert isinstance(lent(request_, "a test"), LentReaders)


def test_an_agent_that_is_there_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_service, "serves", lambda config: True)
    with ListeningSocket(agent_path(runtime_folder())):
        assert not system_service.has_the_queue(Request())
    assert system_service.has_the_queue(Request())


def test_an_account_with_rules_of_its_own_is_not_the_services(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is there one where it does not answer, or where the socket is not root's."""
    owner = {"uid": 0}
    stat = Path.stat

    def owned(path: Path, **more: bool) -> os.stat_result:
        found = list(stat(path, **more))
        found[4] = owner["uid"]
        return os.stat_result(found)

    monkeypatch.setattr(Path, "stat", owned)
    config, guests = folder / "config", folder / "guests"
    config.mkdir()
    assert not system_service.serves(config, guests)
    with ListeningSocket(guests):
        assert system_service.serves(config, guests)
        owner["uid"] = 1000
        assert not system_service.serves(config, guests)
        owner["uid"] = 0
        (config / "config.toml").touch()
        assert not system_service.serves(config, guests)


async def test_a_service_that_takes_the_streams_and_says_nothing_is_none(folder: Path) -> None:
    with ListeningSocket(folder / "guests") as guests:
        guests.socket.setblocking(True)
        async with readers() as share:
            dialling = asyncio.get_running_loop().create_task(share.dial(FAR, "far"))
            connection, _ = await asyncio.to_thread(guests.socket.accept)
            connection.close()
            with pytest.raises(ConnectionError):
                await dialling
