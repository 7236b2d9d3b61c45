"""One guest of a share: what is told to the other side, and what is believed of what it tells."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from cardferry.app.hosts.ssh_host import SshHost
from cardferry.app.runtime.status_socket import Link
from cardferry.app.sharing.lending import Share
from cardferry.app.sharing.target import ShareTarget
from cardferry.link import Host
from cardferry.pcsc.caller import Principal


class Pipe:
    """Notes what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def abort(self) -> None: ...

    def end(self) -> None: ...

    async def ended(self) -> None: ...


class Connector:
    """A connection to a computer with cardferry, which says one line when it is asked for a session."""

    def __init__(self, says: str) -> None:
        self.commands: list[str] = []
        self.pipe = Pipe()
        self._says = says

    async def connection(self, *, hurry: bool = False) -> SimpleNamespace:
        return SimpleNamespace(facts=SimpleNamespace(installed=frozenset({"cardferry"})))

    async def session(self, command: str, heard: object) -> Pipe:
        self.commands.append(command)
        heard(self._says)  # type: ignore[operator]
        return self.pipe


class Served:
    """The link's end: notes what was written to the pipe before it was served."""

    status = SimpleNamespace(guests=())

    async def serve(self, pipe: Pipe, principal: Principal, name: str) -> None:
        self.before = list(pipe.written)


def a_target(folder: Path, says: str) -> tuple[ShareTarget, Connector, Served, list[str]]:
    announced: list[str] = []
    served = Served()
    guest = SshHost("far")
    target = ShareTarget(
        Share((guest,)), guest, folder, folder / "front",
        host=cast(Host, served), announce=lambda host, path: announced.append(path),
    )  # fmt: skip
    connector = Connector(says)
    target._connector = connector  # type: ignore[assignment]
    return target, connector, served, announced


async def test_the_token_goes_through_the_stream_and_not_on_the_command_line(tmp_path: Path) -> None:
    target, connector, served, announced = a_target(tmp_path, "cardferry is serving /run/card")
    await target._link()
    (token,) = served.before
    assert token == target._token.encode() + b"\n"
    assert len(target._token) == 32
    assert "--token-stdin" in connector.commands[0]
    assert target._token not in connector.commands[0]
    assert announced == ["/run/card"]


@pytest.mark.parametrize("path", ["/x/${HOME}", "/x\\'$(reboot)", "relative", "", "/" + "x" * 200, "/x\x1b[2J"])
async def test_a_path_that_is_none_is_not_given_to_people_for_their_shell(
    tmp_path: Path, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    target, _, _, announced = a_target(tmp_path, f"cardferry is serving {path}")
    with caplog.at_level(logging.WARNING):
        await target._link()
    assert announced == []
    assert target.path == ""
    assert "far says that it serves at" in caplog.text
    described: Link = target.describe("up")
    assert described.socket == ""


def test_our_name_over_there_is_a_files_name_whatever_this_computer_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "a/${B}.example.org")
    target, _, _, _ = a_target(tmp_path, "")
    assert target._remote.name == "a---B-"
