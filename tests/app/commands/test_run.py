from __future__ import annotations

import os
import shlex
import subprocess
import sys

import pytest

from cardferry.app.commands.run import AmbiguousError, CommandNotStartedError, choose, execute
from cardferry.app.commands.variable import export_line
from cardferry.app.hosts.registry import parse_host
from cardferry.app.runtime.status_socket import Link, Running


def one(*hosts: str, command: str = "attach", socket: str = "/run/x.sock") -> Running:
    return Running(command, 1, 1.0, [Link(host, "up", socket) for host in hosts], 0, [])


def test_the_only_attachment_is_meant_when_nothing_is_said() -> None:
    only = one("computer1")
    assert choose([only], None) is only


def test_what_is_shared_with_others_is_not_for_programs_here() -> None:
    assert choose([one("computer2", command="share")], None) is None
    assert choose([one("computer2", command="share")], parse_host("computer2")) is None


def test_nothing_attached() -> None:
    assert choose([], None) is None
    assert choose([one("computer1")], parse_host("computer2")) is None


def test_several_attachments_must_be_told_apart() -> None:
    first, second = one("computer1"), one("computer2")
    with pytest.raises(AmbiguousError, match="computer1, computer2") as raised:
        choose([first, second], None)
    assert "env HOST" in raised.value.hint
    assert choose([first, second], parse_host("computer2")) is second


def test_the_attachment_with_the_fewest_other_hosts_is_meant() -> None:
    both, alone = one("computer1", "computer2"), one("computer1")
    assert choose([both, alone], parse_host("computer1")) is alone
    assert choose([both, alone], parse_host("computer2")) is both


@pytest.mark.parametrize("path", ["/run/x.sock", "/run/with blank", "/run/$HOME'\"\\"])
def test_the_line_for_the_shell_is_quoted(path: str) -> None:
    script = f'{export_line(path)}; printf %s "$PCSCLITE_CSOCK_NAME"'
    assert subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout == path


def test_execute_becomes_the_command() -> None:
    script = (
        "from cardferry.app.commands.run import execute\n"
        "execute(['sh', '-c', 'printf %s $PCSCLITE_CSOCK_NAME; exit 7'], '/run/x.sock')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (7, "/run/x.sock")


@pytest.mark.parametrize(("command", "code"), [("/no/such/command", 127), ("/etc/passwd", 126)])
def test_a_command_that_cannot_be_started_has_the_exit_code_of_shells(command: str, code: int) -> None:
    with pytest.raises(CommandNotStartedError) as raised:
        execute([command], "/run/x.sock", os.environ)
    assert raised.value.exit_code == code
    assert shlex.quote(command) in raised.value.message
