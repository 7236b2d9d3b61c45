"""One guest of a share: what is told to the other side, and what is believed of what it tells."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from cardferry.app.hosts.lend import silent
from cardferry.app.hosts.ssh_host import SshHost
from cardferry.app.runtime.signals import root_cause
from cardferry.app.runtime.status_socket import Link
from cardferry.app.sharing.lending import Lender, Share
from cardferry.app.sharing.target import ShareTarget
from cardferry.pcsc.caller import Principal
from cardferry.transports.errors import TransportError
from cardferry.transports.ssh import SessionError
from tests.virtual_time import loop_factories

LOOPS = loop_factories()


class Pipe:
    """A session's streams; notes what is written."""

    def __init__(self) -> None:
        self.near = self
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

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

    async def streams(self, command: str, heard: object) -> Pipe:
        self.commands.append(command)
        heard(self._says)  # type: ignore[operator]
        return self.pipe


class Served:
    """Readers: notes what was written to the pipe before it was served."""

    async def ready(self) -> None: ...

    async def serve(self, pipe: Pipe, principal: Principal, name: str) -> None:
        self.before = list(pipe.written)


def a_target(folder: Path, says: str) -> tuple[ShareTarget, Connector, Served, list[str]]:
    announced: list[str] = []
    served = Served()
    guest = SshHost("far")
    target = ShareTarget(
        Share((guest,)), guest, folder, folder / "front",
        readers=cast(Lender, served), announce=lambda host, path: announced.append(path),
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
    described: Link = target.describe(silent("up"))
    assert described.socket == ""


async def test_a_path_that_is_told_again_and_again_is_told_to_people_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target, connector, _, announced = a_target(tmp_path, "cardferry is serving /run/card")

    async def streams(command: str, heard: object) -> Pipe:
        for number in range(100):
            heard(f"cardferry is serving /run/card{number}")  # type: ignore[operator]
            heard("cardferry is serving none")  # type: ignore[operator]
        return connector.pipe

    connector.streams = streams  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING):
        await target._link()
    assert announced == ["/run/card0"]
    assert caplog.records == []


def test_our_name_over_there_is_a_files_name_whatever_this_computer_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "a/${B}.example.org")
    target, _, _, _ = a_target(tmp_path, "")
    assert target._remote.name == "a---B-"


# one connection after the other, and what a person is told

HERE, MISSING = frozenset({"cardferry"}), frozenset[str]()
SERVES = "cardferry is serving /run/card"
AWAY = TransportError("far does not answer", "is it on?")


class RefusedError(TransportError):
    """Nothing that waiting can heal."""

    heals = False


def said_no(status: int, *, told: bool = True) -> SessionError:
    return SessionError("far: the folder is not yours", "choose another", status, told=told)


@dataclass
class Step:
    """What comes of one connection.

    Attributes:
        says: a line of the other side's cardferry.
        lasts: s that the link is served.
        ends: how its session ends.
        installed: what is over there.
        fails: the login fails like this instead.
    """

    says: str = SERVES
    lasts: float = 0.0
    ends: TransportError | None = None
    installed: frozenset[str] = HERE
    fails: TransportError | None = None


class Scripted:
    """A guest's computer: what becomes of one connection after the other; after the last one nothing comes any more.

    Attributes:
        times: when each began, in s since the first.
        forwarded: how often a socket was forwarded.
    """

    def __init__(self, folder: Path, *steps: Step, guests: int = 1, wait: bool = False) -> None:
        self.steps = list(steps)
        self.times: list[float] = []
        self.forwarded = 0
        self.announced: list[str] = []
        self._step = Step()
        self._all_played = asyncio.Event()
        everybody = tuple(SshHost(name) for name in ("far", "farther")[:guests])
        self.target = ShareTarget(
            Share(everybody, wait=wait), everybody[0], folder, folder / "front",
            readers=cast(Lender, self), announce=lambda guest, path: self.announced.append(path),
        )  # fmt: skip
        self.target._connector = self  # type: ignore[assignment]
        self.target._remote = SimpleNamespace(offer=self._forward)  # type: ignore[assignment]

    # a connector

    async def __aenter__(self) -> Scripted:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def drop(self) -> None: ...

    async def connection(self, *, hurry: bool = False) -> Scripted:
        if not self.steps:
            self._all_played.set()
            await asyncio.get_running_loop().create_future()
        self._step = self.steps.pop(0)
        self.times.append(asyncio.get_running_loop().time())
        if self._step.fails is not None:
            raise self._step.fails
        return self

    @property
    def facts(self) -> SimpleNamespace:
        return SimpleNamespace(installed=self._step.installed)

    async def streams(self, command: str, heard: Callable[[str], None]) -> Scripted:
        heard(self._step.says)
        return self

    # a connection with a forwarded socket

    async def _forward(self, *_: object) -> str:
        self.forwarded += 1
        return "/run/forwarded"

    async def lost(self) -> TransportError:
        await asyncio.sleep(self._step.lasts)
        return AWAY

    # a session's streams

    @property
    def near(self) -> Scripted:
        return self

    def write(self, data: bytes) -> None: ...

    def end(self) -> None: ...

    async def ended(self) -> TransportError | None:
        return self._step.ends

    # the readers

    async def ready(self) -> None: ...

    async def serve(self, pipe: object, principal: Principal, name: str) -> None:
        assert str(principal) == "ssh:far", "it is the one that was dialled, whatever it says"
        await asyncio.sleep(self._step.lasts)

    # the test

    async def play(self) -> ShareTarget:
        """Offer the readers until nothing comes any more, or it ends by itself."""
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(self.target.run())
            ending = tasks.create_task(self._all_played.wait())
            await asyncio.wait((running, ending), return_when=asyncio.FIRST_COMPLETED)
            running.cancel()
            ending.cancel()
        return self.target

    async def error(self) -> BaseException:
        """What a person is told."""
        with pytest.raises((TransportError, BaseExceptionGroup)) as raised:
            await self.play()
        return root_cause(raised.value)

    @property
    def pauses(self) -> list[float]:
        """s from one connection to the next."""
        return [round(after - before, 2) for before, after in itertools.pairwise(self.times)]


