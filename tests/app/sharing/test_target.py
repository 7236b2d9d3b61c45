"""One guest of a share: what is told to the other side, and what is believed of what it tells."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from cardferry.app.hosts.address import SshHost
from cardferry.app.runtime.status_socket import Link
from cardferry.app.sharing.lending import Share
from cardferry.app.sharing.target import Offer
from cardferry.link import LinkServer
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


class Carrier:
    """A way to a computer with cardferry, which says one line when it is asked for a session."""

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


def an_offer(folder: Path, says: str) -> tuple[Offer, Carrier, Served, list[str]]:
    announced: list[str] = []
    served = Served()
    guest = SshHost("far")
    offer = Offer(
        Share((guest,)), guest, folder, folder / "front",
        host=cast(LinkServer, served), announce=lambda host, path: announced.append(path),
    )  # fmt: skip
    carrier = Carrier(says)
    offer._carrier = carrier  # type: ignore[assignment]
    return offer, carrier, served, announced


async def test_the_token_goes_through_the_stream_and_not_on_the_command_line(tmp_path: Path) -> None:
    offer, carrier, served, announced = an_offer(tmp_path, "cardferry is serving /run/card")
    await offer._link()
    (token,) = served.before
    assert token == offer._token.encode() + b"\n"
    assert len(offer._token) == 32
    assert "--token-stdin" in carrier.commands[0]
    assert offer._token not in carrier.commands[0]
    assert announced == ["/run/card"]


@pytest.mark.parametrize("path", ["/x/${HOME}", "/x\\'$(reboot)", "relative", "", "/" + "x" * 200, "/x\x1b[2J"])
async def test_a_path_that_is_none_is_not_given_to_people_for_their_shell(
    tmp_path: Path, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    offer, _, _, announced = an_offer(tmp_path, f"cardferry is serving {path}")
    with caplog.at_level(logging.WARNING):
        await offer._link()
    assert announced == []
    assert offer.path == ""
    assert "far says that it serves at" in caplog.text
    described: Link = offer.describe("up")
    assert described.socket == ""


def test_our_name_over_there_is_a_files_name_whatever_this_computer_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "a/${B}.example.org")
    offer, _, _, _ = an_offer(tmp_path, "")
    assert offer._remote.name == "a---B-"
