"""What the agent lends: to programs at sockets of another command, to guests behind its pipes, all in one queue."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cardferry.app.agent.server import AgentSettings, serve
from cardferry.app.agent.serving import Serving, serving
from cardferry.app.hosts import lend_messages as m
from cardferry.app.hosts.lend import AgentLink, LentReaders, NotLentError
from cardferry.app.hosts.sources import VIRTUAL_READER, VirtualHost
from cardferry.app.runtime.handoff import Handoff
from cardferry.app.runtime.paths import agent_path, runtime_folder
from cardferry.app.runtime.request import Request
from cardferry.app.runtime.service import Service
from cardferry.app.runtime.spawn import StartReport
from cardferry.link import Guest, LinkState
from cardferry.manager import Settings
from cardferry.pcsc.caller import Caller, Principal, PrincipalKind
from cardferry.pcsc.errors import UserError
from cardferry.transports.base import Pipe
from cardferry.transports.listening import ListeningSocket
from cardferry.transports.unix import UnixAddress, adopt
from cardferry.wire.link.greeting import Bye, Reason
from tests.app.agent.at_work import BUILD1, SELECT, Agent, agent, until, use
from tests.app.handoffs import PATIENCE, Session
from tests.app.stopped import stopped
from tests.frontends.library import BEGIN, END, Build, Library

BUILD = Build(4)
VIRTUAL = Request("virtual:")
ON_FAR = Principal(PrincipalKind.SSH, "far")
SELF_STARTED = AgentSettings(VirtualHost(), idle=0.0, by_hand=False)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


@asynccontextmanager
async def lent(request: Request = VIRTUAL) -> AsyncIterator[LentReaders]:
    async with asyncio.timeout(PATIENCE), LentReaders(request, "a test") as readers:
        yield readers


@asynccontextmanager
async def program(path: Path) -> AsyncIterator[tuple[Library, int, int]]:
    """A program that has connected to the card."""
    async with Library(BUILD, path) as library:
        await library.establish()
        card, protocol = await library.connect(VIRTUAL_READER)
        yield library, card, protocol


async def ended(served: Agent) -> None:
    async with asyncio.timeout(PATIENCE):
        await served.ended


async def test_programs_at_a_lent_socket_and_guests_of_any_kind_are_in_one_queue(folder: Path) -> None:
    async with agent(SELF_STARTED) as served, lent() as attach, lent() as share:
        with ListeningSocket(folder / "public") as public, ListeningSocket(folder / "front") as front:
            await attach.programs(public)
            await share.programs(front, Caller(ON_FAR, guest="far"))
            linked = await served.guest(Handoff("b", principal=(PrincipalKind.SSH, "build1"), request=VIRTUAL))
            async with (
                program(folder / "public") as (library, card, protocol),
                program(folder / "front") as (other, far_card, _),
                Guest(lambda: share.dial(Principal(PrincipalKind.SSH, "third"), "third")) as third,
                asyncio.TaskGroup() as tasks,
            ):
                assert (await library.transmit(card, protocol, SELECT))[-2:] == b"\x90\0"
                await library.ask(BEGIN, "iI", card, 0)
                other.tell(BEGIN, "iI", far_card, 0)
                await third.ready()
                waiting = [tasks.create_task(use(guest)) for guest in (linked, third)]
                while len((await attach.describe()).readers[0].waiters) < 3:
                    assert not any(one.done() for one in waiting)
                for how in (await attach.describe(), await share.describe()):
                    (reader,) = how.readers
                    assert f"(process {os.getpid()}, user {os.getuid()})" in str(reader.holder)
                    assert reader.principal.startswith("local-user:")
                    assert sorted(one.principal for one in reader.waiters) == ["ssh:build1", "ssh:far", "ssh:third"]
                assert [guest.guest for guest in (await share.describe()).guests] == ["third"]
                assert ((await attach.describe()).contexts, (await attach.describe()).guests) == (1, [])
                await library.ask(END, "iII", card, 0, 0)
                assert (await other.hear("iI"))[1] == 0
                await other.ask(END, "iII", far_card, 0, 0)


async def test_what_was_lent_ends_with_the_lend_and_the_rest_goes_on(folder: Path) -> None:
    async with agent(SELF_STARTED), lent() as stays, AsyncExitStack() as stack:
        with ListeningSocket(folder / "one") as one, ListeningSocket(folder / "two") as two:
            await stays.programs(two)
            goes = await stack.enter_async_context(lent())
            await goes.programs(one)
            async with program(one.path) as (library, _, _), program(two.path) as (other, card, protocol):
                await stack.aclose()
                assert await library._in.read() == b""
                assert (await other.transmit(card, protocol, SELECT))[-2:] == b"\x90\0"


@pytest.mark.parametrize("killed", [True, False])
async def test_only_who_says_that_this_is_all_ends_its_guests(folder: Path, killed: bool) -> None:
    """A `share` that was killed can come back for them; good-bye would end them."""
    async with agent(SELF_STARTED), lent(), AsyncExitStack() as stack:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(os.fspath(agent_path(runtime_folder())))
        share = AgentLink(connection, m.Lend(VIRTUAL, "a test", logging.WARNING))
        assert await share.lent() is not None
        pipes: asyncio.Queue[socket.socket] = asyncio.Queue()
        near, far = socket.socketpair()
        pipes.put_nowait(near)
        with far:
            share.conversation.send(m.GuestPipe(1, (ON_FAR.kind, ON_FAR.name), "far"), [far.fileno()])
            states: asyncio.Queue[LinkState] = asyncio.Queue()
            guest = await stack.enter_async_context(Guest(lambda: dialled(pipes), report=states.put_nowait))
            assert await states.get() is LinkState.UP
            await use(guest)
        if killed:
            share.conversation.close()
        else:
            await share.end()
        assert (await states.get(), guest.farewell) == (
            (LinkState.BROKEN, None) if killed else (LinkState.DOWN, Bye(Reason.CLOSED, "the host stops"))
        )


async def dialled(pipes: asyncio.Queue[socket.socket]) -> Pipe:
    return await adopt(await pipes.get(), "the agent")


async def test_the_agent_leaves_after_the_last_lend_which_waits_for_that(folder: Path) -> None:
    async with agent(SELF_STARTED) as served:
        async with lent():
            pass
        assert not agent_path(runtime_folder()).exists(), "nothing of it is left when the last one goes on"
        await ended(served)


async def test_readers_that_cannot_be_reached_are_told_of_with_their_exit_code(folder: Path) -> None:
    async with agent(SELF_STARTED) as served, lent():
        with pytest.raises(NotLentError) as told:
            async with lent(Request(f"pcscd:{folder}/none")):
                pass
        assert (told.value.exit_code, told.value.heals) == (30, True)
        assert told.value.message == f"there is no pcscd socket at {folder}/none"
        with pytest.raises(NotLentError, match="cannot record") as told:
            async with lent(replace_request(record=f"{folder}/none/record")):
                pass
        assert told.value.exit_code == 12
        assert not served.ended.done()


def replace_request(**changes: object) -> Request:
    fields = {name: getattr(VIRTUAL, name) for name in VIRTUAL.__struct_fields__}
    return Request(**{**fields, **changes})


async def test_each_lend_has_its_own_filter_record_and_sizes(folder: Path) -> None:
    record = folder / "record"
    async with (
        agent(SELF_STARTED),
        lent(replace_request(record=str(record))) as recorded,
        lent(replace_request(offered=("Another*",))) as empty,
    ):
        with ListeningSocket(folder / "s") as listening:
            await recorded.programs(listening)
            async with program(listening.path):
                pass
        assert (await empty.describe()).readers == []
        assert len((await recorded.describe()).readers) == 1
    calls = [json.loads(line)["call"] for line in record.read_text().splitlines()]
    assert calls[:2] == ["establish context", "connect"]


async def test_programs_find_their_socket_again_when_the_agent_has_died(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.get_running_loop()
    agents: list[asyncio.Task[None]] = []

    def start(_folder: Path, _idle: float, _options: list[str]) -> None:
        reading, writing = os.pipe()
        loop.call_soon_threadsafe(lambda: agents.append(loop.create_task(serve(SELF_STARTED, writing))))
        with os.fdopen(reading) as ready:
            ready.readline()

    monkeypatch.setattr("cardferry.app.hosts.lend.start_agent", start)
    async with lent() as readers:
        with ListeningSocket(folder / "s") as listening:
            await readers.programs(listening)
            async with program(listening.path) as (library, _, _):
                agents[0].cancel()
                assert await library._in.read() == b""
            async with program(listening.path) as (library, card, protocol):
                assert (await library.transmit(card, protocol, SELECT))[-2:] == b"\x90\0"
            assert len(agents) == 2
    await asyncio.wait(agents)
    assert "the agent has gone: programs have lost what they held" in caplog.text
    assert "the readers are there again" in caplog.text


async def test_the_shortest_bounds_of_those_who_are_there_apply_and_others_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    applied = []
    async with agent(SELF_STARTED), lent() as first:
        for bounds, others in ((replace_request(max_idle=5.0), False), (replace_request(max_idle=60.0), True)):
            caplog.clear()
            async with lent(bounds) as one:
                for told in (one, first):
                    await told.describe()  # behind what it is told
                applied.append("--max-idle 5," in caplog.text)
                assert ("--max-idle 30," in caplog.text) == others
    assert applied == [True, False]


async def test_an_agent_by_hand_decides_about_bounds(caplog: pytest.LogCaptureFixture) -> None:
    by_hand = AgentSettings(VirtualHost(), Service(settings=Settings(max_idle=60)))
    async with agent(by_hand), lent() as one:
        await one.describe()
        assert "virtual:: --max-idle 60, --max-hold 120 and --exclusive lease apply to all" in caplog.text


async def test_what_concerns_the_readers_is_said_to_those_who_have_them_lent(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with agent(SELF_STARTED), lent() as one, lent() as other:
        async with Guest(lambda: one.dial(ON_FAR, "far")) as guest:
            await guest.ready()
        await one.describe()
        await other.describe()
    told = [record for record in caplog.records if record.getMessage() == "far: connected as ssh:far"]
    assert len(told) == 2, "once by the agent, in whose own log it is, and once to the one whose guest that is"


async def test_a_stopped_agent_is_not_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cardferry.app.hosts.lend.LOOK_AFTER", 0.01)
    with stopped(agent_path(runtime_folder())) as pid:
        for start in (lent, lambda: agent(AgentSettings(VirtualHost()))):
            with pytest.raises(UserError, match=rf"\(process {pid}\) is stopped") as told:
                async with start():
                    pass
            assert told.value.hint == f"kill -CONT {pid} lets it go on"


async def test_a_busy_agent_is_waited_for_and_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("cardferry.app.hosts.lend.LOOK_AFTER", 0.01)
    with ListeningSocket(agent_path(runtime_folder())), pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), lent():
            pass
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len([line for line in told if f"(process {os.getpid()}) does not answer; ps -o" in line]) == 1


async def test_who_knows_nothing_of_lends_is_named_and_after_its_end_there_is_an_agent(folder: Path) -> None:
    """An agent of another version, say."""
    old = await asyncio.start_unix_server(lambda reader, writer: writer.close(), agent_path(runtime_folder()))
    with pytest.raises(UserError, match=rf"does not answer: .*\(process {os.getpid()}\)") as told:
        async with lent():
            pass
    assert told.value.hint == "it may be of another version of cardferry: end it, and try again"
    old.close()
    async with agent(SELF_STARTED), lent() as readers:
        assert (await readers.describe()).state == "up"


async def test_nonsense_is_sent_away(folder: Path) -> None:
    async with agent(SELF_STARTED), lent() as one:
        for said in (b"{}\n", b'{"message":{"type":"Ask"},"descriptors":0}\n', b'{"message":1,"descriptors":9}\n'):
            with socket.socket(socket.AF_UNIX) as garbage:
                garbage.connect(os.fspath(agent_path(runtime_folder())))
                garbage.send(said)
                garbage.setblocking(False)
                async with asyncio.timeout(PATIENCE):
                    assert await asyncio.get_running_loop().sock_recv(garbage, 100) == b""
        assert (await one.describe()).state == "up"


async def test_who_wants_other_rules_than_the_agent_has_is_not_served(folder: Path) -> None:
    rules = str(folder / "strict.toml")
    async with agent(AgentSettings(VirtualHost())) as served, lent():
        with pytest.raises(NotLentError, match=f"has the rules of no file, not of {rules}"):
            async with lent(replace_request(config=rules)):
                pass
        handoff = Handoff("b", principal=BUILD1.principal, request=replace_request(config=rules))
        session = Session(agent_path(runtime_folder()), handoff)
        assert await session.told() == StartReport(taken=True)
        told = await session.told()
        assert told is not None
        assert "not of" in told.error
        session.close()
        assert (await served.status()).links[0].guest is None


# a `cardferry host` that is started while an agent is there


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are in one process here, which has one place for ``status``."""
    monkeypatch.setattr("cardferry.app.agent.leading.controllable", lambda folder, describe: nullcontext())


