from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cardferry.transports.ssh import SessionError, SshCommand, SshError, open_alone
from cardferry.transports.ssh.errors import HostUnreachableError
from cardferry.transports.ssh.session import SessionPipe


class User:
    def __init__(self, pipe: SessionPipe) -> None:
        self.data = b""
        self.lost_with: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.heard = asyncio.Event()
        pipe.start(self)

    def received(self, data: bytes) -> None:
        self.data += data
        self.heard.set()

    def congested(self, congested: bool) -> None: ...

    def lost(self, error: Exception | None) -> None:
        self.lost_with.set_result(error)


def fake_ssh(folder: Path, script: str) -> SshCommand:
    path = folder / "ssh"
    path.write_text(f'#!/bin/sh\n[ "$1" = -V ] && {{ echo OpenSSH_9.2 >&2; exit; }}\n{script}\n')
    path.chmod(0o755)
    return SshCommand((str(path),))


async def test_its_standard_streams_are_the_pipe(tmp_path: Path) -> None:
    pipe = await open_alone("far", fake_ssh(tmp_path, "exec cat"), "command")
    user = User(pipe)
    pipe.write(b"hello")
    await asyncio.wait_for(user.heard.wait(), 5)
    assert user.data == b"hello"
    pipe.close()
    assert await asyncio.wait_for(user.lost_with, 5) is None


async def test_what_it_says_is_wrong_is_why_the_pipe_was_lost(tmp_path: Path) -> None:
    script = "echo 'error: no pcscd here' >&2; echo 'hint: install it' >&2; exit 30"
    user = User(await open_alone("far", fake_ssh(tmp_path, script), "command"))
    error = await asyncio.wait_for(user.lost_with, 5)
    assert isinstance(error, SessionError)
    assert (error.message, error.hint) == ("far says: no pcscd here", "far says: install it")
    assert (error.status, error.told) == (30, True)


async def test_a_command_that_fails_in_another_way_is_told_by_its_last_words(tmp_path: Path) -> None:
    user = User(await open_alone("far", fake_ssh(tmp_path, "echo sh: cardferry: not found >&2; exit 127"), "command"))
    error = await asyncio.wait_for(user.lost_with, 5)
    assert isinstance(error, SessionError)
    assert "not found" in error.message
    assert (error.status, error.told) == (127, False)


async def test_a_failure_of_ssh_itself_is_told_as_such(tmp_path: Path) -> None:
    script = "echo 'ssh: connect to host far port 22: Connection refused' >&2; exit 255"
    user = User(await open_alone("far", fake_ssh(tmp_path, script), "command"))
    error = await asyncio.wait_for(user.lost_with, 5)
    assert isinstance(error, HostUnreachableError)
    assert not isinstance(error, SessionError)


async def test_what_it_tells_is_heard_and_no_complaint(tmp_path: Path) -> None:
    heard: list[str] = []
    script = "echo cardferry is serving /run/card >&2; exit 3"
    pipe = await open_alone("far", fake_ssh(tmp_path, script), "command", heard.append)
    user = User(pipe)
    error = await asyncio.wait_for(user.lost_with, 5)
    assert heard == ["cardferry is serving /run/card"]
    assert "exit status 3" in str(error)
    assert str(await pipe.ended()) == str(error)


async def test_a_command_that_does_not_end_is_ended(tmp_path: Path) -> None:
    pipe = await open_alone("far", fake_ssh(tmp_path, "exec >&- <&-; exec sleep 60"), "command")
    user = User(pipe)
    assert await asyncio.wait_for(user.lost_with, 5) is None, "that it was ended says nothing about the other side"


async def test_a_command_that_fails_without_listening_is_heard_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    script = f"while [ -e {tmp_path}/go ]; do sleep 0.01; done; echo it is broken >&2; exit 3"
    pipe = await open_alone("far", fake_ssh(tmp_path, script), "command")
    user = User(pipe)
    pipe.write(b"hello")
    (tmp_path / "go").unlink()
    error = await asyncio.wait_for(user.lost_with, 5)
    assert "it is broken" in str(error), "and not that the streams were reset"


async def test_a_missing_ssh_is_an_error_at_once() -> None:
    with pytest.raises(SshError, match="no program"):
        await open_alone("far", SshCommand(("/no/ssh",)), "command")


def test_a_connection_for_one_command_shares_nothing_and_wants_no_terminal() -> None:
    words = SshCommand(("ssh", "-F", "x")).alone("me@far", "command")
    assert words[:4] == ["ssh", "-F", "x", "-T"]
    assert "ControlPath=none" in words
    assert "-M" not in words
    assert any(word.startswith("ServerAliveInterval=") for word in words)
    assert words[-3:] == ["--", "me@far", "command"]