async def test_a_link_that_was_lost_is_made_again_in_a_hurry_and_programs_are_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    far = Scripted(tmp_path, Step(lasts=60), Step(fails=AWAY), Step(fails=AWAY), Step(lasts=60))
    with caplog.at_level(logging.INFO):
        target = await far.play()
    assert far.announced == ["/run/card"]
    assert (target.way, target.state, target.path) == ("link", "out of reach", "/run/card")
    assert far.pauses == [60, 0.05, 0.1], "the guest still has its session, which is short of time"
    told = [record.getMessage() for record in caplog.records if record.name.endswith("target")]
    assert told[0] == "far: linked, cardferry is at both ends"
    assert told[1] == "lost far; programs there wait"
    assert told[-2:] == ["far is back", "lost far; programs there wait"]


async def test_a_guest_that_serves_and_ends_at_once_is_not_hammered(tmp_path: Path) -> None:
    far = Scripted(tmp_path, *[Step(lasts=0.01)] * 6, Step(lasts=60), *[Step(lasts=0.01)] * 2)
    await far.play()
    assert far.pauses == [0.01, 0.01, 0.01, 0.26, 0.26, 0.26, 60, 0.01]


async def test_a_guest_that_stays_away_is_tried_further_and_further_apart(tmp_path: Path) -> None:
    far = Scripted(tmp_path, Step(lasts=60), *[Step(fails=AWAY)] * 40)
    target = await far.play()
    assert target.state == "far does not answer"
    assert far.pauses[-2:] == [30, 30]


async def test_a_computer_without_cardferry_gets_a_forwarded_socket(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    far = Scripted(tmp_path, Step(installed=MISSING), Step(lasts=60))
    with caplog.at_level(logging.INFO):
        target = await far.play()
    assert (target.way, far.forwarded, far.announced) == ("forwarding", 1, ["/run/forwarded"])
    assert "far: plain forwarding, cardferry is not installed there" in caplog.text


async def test_a_cardferry_that_cannot_serve_gets_a_forwarded_socket(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    far = Scripted(tmp_path, Step(says="", ends=said_no(1)), Step(lasts=60))
    target = await far.play()
    assert (target.way, far.forwarded) == ("forwarding", 1)
    assert "no link to far: far: the folder is not yours; a socket is forwarded instead" in caplog.text


@pytest.mark.parametrize("status", [10, 11, 12])
async def test_what_is_wrong_with_the_path_over_there_would_be_wrong_with_a_forwarded_one(
    tmp_path: Path, status: int
) -> None:
    wrong = said_no(status)
    far = Scripted(tmp_path, Step(says="", ends=wrong))
    assert await far.error() is wrong
    assert (wrong.exit_code, far.forwarded) == (status, 0)


async def test_a_link_that_ends_again_and_again_before_it_serves_is_given_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    far = Scripted(tmp_path, *[Step(says="")] * 3, Step(lasts=60))
    target = await far.play()
    assert (target.way, far.forwarded, len(far.times)) == ("forwarding", 1, 4)
    assert "no link to far: it ends at once; a socket is forwarded instead" in caplog.text


async def test_the_only_guest_must_be_there_at_first_one_of_several_need_not(tmp_path: Path) -> None:
    assert await Scripted(tmp_path, Step(fails=AWAY)).error() is AWAY
    one_of_several = Scripted(tmp_path, Step(fails=AWAY), Step(lasts=60), guests=2)
    target = await one_of_several.play()
    assert target.way == "link"


async def test_a_guest_that_is_waited_for_may_be_away_or_refuse_us_at_any_time(tmp_path: Path) -> None:
    refused = RefusedError("far refuses the login", "")
    away = [Step(fails=AWAY)] * 9
    far = Scripted(tmp_path, Step(fails=refused), *away, Step(lasts=60), Step(fails=refused), Step(lasts=60), wait=True)
    assert (await far.play()).way == "link"
    assert far.pauses == [300, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 300]


async def test_one_of_several_that_refuses_us_later_is_given_up_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refused = RefusedError("far refuses the login", "")
    assert await Scripted(tmp_path, Step(lasts=60), Step(fails=refused)).error() is refused
    assert await Scripted(tmp_path, Step(fails=refused), guests=2).error() is refused, "a person is there to read it"
    one_of_several = Scripted(tmp_path, Step(lasts=60), Step(fails=refused), guests=2)
    target = await one_of_several.play()
    assert target.error is refused
    assert target.describe(silent("up")).state == "far refuses the login"
    assert "far refuses the login; it is not tried again" in caplog.text