async def test_an_agent_that_nobody_uses_leaves_its_place_to_one_by_hand(folder: Path) -> None:
    async with agent(replace(SELF_STARTED, idle=60.0)) as self_started, agent(AgentSettings(VirtualHost())) as by_hand:
        await ended(self_started)
        await use(await by_hand.guest(BUILD1))
        assert (await by_hand.status()).links[0].host == BUILD1.name


async def test_a_host_says_where_it_listens_to_the_person_who_has_started_it(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    wanted = AgentSettings(VirtualHost(), listen=(UnixAddress(folder / "door"), UnixAddress(folder / "second")))
    line = f"listening at unix:{folder}/door, unix:{folder}/second; guests come in over ssh, too"
    async with agent(wanted) as by_hand:
        assert line in caplog.messages
        assert (await by_hand.status()).listens == [f"unix:{folder}/door", f"unix:{folder}/second"]
    async with agent(AgentSettings(VirtualHost())):
        assert "guests come in over ssh" in caplog.messages
    caplog.clear()
    async with agent(SELF_STARTED):
        assert not any("over ssh" in one for one in caplog.messages), "nobody reads it"


@pytest.mark.usefixtures("elsewhere")
async def test_an_agent_that_is_in_use_is_led_and_its_guests_notice_nothing(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    record, door = folder / "record", UnixAddress(folder / "door")
    wanted = AgentSettings(VirtualHost(), Service(settings=Settings(max_idle=60), record=record), listen=(door,))
    async with agent(SELF_STARTED) as led:
        before = await led.guest(Handoff("before", principal=(PrincipalKind.SSH, "before"), request=VIRTUAL))
        await use(before)
        async with agent(wanted):
            assert not led.ended.done()
            assert "is in use" in caplog.text
            assert f"listening at unix:{door.path}; guests come in over ssh, too" in caplog.messages
            await use(await led.guest(BUILD1))
            async with Guest(door.dial) as guest:
                await guest.ready()
                await use(guest)
            with pytest.raises(Exception, match="is in use by"):
                async with agent(wanted):
                    pass
            await use(before)
        principals = {json.loads(line)["principal"] for line in record.read_text().splitlines()}
        assert {"ssh:build1"} < principals, principals
        assert "ssh:before" not in principals
        await use(before)
        assert not (folder / "door").exists()
        assert not led.ended.done()


@pytest.mark.usefixtures("elsewhere")
async def test_a_guest_that_comes_back_after_a_leader_came_finds_its_session(folder: Path) -> None:
    async with agent(SELF_STARTED) as led:
        guest = await led.guest(replace_handoff(BUILD1))
        await use(guest)
        async with agent(AgentSettings(VirtualHost(), grace=20.0)):
            assert guest.session is not None
            guest.session.channel.end.pipe.abort()  # type: ignore[union-attr]
            await use(guest)
            assert (guest.status.sessions, guest.status.resumes) == (1, 1)


def replace_handoff(handoff: Handoff) -> Handoff:
    return Handoff(handoff.name, principal=handoff.principal, request=VIRTUAL)


@pytest.mark.usefixtures("elsewhere")
async def test_a_led_agent_leaves_its_place_when_nobody_else_is_there(folder: Path) -> None:
    door = UnixAddress(folder / "door")
    async with agent(replace(SELF_STARTED, idle=60.0)) as led, AsyncExitStack() as stack:
        await stack.enter_async_context(lent())
        async with agent(AgentSettings(VirtualHost(), listen=(door,))) as leader:
            async with Guest(door.dial) as guest:
                await guest.ready()
                await stack.aclose()
                await use(guest)
                assert not led.ended.done(), "a guest of its leader is there"
            await ended(led)
            async with Guest(door.dial) as guest:
                await guest.ready()
                await use(guest)
            assert (await leader.status()).links[0].state == "up"


@pytest.mark.usefixtures("elsewhere")
async def test_an_agent_keeps_the_addresses_that_its_leader_has_too_and_serves_as_that_one_says(folder: Path) -> None:
    record, (both, own, more) = folder / "record", (UnixAddress(folder / name) for name in ("both", "own", "more"))
    service = Service(settings=Settings(max_idle=60), record=record)

    async def comes(door: UnixAddress) -> None:
        async with Guest(door.dial) as guest:
            await guest.ready()
            await use(guest)

    def recorded() -> int:
        return len(record.read_text().splitlines()) if record.exists() else 0

    async with agent(replace(SELF_STARTED, idle=60.0, listen=(both, own))) as led, AsyncExitStack() as stack:
        await stack.enter_async_context(lent())
        await comes(both)
        assert not recorded()
        async with agent(AgentSettings(VirtualHost(), service, listen=(both, more))):
            for door in (both, own, more):
                before = recorded()
                await comes(door)
                assert recorded() > before, f"{door} is not served as the leader says"
            await stack.aclose()
            await ended(led)
            await until(both.path.exists)
            await comes(both)
            assert not own.path.exists()


@pytest.mark.usefixtures("elsewhere")
async def test_a_leader_that_cannot_listen_says_so_and_leads_nobody(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(os.fspath(folder / "taken"))
        other.listen()
        async with agent(SELF_STARTED), lent() as readers:
            with pytest.raises(UserError, match="taken is in use by"):
                async with agent(AgentSettings(VirtualHost(), listen=(UnixAddress(folder / "taken"),))):
                    pass
            assert (await readers.describe()).state == "up"
            async with agent(AgentSettings(VirtualHost())):
                pass


async def test_who_ends_a_lend_waits_until_all_is_given_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given_back = asyncio.Event()

    @asynccontextmanager
    async def slowly(*words: Any, **more: Any) -> AsyncIterator[Serving]:
        async with serving(*words, **more) as opened:
            try:
                yield opened
            finally:
                await asyncio.sleep(0.1)
                given_back.set()

    monkeypatch.setattr("cardferry.app.agent.lends.serving", slowly)
    async with agent(SELF_STARTED), lent():
        async with lent() as one:
            await one.describe()
        assert given_back.is_set()
