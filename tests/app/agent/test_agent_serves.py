"""The agent in this process: whom it takes in and on whose behalf, what it offers and records, and when it leaves."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import socket
from pathlib import Path

import pytest

from cardferry.app.agent.server import AgentSettings
from cardferry.app.hosts.direct_link import linked_directly
from cardferry.app.hosts.sources import PcscdHost, VirtualHost
from cardferry.app.runtime.handoff import Handoff
from cardferry.app.runtime.paths import agent_path, runtime_folder
from cardferry.app.runtime.service import Service
from cardferry.app.runtime.spawn import StartReport
from cardferry.link import Guest
from cardferry.pcsc.caller import PrincipalKind
from cardferry.pcsc.constants import Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import UserError
from cardferry.transports.base import Pipe
from cardferry.transports.unix import UnixAddress, adopt
from tests.app.agent.at_work import BUILD1, SELECT, agent, use
from tests.app.handoffs import PATIENCE, Session
from tests.callers import somebody


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


async def test_a_guest_through_ssh_is_served_and_recorded_as_its_principal(folder: Path) -> None:
    record = folder / "record"
    async with agent(AgentSettings(VirtualHost(), Service(record=record))) as served:
        guest = await served.guest(BUILD1)
        await use(guest)
        described = await served.status()
        (link,) = described.links
        assert (described.command, link.host, link.state) == ("host", "build1 at 10.0.0.9", "up")
        assert link.guest is not None
        assert link.guest.principal == "ssh:build1"
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    mine = [line for line in lines if not line["by_host"]]
    assert {line["principal"] for line in mine} == {"ssh:build1"}
    assert [line["call"] for line in mine][:3] == ["establish context", "connect", "transmit"]
    assert "opensc-tool (process 4711, user 1000) on build1" in mine[1]["program"]


async def test_a_guest_without_ssh_is_the_user_that_the_kernel_tells(folder: Path) -> None:
    path = folder / "link"
    async with (
        agent(AgentSettings(VirtualHost(), listen=(UnixAddress(path),))) as served,
        linked_directly(UnixAddress(path)) as guest,
    ):
        await use(guest)
        (link,) = (await served.status()).links
        assert link.guest is not None
        assert link.guest.principal == f"unix:{pwd.getpwuid(os.getuid()).pw_name}"


async def test_all_guests_take_turns_at_one_card(folder: Path) -> None:
    async with agent(AgentSettings(VirtualHost())) as served:
        one, two = await served.guest(BUILD1), await served.guest(Handoff("two", principal=(PrincipalKind.SSH, "two")))
        cards = []
        for guest in (one, two):
            context = await guest.open(somebody())
            cards.append(await context.connect(guest.snapshot.readers[0].name, ShareMode.SHARED, Protocol.ANY))
        await cards[0].begin()
        await cards[0].transmit(SELECT, Protocol.T1)
        waiting = cards[1].transmit(SELECT, Protocol.T1)
        while not (await served.status()).readers[0].waiters:
            assert not waiting.done()
        await cards[0].end(Disposition.LEAVE)
        assert (await waiting)[-2:] == b"\x90\0"


@pytest.mark.parametrize(("patterns", "offered"), [(("Yubico*",), 1), (("Another*",), 0)])
async def test_only_readers_that_are_offered_are_seen(patterns: tuple[str, ...], offered: int) -> None:
    async with agent(AgentSettings(VirtualHost(), Service(readers=patterns))) as served:
        guest = await served.guest(BUILD1)
        assert len(guest.snapshot.readers) == offered
        assert len((await served.status()).readers) == offered


async def test_there_is_one_agent_and_the_second_is_told_so(folder: Path) -> None:
    async with agent(AgentSettings(VirtualHost())) as served:
        with pytest.raises(UserError) as told:
            async with agent(AgentSettings(VirtualHost())):
                pass
        assert "is in use" in told.value.message
        await use(await served.guest(BUILD1))


async def test_why_there_are_no_readers_is_told_to_who_has_started_it(folder: Path) -> None:
    with pytest.raises(UserError) as told:
        async with agent(AgentSettings(PcscdHost(folder / "no pcscd"))):
            pass
    assert (told.value.exit_code, told.value.message) == (30, f"there is no pcscd socket at {folder / 'no pcscd'}")


async def test_it_leaves_when_nobody_has_come_for_a_while_and_takes_its_socket_along(folder: Path) -> None:
    async with agent(AgentSettings(VirtualHost(), idle=0.05)) as served:
        async with asyncio.timeout(PATIENCE):
            await served.ended
        assert not agent_path(runtime_folder()).exists()


async def test_it_stays_while_a_guest_that_was_lost_may_come_back(folder: Path) -> None:
    async with agent(AgentSettings(VirtualHost(), grace=30.0, idle=0.05)) as served:
        session = Session(agent_path(runtime_folder()), BUILD1)
        assert await session.told() == StartReport(taken=True)
        pipes = [await adopt(session.stream, "the agent")]
        closed = asyncio.Event()

        async def dial() -> Pipe:
            if not pipes:
                closed.set()
                await asyncio.get_running_loop().create_future()
            return pipes.pop()

        async with Guest(dial) as guest:
            await guest.ready()
            session.close()
            guest.session.channel.end.pipe.abort()  # type: ignore[union-attr]
            await closed.wait()
            await asyncio.wait((served.ended,), timeout=0.3)  # several times as long as it waits for somebody new
            assert not served.ended.done()
            (link,) = (await served.status()).links
            assert link.state == "out of reach"


async def test_what_is_no_visit_disturbs_nobody(folder: Path) -> None:
    async with agent(AgentSettings(VirtualHost())) as served:
        with socket.socket(socket.AF_UNIX) as garbage:
            garbage.connect(os.fspath(agent_path(runtime_folder())))
            garbage.send(b"\xff" * 100)
        await use(await served.guest(BUILD1))
