"""``cardferry host``: its options reach the agent, also the one that a guest starts through ssh."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cardferry.app.agent.introductions import PortsError
from cardferry.app.agent.server import AgentSettings
from cardferry.app.hosts.sources import PcscdHost, VirtualHost
from cardferry.app.runtime import signals
from cardferry.app.runtime.request import Request
from cardferry.cli import host
from cardferry.cli.main import cli
from cardferry.manager import Settings
from cardferry.transports.registry import TRANSPORTS
from cardferry.transports.sockets import Access
from cardferry.transports.unix import UnixAddress
from cardferry.transports.vsock import VsockAddress

OPTIONS = [
    "--readers=virtual:", "--reader=Yubico*", "--reader=Other*", "--record=/tmp/record", "--listen=unix:/run/link",
    "--listen=vsock:3:35960", "--mode=0660", "--group=cards", "--no-accelerate", "--grace=5", "--max-idle=3",
    "--max-hold=7",
]  # fmt: skip


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[AgentSettings]:
    """What the agent would have served."""
    found: list[AgentSettings] = []
    server = importlib.import_module("cardferry.app.agent.server")
    monkeypatch.setattr(server, "serve", lambda wanted, ready: found.append(wanted))
    monkeypatch.setattr(signals, "run", lambda main, hang_up=None: main())
    monkeypatch.setattr("cardferry.app.runtime.logging.set_up", lambda verbosity, timed: None)
    monkeypatch.setattr("cardferry.app.runtime.spawn.settle_in_background", lambda: None)
    return found


def host_with(*options: str) -> None:
    result = CliRunner().invoke(cli, ["host", *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_defaults(served: list[AgentSettings]) -> None:
    host_with()
    (wanted,) = served
    assert wanted == AgentSettings()
    assert wanted.readers == PcscdHost(Path("/run/pcscd/pcscd.comm"))


def test_each_option(served: list[AgentSettings]) -> None:
    host_with(*OPTIONS)
    (wanted,) = served
    assert wanted.readers == VirtualHost()
    assert wanted.service.readers == ("Yubico*", "Other*")
    assert wanted.service.record == Path("/tmp/record")
    assert wanted.service.settings == Settings(max_idle=3, max_hold=7)
    assert wanted.listen == (UnixAddress(Path("/run/link")), VsockAddress(3, 35960))
    assert wanted.access == Access(0o660, "cards")
    assert (wanted.accelerate, wanted.grace, wanted.idle) == (False, 5, None)


def test_an_agent_that_a_guest_has_started_has_the_same_options(
    served: list[AgentSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []

    asked: list[Request] = []

    def hand_to_agent(
        name: str, called: str, environ: Mapping[str, str], options: list[str], request: Request, **direct: object
    ) -> None:
        started.append(options)
        asked.append(request)

    monkeypatch.setattr("cardferry.app.agent.stdio_session.hand_to_agent", hand_to_agent)
    host_with(*OPTIONS)
    host_with("--stdio", *OPTIONS)
    host_with(*started[0])
    assert served[0] == served[1]
    assert asked == [served[0].request], "and so has an agent that is there already"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--direct-ports=x"], "not a port"),
        (["--fleet=nats://a b"], "not a NATS server"),
        (["--fleet-name=a.b"], "not a name in a fleet"),
        (["--listen=carrier-pigeon:"], "carrier-pigeon"),
        (["--web-viewer=tls:anna"], "there is no page without --web"),
    ],
)
def test_who_has_started_it_in_the_background_hears_what_is_wrong_with_an_option(
    served: list[AgentSettings], options: list[str], says: str
) -> None:
    here, there = os.pipe()
    with os.fdopen(here) as heard:
        assert CliRunner().invoke(cli, ["host", "--ready", str(there), *options]).exit_code != 0
        assert says in heard.read()
    assert served == []


def test_help_names_each_transport_at_which_one_can_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    listen: Any = next(option for option in host.command.params if option.name == "listen")
    for scheme, transport in TRANSPORTS.items():
        assert not transport.LISTEN_FORM or f"{scheme}:" in listen.help


@pytest.mark.parametrize(
    ("words", "direct"),
    [
        ([], None),
        (["--asks-direct"], True),
        (["--direct"], True),
        (["--no-direct", "--asks-direct"], False),
    ],
)
def test_a_session_may_have_its_own_connections_when_its_command_says_so(
    words: list[str], direct: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest that chooses the command says ``--asks-direct``; one whose key has a command says nothing here."""
    handed: list[tuple[bool | None, str]] = []

    def hand_to_agent(*_: object, direct: bool | None, direct_ports: str) -> None:
        handed.append((direct, direct_ports))

    monkeypatch.setattr("cardferry.app.agent.stdio_session.hand_to_agent", hand_to_agent)
    host_with("--stdio", "--direct-ports=7765-7770", *words)
    assert handed == [(direct, "7765-7770")]


def test_an_agent_by_hand_decides_about_them_for_all(served: list[AgentSettings]) -> None:
    for words in ([], ["--direct"], ["--no-direct", "--direct-ports=7765"]):
        host_with(*words)
    assert [(wanted.direct, wanted.direct_ports) for wanted in served] == [(None, ""), (True, ""), (False, "7765")]


def test_ports_that_are_none_are_said_at_once(served: list[AgentSettings]) -> None:
    with pytest.raises(PortsError):
        host_with("--direct-ports=all")
    assert not served
