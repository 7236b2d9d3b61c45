from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import uvloop

from cardferry.pcsc.errors import UserError
from cardferry.transports.program import deaf_to_interrupts
from cardferry.transports.ssh.command import SshCommand, identify, run
from cardferry.transports.ssh.errors import SshNotInstalledError
from tests.lab.process import wait_until


def test_the_command_is_split_as_a_shell_would() -> None:
    assert SshCommand.parse("ssh -F 'my config'").program == ("ssh", "-F", "my config")


@pytest.mark.parametrize("text", ["", "  ", "ssh 'unclosed"])
def test_what_is_no_command_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        SshCommand.parse(text)


def test_the_connection_is_a_terminal_session_so_that_both_sides_set_nodelay() -> None:
    words = SshCommand(("ssh", "-F", "x")).master("me@computer1", "/run/c", "guard")
    assert words[:3] == ["ssh", "-F", "x"]
    assert "-tt" in words
    assert words[-3:] == ["--", "me@computer1", "guard"]


def test_options_that_this_ssh_does_not_know_are_left_out() -> None:
    old = SshCommand(version=(8, 4)).master("h", "c", "g")
    new = SshCommand(version=(9, 6)).master("h", "c", "g")
    assert set(new) - set(old) == {
        "SessionType=default",
        "StdinNull=no",
        "ForkAfterAuthentication=no",
        "ObscureKeystrokeTiming=no",
    }


def test_orders_read_no_configuration() -> None:
    words = SshCommand(("ssh", "-F", "mine")).control("h", "/run/c", "forward", "-L", "a:b")
    assert words == ["ssh", "-F", "mine", "-F", "none", "-S", "/run/c", "-O", "forward", "-L", "a:b", "--", "h"]


def fake_ssh(folder: Path, script: str) -> SshCommand:
    path = folder / "ssh"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return SshCommand((str(path),))


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("OpenSSH_9.2p1 Debian-2+deb12u10, OpenSSL 3.0.19", (9, 2)),
        ("OpenSSH_for_Windows_9.5p1, LibreSSL 3.8.2", (9, 5)),
        ("OpenSSH_10.0p2", (10, 0)),
        ("Sun_SSH_2.4", (0, 0)),
    ],
)
async def test_the_version_is_read_from_ssh_itself(tmp_path: Path, said: str, version: tuple[int, int]) -> None:
    command = await identify(fake_ssh(tmp_path, f"echo '{said}' >&2"))
    assert command.version == version


async def test_an_ssh_that_does_not_tell_its_version_is_taken_for_an_old_one(tmp_path: Path) -> None:
    command = await identify(fake_ssh(tmp_path, "echo OpenSSH_9.9p1 >&2; exit 1"))
    assert command.version == (0, 0)


async def test_no_ssh_here_has_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(SshNotInstalledError, match="no program '/nowhere/ssh'") as raised:
        await identify(SshCommand(("/nowhere/ssh",)))
    assert "apt install openssh-client" in raised.value.hint


def test_who_gives_up_a_command_that_has_just_ended_is_told_of_nothing_else(tmp_path: Path) -> None:
    told = tmp_path / "told"

    async def give_up() -> None:
        async with asyncio.TaskGroup() as tasks:
            script = f"sleep 60 & echo $$ $! >{told}.new; mv {told}.new {told}"
            command = tasks.create_task(run(["sh", "-c", script]))
            await asyncio.to_thread(wait_until, told.exists, "the command has begun")
            ended, left = map(int, told.read_text().split())
            try:
                await asyncio.to_thread(wait_until, lambda: not Path(f"/proc/{ended}").exists(), "it has ended")
                command.cancel()  # its output has not ended: somebody else may write there
                await asyncio.wait([command])
            finally:
                os.kill(left, signal.SIGKILL)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # asyncio's own does not mind
        runner.run(give_up())


def test_a_deaf_command_is_not_ended_by_ctrl_c() -> None:
    script = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('still here')"
    done = subprocess.run(
        deaf_to_interrupts([sys.executable, "-c", script]), capture_output=True, text=True, check=True
    )
    assert done.stdout == "still here\n"
