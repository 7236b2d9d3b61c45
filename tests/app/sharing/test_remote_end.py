"""The far end of a share: who may come in, what is told to whom, and when it ends. It runs in this process."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from cardferry.app.agent.stdio_session import remote_end_path
from cardferry.app.runtime.handoff import Handoff
from cardferry.app.runtime.paths import runtime_folder
from cardferry.app.runtime.spawn import StartReport, decode
from cardferry.app.runtime.status_socket import Running, running
from cardferry.app.sharing.remote_end import RemoteEndSettings, serve_remote_end
from cardferry.link import LinkServer, Timing
from cardferry.pcsc.errors import UserError
from cardferry.transports.listening import SocketInUseError
from cardferry.transports.unix import adopt
from cardferry.wire.link.frames import Kind, encode
from cardferry.wire.link.greeting import Bye, Reason
from tests.app.handoffs import PATIENCE, Session
from tests.callers import TESTER
from tests.fleet.hosts import Said
from tests.frontends.library import Build, Library


class Far:
    """A guest of a share at work.

    Attributes:
        path: where programs connect.
        socket: where streams are handed over.
        ended: done when it has ended.
    """

    def __init__(self, path: Path, socket_path: Path, ended: asyncio.Task[None]) -> None:
        self.path = path
        self.socket = socket_path
        self.ended = ended
        self.sessions: list[Session] = []

    def session(self, token: str = "its own") -> Session:
        session = Session(self.socket, Handoff("laptop", token))
        self.sessions.append(session)
        return session

    async def lent(self, server: LinkServer, tasks: asyncio.TaskGroup) -> Session:
        """A session of the computer that lends its readers, once programs can connect."""
        session = self.session()
        assert await session.told() == StartReport(taken=True)
        tasks.create_task(server.serve(await adopt(session.stream, "far"), TESTER))
        assert await session.told() == StartReport(serving=str(self.path))
        return session

    async def end(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait((self.ended,))

    def describe(self) -> Running:
        (one,) = running(runtime_folder())
        return one


@asynccontextmanager
async def far_end(folder: Path, **options: float) -> AsyncIterator[Far]:
    """A guest of a share that can be reached."""
    path = folder / "card"
    reading, writing = os.pipe()
    wanted = RemoteEndSettings(path, grace=options.get("grace", 5.0), away=options.get("away", 60.0))
    task = asyncio.get_running_loop().create_task(serve_remote_end(wanted, writing))
    far = Far(path, remote_end_path(runtime_folder(), path), task)
    try:
        with os.fdopen(reading, "rb") as ready:
            line = await asyncio.to_thread(ready.readline)
        decode(line).check()
        yield far
    finally:
        for session in far.sessions:
            session.close()
        task.cancel()
        with suppress(asyncio.CancelledError, UserError):
            await task


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


async def test_programs_use_what_is_lent_and_status_says_whose_it_is(folder: Path) -> None:
    async with far_end(folder) as far, LinkServer(Said("Reader")) as server, asyncio.TaskGroup() as tasks:
        await far.lent(server, tasks)
        async with Library(Build(4), far.path) as program:
            assert [reader.name for reader in await program.readers()] == ["Reader"]
        described = await asyncio.to_thread(far.describe)
        (link,) = described.links
        assert (described.command, link.host, link.state, link.way) == ("guest", "laptop", "up", "link")
        assert [reader.reader for reader in described.readers] == ["Reader"]
        far.ended.cancel()


async def test_who_lends_already_comes_back_and_nobody_else_comes_in(folder: Path) -> None:
    async with far_end(folder) as far, LinkServer(Said("Reader")) as server, asyncio.TaskGroup() as tasks:
        await far.lent(server, tasks)
        stranger = await far.session("another").told()
        assert stranger is not None
        assert stranger.error == f"{far.path} is in use by cardferry of laptop"
        assert "--remote-socket" in stranger.hint
        await far.lent(server, tasks)
        assert not far.ended.done()
        far.ended.cancel()


async def test_a_good_bye_ends_it_and_takes_its_socket_along(folder: Path) -> None:
    async with far_end(folder) as far, asyncio.TaskGroup() as tasks:
        async with LinkServer(Said("Reader")) as server:
            session = await far.lent(server, tasks)
            assert far.path.exists()
        await far.end()
        assert far.ended.exception() is None
        assert await session.told() is None
        assert not far.path.exists()
        assert not far.socket.exists()


async def test_one_that_goes_before_it_has_lent_anything_leaves_nothing(folder: Path) -> None:
    async with far_end(folder) as far:
        session = far.session()
        assert await session.told() == StartReport(taken=True)
        session.close()
        await far.end()
        assert not far.path.exists()


async def test_one_that_is_lost_later_is_waited_for_but_not_for_ever(folder: Path) -> None:
    async with (
        far_end(folder, away=0.5) as far,
        LinkServer(Said("Reader"), timing=Timing(grace=0.2)) as server,
        asyncio.TaskGroup() as tasks,
    ):
        began = asyncio.get_running_loop().time()
        (await far.lent(server, tasks)).close()
        await far.end()
        assert asyncio.get_running_loop().time() - began >= 0.5
        assert not far.path.exists()


async def test_another_age_of_cardferry_is_told_and_makes_way_for_a_forwarded_socket(folder: Path) -> None:
    async with far_end(folder) as far:
        session = far.session()
        assert await session.told() == StartReport(taken=True)
        session.stream.sendall(encode(Kind.BYE, 0, 0, Bye(Reason.VERSION, "version 9 is needed").encode()))
        told = await session.told()
        assert told is not None
        assert (told.error, told.hint) == (
            "no link: version 9 is needed",
            "install the same cardferry on both computers",
        )
        assert not far.path.exists(), "a forwarded socket comes in its place"
        session.close()
        await far.end()


async def test_what_keeps_it_from_serving_is_told_to_who_has_started_it(folder: Path) -> None:
    (folder / "card").write_text("precious")
    with pytest.raises(UserError) as told:
        async with far_end(folder):
            pass
    assert told.value.exit_code == SocketInUseError.exit_code
    assert (folder / "card").read_text() == "precious"


async def test_what_is_no_visit_disturbs_nobody(folder: Path) -> None:
    async with far_end(folder) as far, LinkServer(Said("Reader")) as server, asyncio.TaskGroup() as tasks:
        with socket.socket(socket.AF_UNIX) as garbage:
            garbage.connect(os.fspath(far.socket))
            garbage.send(b"\xff" * 100)
        await far.lent(server, tasks)
        far.ended.cancel()
