from __future__ import annotations

import array
import asyncio
import errno
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from cardferry.app.agent import handoff_server as server
from cardferry.app.agent.handoff_client import hand_over
from cardferry.app.agent.handoff_server import HandoffServer, Tell
from cardferry.app.agent.stdio_session import (
    LinkOnlyError,
    hand_to_agent,
    hand_to_remote_end,
    principal_of,
    remote_end_path,
)
from cardferry.app.runtime.handoff import Handoff
from cardferry.app.runtime.spawn import BackgroundError, StartReport
from cardferry.system.peers import user_name
from cardferry.transports import accepting
from cardferry.transports.base import Pipe
from cardferry.transports.listening import ListeningSocket, SocketInUseError
from tests.app.stopped import stopped

_HAND_OVER = """
import sys
from pathlib import Path
from cardferry.app.agent.handoff_client import hand_over
from cardferry.app.runtime.handoff import Handoff
from cardferry.app.runtime.spawn import BackgroundError
def start():
    print("started", file=sys.stderr, flush=True)
try:
    hand_over(Path(sys.argv[1]), Handoff("somebody", "secret"), start)
except BackgroundError as error:
    print("error:", error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


class Echo:
    """Gives back what comes, in capitals; ends when the other end does."""

    def __init__(self, pipe: Pipe) -> None:
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pipe = pipe
        pipe.start(self)

    def received(self, data: bytes) -> None:
        self._pipe.write(data.upper())

    def congested(self, congested: bool) -> None: ...

    def lost(self, error: Exception | None) -> None:
        self.gone.set_result(None)


class Desk:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "door"
        self.handoffs: list[Handoff] = []
        self.reports: list[StartReport] = []
        self.server: HandoffServer

    async def serve(self, pipe: Pipe, handoff: Handoff, tell: Tell) -> None:
        self.handoffs.append(handoff)
        for report in self.reports:
            tell(report)
        await Echo(pipe).gone

    @asynccontextmanager
    async def open(
        self,
        admit: Callable[[Handoff], StartReport] = lambda handoff: StartReport(taken=True),
        idle: float | None = None,
    ) -> AsyncIterator[None]:
        with ListeningSocket(self.path) as listening:
            self.server = HandoffServer(listening.socket, self.serve, admit=admit, idle=idle)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.server.run())
                yield
                self.server.leave()

    async def hand_over(self, said: bytes) -> tuple[bytes, str, int]:
        """A session hands its streams over; what comes back through them, its complaints and its exit code."""
        near, far = socket.socketpair()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _HAND_OVER,
            str(self.path),
            stdin=far.fileno(),
            stdout=far.fileno(),
            stderr=subprocess.PIPE,
        )
        far.close()
        reader, writer = await asyncio.open_connection(sock=near)
        writer.write(said)
        answer = b""
        while len(answer) < len(said) and (piece := await reader.read(100)):
            answer += piece
        writer.close()
        _, complaints = await process.communicate()
        return answer, complaints.decode(), process.returncode or 0


async def test_streams_are_handed_over_and_the_session_ends_with_them(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    async with desk.open():
        assert await desk.hand_over(b"hello") == (b"HELLO", "", 0)
        assert desk.handoffs == [Handoff("somebody", "secret")]


async def test_what_there_is_to_tell_reaches_standard_error(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.reports = [StartReport(serving="/run/card")]
    async with desk.open():
        assert await desk.hand_over(b"x") == (b"X", "cardferry is serving /run/card\n", 0)


async def test_an_error_that_comes_later_ends_the_session_with_its_code(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.reports = [StartReport.of(SocketInUseError("no more", "go"))]
    async with desk.open():
        _, complaints, code = await desk.hand_over(b"")
        assert (complaints, code) == ("error: no more\n", 11)


async def test_who_is_not_admitted_hears_why(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    async with desk.open(lambda handoff: StartReport.of(SocketInUseError(f"not {handoff.name}", "go"))):
        answer, complaints, code = await desk.hand_over(b"")
        assert (answer, complaints, code) == (b"", "error: not somebody\n", 11)
    assert not desk.handoffs


async def test_a_process_that_is_about_to_leave_is_asked_again(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    with socket.socket(socket.AF_UNIX) as leaving:
        leaving.bind(str(desk.path))
        leaving.listen()
        leaving.setblocking(False)
        async with asyncio.TaskGroup() as tasks:
            handing = tasks.create_task(desk.hand_over(b"hello"))
            connection, _ = await asyncio.get_running_loop().sock_accept(leaving)
            desk.path.unlink()
            async with desk.open():
                connection.close()
                assert (await handing)[0] == b"HELLO"


async def test_when_nobody_comes_there_is_an_error_and_not_a_loop(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    _, complaints, code = await desk.hand_over(b"")
    assert complaints.splitlines()[0] == "started"
    assert "nobody listens at" in complaints
    assert code == 52


def test_a_process_that_is_stopped_is_named_and_not_waited_for(tmp_path: Path) -> None:
    with stopped(tmp_path / "s") as pid, pytest.raises(BackgroundError, match=rf"\(process {pid}\) is stopped") as told:
        hand_over(tmp_path / "s", Handoff("somebody"), lambda: None)
    assert told.value.hint == f"kill -CONT {pid} lets it go on"


async def test_the_server_returns_when_nobody_has_come_for_a_while(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    with ListeningSocket(desk.path) as listening:
        await asyncio.wait_for(HandoffServer(listening.socket, desk.serve, idle=0.01).run(), 5)


async def test_it_stays_while_somebody_is_expected_back(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    with ListeningSocket(desk.path) as listening:
        server = HandoffServer(listening.socket, desk.serve, idle=0.01)
        async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
            running = tasks.create_task(server.run())
            with server.present():
                await asyncio.wait((running,), timeout=0.1)  # several times as long as it waits for somebody new
                assert not running.done()


async def test_it_stays_as_long_as_the_most_patient_of_those_who_came_wants(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    loop = asyncio.get_running_loop()
    with ListeningSocket(desk.path) as listening:
        server = HandoffServer(listening.socket, desk.serve, idle=0.0)
        async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
            running = tasks.create_task(server.run())
            with server.present():
                server.stay(0.2)
                server.stay(0.1)
                assert not server.leave_as_last(), "others may be waited for"
            began = loop.time()
            await running
        assert loop.time() - began >= 0.2


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"rubbish",
        b'{"name": 3}',
        b"x" * 5000,
        b'{"name": "\xff"}',
        b'{"name": "x", "later": ' + b"[" * 4000,
    ],
    ids=lambda said: said[:30].hex(),
)
@pytest.mark.parametrize("descriptors", [0, 1, 2])
async def test_rubbish_is_passed_over(
    tmp_path: Path, said: bytes, descriptors: int, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(tmp_path)
    async with desk.open():
        with socket.socket(socket.AF_UNIX) as rude:
            rude.connect(str(desk.path))
            rights = array.array("i", [rude.fileno()] * descriptors)
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights.tobytes())] if descriptors else []
            rude.sendmsg([said], ancillary)
            if not said:
                rude.shutdown(socket.SHUT_WR)
            rude.setblocking(False)
            with suppress(ConnectionResetError):  # what was not read
                assert await asyncio.get_running_loop().sock_recv(rude, 10) == b""
        assert "a bug" not in caplog.text
        assert await desk.hand_over(b"hello") == (b"HELLO", "", 0)


async def test_without_descriptors_streams_are_taken_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "SHORTAGE_PAUSE", 0.01)
    failures = [OSError(errno.EMFILE, "Too many open files"), ConnectionAbortedError(errno.ECONNABORTED, "gone")]
    loop = asyncio.get_running_loop()
    accept = loop.sock_accept

    async def short(listening: socket.socket) -> tuple[socket.socket, Any]:
        if failures:
            raise failures.pop(0)
        return await accept(listening)

    monkeypatch.setattr(loop, "sock_accept", short)
    desk = Desk(tmp_path)
    async with desk.open():
        assert await desk.hand_over(b"hello") == (b"HELLO", "", 0)
    assert not failures


async def test_one_for_whose_streams_there_are_no_descriptors_hears_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(connection: socket.socket) -> tuple[Handoff | None, list[int]]:
        raise OSError(errno.EMFILE, "Too many open files")

    desk = Desk(tmp_path)
    async with desk.open():
        with monkeypatch.context() as patched:
            patched.setattr(server, "receive", short)
            _, complaints, code = await desk.hand_over(b"")
        assert complaints == "error: no place for another guest there: [Errno 24] Too many open files\n"
        assert code == 52
        assert await desk.hand_over(b"hello") == (b"HELLO", "", 0)


@pytest.mark.parametrize("name", ["receive", "open_pipe", "_readable", "serve", "admit", "_take"])
async def test_a_bug_behind_one_connection_is_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    desk = Desk(tmp_path)

    def failing(*_: object) -> Any:
        raise RuntimeError("injected")

    async with desk.open():
        with monkeypatch.context() as patched:
            if name == "_take":
                patched.setattr(HandoffServer, name, failing)
            elif name in ("serve", "admit"):
                patched.setattr(desk.server, f"_{name}", failing)
            else:
                patched.setattr(server, name, failing)
            assert (await desk.hand_over(b""))[0] == b""
        assert "RuntimeError: injected" in caplog.text
        assert await desk.hand_over(b"hello") == (b"HELLO", "", 0)


# --- what runs in the session


@pytest.mark.parametrize(
    ("said", "token", "rest"),
    [
        (b"0123456789abcdef\nhello", "0123456789abcdef", b"hello"),
        (b"\nhello", "", b"hello"),
        (b"", "", b""),
        (b"cut off", "cut off", b""),
        (b"x" * 128 + b"hello", "x" * 128, b"hello"),
        (b"\xff\n", "\ufffd", b""),
    ],
)
def test_the_token_is_the_first_line_and_the_link_gets_all_that_follows(said: bytes, token: str, rest: bytes) -> None:
    script = (
        "import sys; from cardferry.app.agent.handoff_client import read_token\n"
        "token = read_token(); rest = sys.stdin.buffer.read(); print((token, rest))"
    )
    run = subprocess.run([sys.executable, "-c", script], input=said, capture_output=True, check=True)
    assert run.stdout.decode().strip() == repr((token, rest))


def test_a_key_that_is_for_the_link_only_refuses_everything_else() -> None:
    with pytest.raises(LinkOnlyError) as caught:
        hand_to_agent("", "", {"SSH_ORIGINAL_COMMAND": "rm -rf /"}, [])
    assert "authorized_keys" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "environ", "known_as"),
    [
        ("desk", {"SSH_CONNECTION": "10.0.0.7 5 10.0.0.8 22"}, "desk (10.0.0.7)"),
        ("", {"SSH_CONNECTION": "10.0.0.7 5 10.0.0.8 22"}, "10.0.0.7"),
        ("desk", {}, "desk"),
        ("", {}, "a guest on this computer"),
        ("\x1b[2Jdesk", {"SSH_CONNECTION": "10.0.0.7 5 10.0.0.8 22"}, "10.0.0.7"),
        ("", {"SSH_ORIGINAL_COMMAND": "exec cardferry host --stdio --called desk"}, "desk"),
        ("", {"SSH_ORIGINAL_COMMAND": "cardferry host --stdio --called '$(evil)'"}, "a guest on this computer"),
    ],
)
def test_guests_are_known_by_name_and_address(
    name: str, environ: dict[str, str], known_as: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    seen: list[str] = []
    monkeypatch.setattr(
        "cardferry.app.agent.stdio_session.hand_over",
        lambda path, handoff, start: seen.append(f"{path.name} {handoff.name}"),
    )
    hand_to_agent("", name, environ, [])
    assert seen == [f"agent {known_as}"]


@pytest.mark.parametrize("name", ["../evil", "", "\x1b[2J", "a b"])
def test_a_name_that_is_none_does_not_become_a_path(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    started: list[list[str]] = []
    monkeypatch.setattr("cardferry.app.agent.stdio_session.start", lambda words, log: started.append(words))
    monkeypatch.setattr("cardferry.app.agent.stdio_session.hand_over", lambda path, handoff, start: start())
    hand_to_remote_end(Handoff(name, "token"), None, [])
    assert started == [["guest", "--socket", str(tmp_path / "cardferry" / "host.sock")]]


def test_each_path_has_a_socket_of_its_own() -> None:
    folder = Path("/run/user/1/cardferry")
    assert remote_end_path(folder, Path("/run/a")) != remote_end_path(folder, Path("/run/b"))
    assert remote_end_path(folder, Path("/run/a")) == remote_end_path(folder, Path("/run/a"))


KEY = "publickey ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGZvbw=="
SSH = {"SSH_CONNECTION": "10.0.0.7 5 10.0.0.8 22"}


@pytest.mark.parametrize(
    ("name", "environ", "methods", "principal"),
    [
        ("build1", SSH, None, ("ssh", "build1")),
        ("build1", SSH | {"SSH_ORIGINAL_COMMAND": "cardferry host --stdio --called root"}, KEY, ("ssh", "build1")),
        ("", SSH, KEY, ("ssh", "SHA256:NQtSyC3i/UQ908b/suEF2Z4m7a257lw6Jd2s6mq6FFI")),
        ("", SSH, "password\n" + KEY, ("ssh", "SHA256:NQtSyC3i/UQ908b/suEF2Z4m7a257lw6Jd2s6mq6FFI")),
        ("", SSH, "password", ("ssh", "ACCOUNT")),
        ("", SSH, "publickey ssh-ed25519 !!", ("ssh", "ACCOUNT")),
        ("", SSH, None, ("ssh", "ACCOUNT")),
        ("../x", SSH, None, ("ssh", "ACCOUNT")),
        ("build1", {}, None, ("local-user", "ACCOUNT")),
    ],
)
def test_who_comes_is_what_sshd_has_proved(
    name: str, environ: dict[str, str], methods: str | None, principal: tuple[str, str], tmp_path: Path
) -> None:
    if methods is not None:
        (tmp_path / "methods").write_text(methods + "\n")
        environ = environ | {"SSH_USER_AUTH": str(tmp_path / "methods")}
    kind, who = principal
    assert principal_of(name, environ) == (kind, user_name(os.getuid()) if who == "ACCOUNT" else who)


@pytest.mark.parametrize("words", ["--called build1", "--name build1", "--name=build1 --called build1"])
def test_a_guest_cannot_make_itself_another_principal_by_its_words(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it asks for, and what it calls itself: its key has a command, and a name, of its own."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    seen: list[Handoff] = []
    monkeypatch.setattr(
        "cardferry.app.agent.stdio_session.hand_over", lambda path, handoff, start: seen.append(handoff)
    )
    asked = {"SSH_ORIGINAL_COMMAND": f"cardferry host --stdio {words}"}
    hand_to_agent("mallory", "build1", SSH | asked, [])
    hand_to_agent("", "build1", SSH | asked, [])
    assert [handoff.principal for handoff in seen] == [("ssh", "mallory"), ("ssh", user_name(os.getuid()))]


def test_where_sshd_was_reached_and_what_the_session_allows_come_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what the guest says that it wanted to run: a key with a command has that one's options."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    seen: list[Handoff] = []
    monkeypatch.setattr(
        "cardferry.app.agent.stdio_session.hand_over", lambda path, handoff, start: seen.append(handoff)
    )
    asked = {"SSH_ORIGINAL_COMMAND": "cardferry host --stdio --asks-direct --direct"}
    connection = {"SSH_CONNECTION": "10.0.0.7 51000 fe80::1%lan0 22"}
    hand_to_agent("build1", "", connection | asked, [])
    hand_to_agent("build1", "", connection, [], direct=True, direct_ports="7765")
    hand_to_agent("build1", "", {}, [], direct=True)
    assert [(one.direct, one.address, one.direct_ports) for one in seen] == [
        (None, "fe80::1%lan0", ""),
        (True, "fe80::1%lan0", "7765"),
        (True, "", ""),
    ]
