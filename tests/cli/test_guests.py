"""``cardferry invite``, ``join`` and ``guests``, and the options for certificates of others."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from cardferry.app.agent.server import AgentSettings
from cardferry.app.commands import guests as module
from cardferry.app.hosts.sources import VirtualHost
from cardferry.app.runtime.status_socket import Running
from cardferry.cli.main import cli
from cardferry.cli.tls_options import TlsFiles
from cardferry.pcsc.errors import UserError
from cardferry.transports.tls.errors import InvitationError
from cardferry.transports.tls.host import own_host
from cardferry.transports.tls.identity import Line
from tests.app.agent.at_work import agent
from tests.transports.tls import tls_lab


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("XDG_DATA_HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


def call(*words: str) -> Result:
    return CliRunner().invoke(cli, words)


def test_the_line_alone_is_on_standard_output() -> None:
    done = call("invite", "build1", "--address", "laptop.example")
    line = Line.parse(done.stdout)
    assert (line.address, line.name) == ("tls://laptop.example:7764", "build1")
    assert done.stdout == f"{line}\n"
    assert "nobody can come in yet; start: cardferry host --listen tls::7764" in done.stderr
    assert "invited until" in call("guests").output


@pytest.mark.parametrize(
    ("listens", "address", "found"),
    [
        ("", None, f"tls://{socket.gethostname().lower()}:7764"),
        (":7000", None, f"tls://{socket.gethostname().lower()}:7000"),
        ("10.0.0.1:7000", None, "tls://10.0.0.1:7000"),
        (":7000", "laptop", "tls://laptop:7000"),
        (":7000", "laptop:443", "tls://laptop:443"),
        (":7000", "tls://laptop", "tls://laptop:7000"),
        (":7000", "[2001:db8::1]", "tls://[2001:db8::1]:7000"),
        (":7000", "[2001:db8::1]:443", "tls://[2001:db8::1]:443"),
    ],
)
def test_where_guests_find_this_computer(listens: str, address: str | None, found: str) -> None:
    if listens:
        own_host().guests.listens = listens
    text, _ = module.invite("build1", 60.0, 60.0, address)
    assert Line.parse(text).address == found


def came_in_once() -> None:
    """A host has listened in both ways before."""
    own_host().guests.listens = ":7000"
    own_host().guests.fleet = "fleet:OLD?servers=nats://old:4222"


def configure(home: Path, text: str) -> None:
    (home / "cardferry").mkdir(mode=0o700, exist_ok=True)
    (home / "cardferry" / "config.toml").write_text(text)


async def test_the_line_is_for_where_the_host_that_runs_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_host().guests.fleet = "fleet:OLD?servers=nats://old:4222"
    address = tls_lab.joined_port(tmp_path, monkeypatch)
    configure(tmp_path, "[host]\nlisten = 'tls::9999'\n")
    async with agent(AgentSettings(VirtualHost(), listen=(address,))) as host:
        assert (await host.status()).listens == [f"tls:127.0.0.1:{address.port}"]
        text, notes = await asyncio.to_thread(module.invite, "build1", 60.0, 60.0, None)
    assert Line.parse(text).address == f"tls://127.0.0.1:{address.port}"
    assert not any("nobody can come in" in note or "NATS" in note for note in notes)


def test_the_line_is_for_the_fleet_where_the_host_that_runs_is_there_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    came_in_once()
    runs = Running("host", 1, 0.0, [], 0, [], listens=["fleet:OLD?servers=nats://old:4222", "tls::7000?ca=/a&cert=/b"])
    monkeypatch.setattr(module, "running", lambda folder: [runs])
    text, notes = module.invite("build1", 60.0, 60.0, None)
    assert Line.parse(text).address == "fleet:OLD?servers=nats://old:4222"
    assert not any("nobody can come in" in note for note in notes)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[host]\nlisten = 'tls:10.0.0.1:9999'\n", "tls://10.0.0.1:9999"),
        ("[fleet]\nname = 'LAB-7'\nservers = ['nats://me:secret@n1']\n", "fleet:LAB-7?servers=nats://n1"),
        ("[host]\nfleet = 'n2'\nfleet-name = 'LAB-8'\n", "fleet:LAB-8?servers=nats://n2"),
    ],
)
def test_the_line_is_for_where_the_configuration_says_while_no_host_runs(text: str, found: str, home: Path) -> None:
    came_in_once()
    configure(home, text)
    text, notes = module.invite("build1", 60.0, 60.0, None)
    assert Line.parse(text).address == found
    assert "nobody can come in yet; start: cardferry host" in notes


def test_the_line_is_for_where_the_last_host_has_listened_where_nothing_else_is_known() -> None:
    came_in_once()
    text, notes = module.invite("build1", 60.0, 60.0, None)
    assert Line.parse(text).address.endswith(":7000")
    assert notes[1:] == [
        "nobody can come in yet; start: cardferry host --listen tls::7000",
        "for a guest that can only reach NATS: cardferry invite build1 --address 'fleet:OLD?servers=nats://old:4222'",
    ]


@pytest.mark.parametrize(
    "words", [("a b",), ("build1", "--address", "a b"), ("build1", "--for", "0s"), ("build1", "--for", "x")]
)
def test_what_cannot_be_invited(words: tuple[str, ...]) -> None:
    done = call("invite", *words)
    assert isinstance(done.exception, UserError | SystemExit)
    assert own_host().guests.invitations == []


async def test_a_line_that_is_none_is_told_before_anybody_is_dialled() -> None:
    for text in ("tls://laptop", f"tls://a b:1/build1/{'A' * 43}/secret"):
        with pytest.raises(InvitationError):
            await module.join(text)


async def test_who_is_removed_is_cut_off_by_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = tls_lab.joined_port(tmp_path, monkeypatch)
    rechecked: list[bool] = []
    monkeypatch.setattr("cardferry.app.agent.lends.recheck", lambda: rechecked.append(True))
    async with agent(AgentSettings(VirtualHost(), listen=(address,))):
        assert json.loads((await asyncio.to_thread(call, "guests", "--json")).output)[0]["name"] == "build1"
        await asyncio.to_thread(module.remove, "tls:build1")
        assert rechecked == [True]
    assert own_host().guests.known == {}
    with pytest.raises(InvitationError, match="there is no guest build1"):
        module.remove("build1")


def test_without_an_agent_a_guest_is_removed_all_the_same() -> None:
    own_host().guests.invite("build1", 60.0, 60.0)
    assert call("guests", "remove", "build1").output == "build1 is removed\n"
    assert own_host().guests.invitations == []
    assert "nobody waits" in call("guests").output


# --- certificates of others


def test_files_go_to_the_addresses_of_tls_that_have_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    files = TlsFiles("ca.pem", "/c.pem", "/k.pem")
    query = f"?ca={tmp_path}/ca.pem&cert=/c.pem&key=/k.pem"
    assert files.into("tls::7764") == f"tls::7764{query}"
    assert files.into("tls://laptop") == f"tls://laptop{query}"
    for same in ("unix:/run/link", "tls://laptop?ca=/a&cert=/b&key=/c"):
        assert files.into(same) == same
    assert TlsFiles(None, None, None).into("tls::7764") == "tls::7764"


@pytest.mark.parametrize("command", ["host", "attach", "run"])
def test_one_of_the_files_alone_is_wrong_usage(command: str) -> None:
    words = {"host": [], "attach": ["x"], "run": ["--", "true"]}[command]
    done = CliRunner().invoke(cli, [command, "--tls-ca", "x", *words], standalone_mode=False)
    assert isinstance(done.exception, click.UsageError)


def test_the_library_is_loaded_by_nobody_who_does_not_use_it() -> None:
    code = (
        "import sys, cardferry.cli.attach, cardferry.cli.host, cardferry.app.agent.server, cardferry.cli.guests\n"
        "from cardferry.transports.registry import parse_listening\n"
        "from cardferry.app.hosts.registry import parse_host\n"
        "parse_listening('tls::7764'), parse_host('fleet:LAB-7'), parse_host('tls://laptop'), parse_host('laptop')\n"
        "names = 'cryptography.x509', 'cardferry.transports.tls.identity', 'nats'\n"
        "print([name for name in names if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
