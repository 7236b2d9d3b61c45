from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest

from cardferry.app.runtime import status_socket
from cardferry.app.runtime.status_socket import Link, Running, controllable, running
from cardferry.manager.status import SlotStatus, WaiterStatus
from tests.app.stopped import stopped

SLOT = SlotStatus(
    reader="Reader 00 00",
    state="present powered",
    atr="3b80800101",
    protocol="T1",
    sharing=1,
    event_counter=3,
    clients=["one", "two"],
    holder="one",
    principal="ssh:build1",
    held=1.5,
    waiters=[WaiterStatus("two", "ssh:build2", 0.5)],
)


def told(pid: int = 1, since: float = 5.0, host: str = "computer1", command: str = "attach") -> Running:
    return Running(command, pid, since, [Link(host, "up", "/run/x.sock")], 2, [SLOT])


def sockets(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def ask(folder: Path) -> list[Running]:
    """As another process would, while this one answers."""
    return await asyncio.get_running_loop().run_in_executor(None, running, folder)


async def test_what_runs_answers_as_often_as_it_is_asked(tmp_path: Path) -> None:
    async with controllable(tmp_path, told):
        assert await ask(tmp_path) == [told()]
        assert await ask(tmp_path) == [told()]
    assert sockets(tmp_path) == []


async def test_each_answer_is_made_when_it_is_asked_for(tmp_path: Path) -> None:
    since = 0.0

    def describe() -> Running:
        nonlocal since
        since += 1
        return told(since=since)

    async with controllable(tmp_path, describe):
        assert [one.since for one in await ask(tmp_path) + await ask(tmp_path)] == [1, 2]


async def test_the_control_socket_is_for_its_user_alone(tmp_path: Path) -> None:
    async with controllable(tmp_path, told):
        (path,) = sockets(tmp_path)
        assert path.stat().st_mode & 0o777 == 0o600


async def test_whoever_starts_clears_away_what_a_killed_process_has_left(tmp_path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(str(tmp_path / "4711.ctl"))
    async with controllable(tmp_path, told):
        assert [path.name for path in sockets(tmp_path)] == [f"{os.getpid()}.ctl"]


def test_nothing_runs(tmp_path: Path) -> None:
    assert running(tmp_path) == []


def test_what_a_killed_process_has_left_is_removed(tmp_path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(str(tmp_path / "4711.ctl"))
    assert running(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@contextmanager
def saying(path: Path, answer: bytes) -> Iterator[None]:
    """Somebody whose answer is already on its way when he is asked, and who then hangs up."""
    with closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(str(path))
        server.listen()
        child = os.fork()
        if child == 0:
            connection, _ = server.accept()
            connection.sendall(answer)
            os._exit(0)
        yield
        os.waitpid(child, 0)


@pytest.mark.parametrize("answer", [b"", b"garbage", b'{"command": 7}', b"[]", b'{"command":"attach"'])
def test_an_answer_that_is_none_is_passed_over_with_a_word(
    tmp_path: Path, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with saying(tmp_path / "4711.ctl", answer):
        assert running(tmp_path) == []
    assert "process 4711 does not answer" in caplog.text
    assert "if it hangs, kill -9 4711" in caplog.text


def test_one_that_was_stopped_is_named_and_how_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_socket, "_ANSWER_TIME", 0.01)
    silent: list[tuple[str, str]] = []
    with stopped(tmp_path / "new") as pid:
        (tmp_path / "new").rename(tmp_path / f"{pid}.ctl")
        assert running(tmp_path, lambda *one: silent.append(one)) == []
        assert silent == [(f"process {pid} is stopped: timed out", f"kill -CONT {pid} lets it go on")]


def test_several_are_listed_in_the_order_of_their_start(tmp_path: Path) -> None:
    second, first = told(pid=7, since=9.0), told(pid=8, since=3.0)
    with (
        saying(tmp_path / "7.ctl", msgspec.json.encode(second)),
        saying(tmp_path / "8.ctl", msgspec.json.encode(first)),
    ):
        assert running(tmp_path) == [first, second]


async def test_who_asks_and_goes_does_no_harm(tmp_path: Path) -> None:
    async with controllable(tmp_path, told):
        (path,) = sockets(tmp_path)
        for _ in range(3):
            _, writer = await asyncio.open_unix_connection(path)
            writer.transport.abort()
        assert await ask(tmp_path) == [told()]


async def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "1.ctl").mkdir()
    (tmp_path / "2.ctl").touch()
    async with controllable(tmp_path, told):
        assert await ask(tmp_path) == [told()]
    assert {path.name for path in sockets(tmp_path)} == {"1.ctl", "2.ctl"}
