"""What the doctor says of gpg-agent and ssh-agent, which keep the environment that they were started with."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from cardferry.app.commands.user_session import GpgAgent
from cardferry.app.commands.variable import VARIABLE
from cardferry.app.doctor import Finding, State, programs
from cardferry.app.runtime.status_socket import Link, Running

ATTACHED = [Running("attach", 2, 0.0, [Link("laptop", "up", "/run/x.sock")], 0, [])]
OWN_DRIVER = "disable-ccid:8:2:do not use the internal CCID driver:0:0::::\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A GNUPGHOME; gpgconf says where it is, and that scdaemon has its own driver."""
    folder = tmp_path / "gnu pg"

    async def output(*command: str) -> str | None:
        return {"--list-options": OWN_DRIVER, "--list-dirs": f"{tmp_path}/gnu%20pg\n"}[command[1]]

    monkeypatch.setattr(programs, "output", output)
    use(monkeypatch, None)
    return folder


def use(monkeypatch: pytest.MonkeyPatch, agent: GpgAgent | None) -> None:
    async def gpg_agent() -> GpgAgent | None:
        return agent

    monkeypatch.setattr(programs, "gpg_agent", gpg_agent)


def has_used(home: Path) -> None:
    """Somebody has run gpg."""
    home.mkdir(exist_ok=True)
    (home / "pubring.kbx").touch()


async def found(findings: AsyncIterator[Finding]) -> list[Finding]:
    return [finding async for finding in findings]


@pytest.mark.parametrize("running", [[], ATTACHED])
async def test_who_has_never_used_gpg_has_no_problem_with_it(
    home: Path, monkeypatch: pytest.MonkeyPatch, running: list[Running]
) -> None:
    use(monkeypatch, GpgAgent("", runs=True, by_manager=True))
    findings = await found(programs.gnupg(running, {}))
    assert {one.state for one in findings} == {State.NOTE}
    has_used(home)
    wrong = [one for one in await found(programs.gnupg(running, {})) if one.state is State.PROBLEM]
    assert len(wrong) == (2 if running else 0)
    if running:
        assert wrong[0].hint == f"put the line disable-ccid into {home}/scdaemon.conf, then gpgconf --kill scdaemon"


@pytest.mark.parametrize(
    ("agent", "environ", "says", "hint"),
    [
        (
            GpgAgent("", runs=True, by_manager=False), {},
            f"gpg-agent has {VARIABLE} not set, and keeps that",
            "gpgconf --kill gpg-agent, then use gpg from a shell that has the variable",
        ),
        (
            GpgAgent("/old", runs=True, by_manager=True), {},
            f"gpg-agent has {VARIABLE}=/old, and keeps that",
            "systemd's user manager starts it: cardferry env --import, then gpgconf --kill gpg-agent",
        ),
        (
            GpgAgent("", runs=False, by_manager=True), {},
            f"systemd will start gpg-agent with {VARIABLE} not set",
            "systemd's user manager starts it: cardferry env --import",
        ),
        (GpgAgent("/run/x.sock", runs=True, by_manager=True), {}, "", ""),
        (GpgAgent("/run/x.sock", runs=True, by_manager=True), {VARIABLE: "/y"}, "=/run/x.sock, and keeps that", ""),
        (GpgAgent("/y", runs=True, by_manager=True), {VARIABLE: "/y"}, "", ""),
    ],
)  # fmt: skip
async def test_an_agent_with_another_environment(
    home: Path, monkeypatch: pytest.MonkeyPatch, agent: GpgAgent, environ: dict[str, str], says: str, hint: str
) -> None:
    has_used(home)
    use(monkeypatch, agent)
    wrong = [one for one in await found(programs.gnupg(ATTACHED, environ)) if "gpg-agent" in one.says]
    assert [one.state for one in wrong] == ([State.PROBLEM] if says else [])
    if says:
        assert says in wrong[0].says
        assert hint in wrong[0].hint


async def test_when_nothing_is_attached_any_more_the_manager_is_to_forget(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, GpgAgent("/old", runs=True, by_manager=True))
    *_, last = await found(programs.gnupg([], {}))
    assert f"systemctl --user unset-environment {VARIABLE}, then gpgconf --kill gpg-agent" in last.hint


@pytest.fixture
def agent() -> Iterator[dict[str, str]]:
    """What a shell knows of an ssh-agent that was started without the variable."""
    environ = {name: value for name, value in os.environ.items() if name != VARIABLE}
    with TemporaryDirectory() as folder:
        said = subprocess.check_output(["ssh-agent", "-a", f"{folder}/agent"], env=environ, text=True)
        found = dict(re.findall(r"^(SSH_\w+)=([^;]+);", said, re.MULTILINE))
        yield found
        os.kill(int(found["SSH_AGENT_PID"]), signal.SIGTERM)


def test_an_ssh_agent_is_named_where_readers_are_elsewhere(agent: dict[str, str]) -> None:
    (one,) = programs.ssh_agent(ATTACHED, agent)
    assert (one.state, "`ssh-add -s` would look for readers there" in one.says) == (State.NOTE, True)
    forwarded = {"SSH_AUTH_SOCK": agent["SSH_AUTH_SOCK"]}
    nothing: list[tuple[list[Running], dict[str, str]]] = [(ATTACHED, {}), ([], agent), (ATTACHED, forwarded)]
    for running, environ in nothing:
        assert list(programs.ssh_agent(running, environ)) == []
