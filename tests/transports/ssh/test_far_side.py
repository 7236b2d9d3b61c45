"""What a far side that lies can bring about here: nothing that it says reaches ssh's command line as it likes."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from cardferry.transports.sockets import PathUnusableError, unfit
from cardferry.transports.ssh import RemoteSocket, SshCommand, SshConnection, connect, forward_pcscd, guard
from cardferry.transports.ssh.connection import _escaped

SECRET = "MY_SECRET"
#: Paths that ssh, a shell or a terminal would make something else of.
LIES = ["/x/${MY_SECRET}/y", "/x\\y", "/x\u202ey", "/x\x1b[2J", "x/y", "/" + "x" * 107, "/x\ud800y", "/x/"]
#: Runs the "remote" command here, and writes down what it was called with.
_FAKE_SSH = """#!/bin/sh
[ "$1" = -V ] && { echo OpenSSH_9.2 >&2; exit; }
printf '%s\\n' "$*" >>"$0.calls"
for last; do :; done
case " $* " in *" -O "*) exit 0 ;; esac
FAR
"""


class FarSide:
    """An account that is reached with a "ssh" which runs everything here.

    Args:
        folder: for the program, and its session's home.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._program = folder / "ssh"

    @asynccontextmanager
    async def connected(self, session: str = 'exec sh -c "$last"', **env: str) -> AsyncIterator[SshConnection]:
        """A connection to it.

        Args:
            session: what its sshd does, in sh; ``$last`` is the command that it was given.
            env: its environment.
        """
        variables = "".join(f"export {name}='{value}'\n" for name, value in env.items())
        self._program.write_text(_FAKE_SSH.replace("FAR", f"unset XDG_RUNTIME_DIR\n{variables}{session}"))
        self._program.chmod(0o755)
        scratch = self._folder / "scratch"
        scratch.mkdir(mode=0o700, exist_ok=True)
        async with connect("far", SshCommand((str(self._program),)), scratch) as connection:
            yield connection

    def calls(self) -> list[str]:
        """How ssh was called."""
        return Path(f"{self._program}.calls").read_text().splitlines()

    def forwardings(self) -> list[str]:
        """What it was told to forward."""
        return [call for call in self.calls() if "-O" in call.split() and "forward" in call.split()]


@pytest.fixture
def far(tmp_path: Path) -> FarSide:
    return FarSide(tmp_path)


@pytest.fixture
def odd_pcscd(tmp_path: Path) -> str:
    """The path of a socket, in a folder that is called as ssh names a variable."""
    folder = tmp_path / f"${{{SECRET}}}"
    folder.mkdir()
    with closing(socket.socket(socket.AF_UNIX)) as sock:
        sock.bind(str(folder / "s"))
    return str(folder / "s")


async def test_the_path_of_its_pcscd_cannot_ask_for_our_environment(
    far: FarSide, tmp_path: Path, odd_pcscd: str
) -> None:
    async with far.connected(PCSCLITE_CSOCK_NAME=odd_pcscd) as connection:
        assert connection.facts.pcscd == odd_pcscd
        with pytest.raises(PathUnusableError) as raised:
            await forward_pcscd(connection, tmp_path / "pcscd")
    assert "far says that its pcscd is at" in raised.value.message
    assert "PCSCLITE_CSOCK_NAME" in raised.value.hint
    assert far.forwardings() == []


async def test_nor_can_that_of_its_temporary_folder(far: FarSide, tmp_path: Path) -> None:
    lie = tmp_path / f"${{{SECRET}}}"
    lie.mkdir()
    async with far.connected(TMPDIR=str(lie), XDG_RUNTIME_DIR="") as connection:
        connection.facts.runtime = ""  # the account on this computer may have one
        with pytest.raises(PathUnusableError):
            await RemoteSocket(None, "here").offer(connection, tmp_path / "front", tmp_path)
    assert far.forwardings() == []


@pytest.mark.parametrize("lie", LIES)
async def test_no_path_that_means_something_else_reaches_ssh(far: FarSide, tmp_path: Path, lie: str) -> None:
    """Whichever way it came: this is the last door."""
    assert unfit(lie)
    async with far.connected() as connection:
        for forward in (
            connection.forward_to_remote(tmp_path / "l", lie),
            connection.forward_to_local(lie, tmp_path / "l"),
            connection.cancel_to_remote(tmp_path / "l", lie),
        ):
            with pytest.raises(PathUnusableError):
                await forward
    assert far.forwardings() == []


def test_what_is_left_is_escaped() -> None:
    assert _escaped("/a b/%h/c:d$HOME/'") == "/a b/%%h/c\\:d$HOME/'"


async def test_another_account_there_cannot_speak_for_the_guard(far: FarSide) -> None:
    """It sees the guard's command line, and can write lines to the session's terminal (``wall``)."""
    spoof = (
        "mark=${last##* }\n"
        '(for what in "boot" "fact pcscd /evil" "fact runtime /evil" "1 kind none" "1 done" "ready" "bye"; do\n'
        '  echo "$mark $what"; done) &\n'
        "wait\n"
        'exec sh -c "$last"'
    )
    async with far.connected(spoof) as connection:
        assert connection.facts.pcscd != "/evil"
        assert connection.facts.runtime != "/evil"
        assert (await connection.ask("look", "/")).values["kind"] == "other"
    assert connection.mark in "\n".join(far.calls())


async def test_numbers_without_an_end_do_no_harm(far: FarSide) -> None:
    """Python refuses to read one of more than 4300 digits, with an exception of its own."""
    assert guard.number("9" * 5000) is None
    facts = guard.Facts()
    facts.learn("uid", "9" * 5000)
    assert facts == guard.Facts()
    async with far.connected() as connection:
        connection._master._line(f"{connection._master._word} {'9' * 5000} done")
        assert (await connection.ask("look", "/")).failure == ""


async def test_our_own_folder_may_be_called_as_it_likes(tmp_path: Path) -> None:
    folder = tmp_path / "50%h"
    folder.mkdir()
    far = FarSide(folder)
    async with far.connected() as connection:
        await connection.forward_to_remote(folder / "l", "/run/pcscd/pcscd.comm")
    assert f"-S {folder}/scratch/ctl".replace("%", "%%") in far.calls()[0]
    assert f"-L {folder}/l:/run/pcscd/pcscd.comm".replace("%", "%%") in far.forwardings()[0]
    with pytest.raises(PathUnusableError, match="ssh's own socket") as raised:
        async with connect("far", SshCommand(("true",)), Path(f"/tmp/${{{SECRET}}}")):
            pass
    assert "XDG_RUNTIME_DIR" in raised.value.hint
