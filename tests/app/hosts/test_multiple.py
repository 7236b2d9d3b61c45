"""Several hosts: each for itself, from the first attempt to the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cardferry.app.hosts import multiple as several
from cardferry.app.hosts.address import HostAddress
from cardferry.app.hosts.attachment import Attachment
from cardferry.app.hosts.connect import OpenedReaders, ReachedHost, Way
from cardferry.app.runtime.signals import root_cause
from cardferry.app.runtime.status_socket import Link
from cardferry.manager.status import SlotStatus
from cardferry.pcsc.constants import Protocol, ShareMode
from cardferry.pcsc.errors import UserError
from cardferry.transports.errors import TransportError
from tests.callers import somebody
from tests.fleet.hosts import Said
from tests.virtual_time import loop_factories, quiet

LOOPS = loop_factories()


class RefusedError(TransportError):
    """Nothing that waiting can heal."""

    heals = False


class Hosts:
    """What the hosts do when somebody tries to reach them.

    Attributes:
        script: for each host what happens with one attempt after the other: an error, or a manager; an event is waited
            for first. The last thing happens from then on.
        attempts: which host was tried, in order.
        open: the hosts that are reached at present.
    """

    def __init__(self, **script: list[Exception | Said | asyncio.Event]) -> None:
        self.script = script
        self.attempts: list[str] = []
        self.open: set[str] = set()

    @asynccontextmanager
    async def reach(self, name: str) -> AsyncIterator[ReachedHost]:
        self.attempts.append(name)
        steps = self.script[name]
        step = steps.pop(0) if len(steps) > 1 else steps[0]
        if isinstance(step, asyncio.Event):
            await step.wait()
            step = steps[0]
        if isinstance(step, Exception):
            raise step
        assert isinstance(step, Said)
        self.open.add(name)
        said = step

        async def known() -> None:
            pass

        try:
            yield ReachedHost(
                said,
                known,
                lambda path: [Link(name, "up", path, "link")],
                lambda: (0, [SlotStatus.of(reader, None, 0.0, ["somebody"]) for reader in said.snapshot.readers]),
            )
        finally:
            self.open.discard(name)

    @asynccontextmanager
    async def all(self, folder: Path, *, wait: bool = False) -> AsyncIterator[ReachedHost]:
        """All of them, as `attach` has them."""
        wanted = Attachment(tuple(Scripted(name, self) for name in self.script), wait=wait)
        async with several.reached_all(wanted, folder) as everything:
            yield everything
        assert self.open == set()

    async def play(self, folder: Path) -> BaseException:
        """Use them until something ends that; return what a person is told."""
        with pytest.raises(BaseExceptionGroup) as raised:
            await self._use(folder)
        return root_cause(raised.value)

    async def _use(self, folder: Path) -> None:
        async with self.all(folder) as everything:
            await everything.known()
            await asyncio.sleep(3600)


@dataclass(frozen=True, slots=True)
class Scripted(HostAddress):
    """A host that does what the script says."""

    name: str
    hosts: Hosts

    def __str__(self) -> str:
        return self.name

    def open_readers(self, way: Way) -> AbstractAsyncContextManager[OpenedReaders]:
        raise NotImplementedError

    def reach(self, way: Way) -> AbstractAsyncContextManager[ReachedHost]:
        assert way.one_of_several
        return self.hosts.reach(self.name)


def shown(everything: ReachedHost) -> list[str]:
    return [reader.name for reader in everything.manager.snapshot.readers]


def now() -> float:
    return asyncio.get_running_loop().time()


AWAY = TransportError("laptop does not answer", "is it on?")


async def test_a_host_that_is_away_is_tried_again_until_it_joins(tmp_path: Path) -> None:
    hosts = Hosts(laptop=[AWAY, AWAY, Said("Reader")], desk=[Said("Reader")])
    async with hosts.all(tmp_path) as everything:
        await everything.known()
        assert shown(everything) == ["Reader"]
        assert [(link.host, link.state, link.way) for link in everything.links("path")] == [
            ("laptop", "laptop does not answer", ""),
            ("desk", "up", "link"),
        ]
        await everything.manager.changed(everything.manager.snapshot.serial)
        assert shown(everything) == ["Reader (laptop)", "Reader"]
        assert [link.state for link in everything.links("path")] == ["up", "up"]
        assert sorted(hosts.attempts) == ["desk", "laptop", "laptop", "laptop"]


async def test_when_none_can_be_reached_the_first_ones_error_is_the_commands(tmp_path: Path) -> None:
    hosts = Hosts(laptop=[AWAY], desk=[TransportError("desk does not answer", "")])
    assert await hosts.play(tmp_path) is AWAY


async def test_what_can_never_be_ends_the_command_while_somebody_is_there_to_read_it(tmp_path: Path) -> None:
    refused = RefusedError("laptop refused the login", "")
    hosts = Hosts(laptop=[refused], desk=[Said("Reader")])
    assert await hosts.play(tmp_path) is refused
    assert hosts.open == set()


@pytest.mark.parametrize("error", [RefusedError("refused the login", ""), UserError("too many guests", "")])
async def test_later_a_host_is_given_up_alone(
    error: UserError, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hosts = Hosts(laptop=[AWAY, error], desk=[Said("Reader")])
    async with hosts.all(tmp_path) as everything:
        await everything.known()
        await asyncio.sleep(100)
        assert shown(everything) == ["Reader"]
        assert hosts.attempts.count("laptop") == 2
        assert [link.state for link in everything.links("path")] == [error.message, "up"]
        assert f"{error.message}; it is not tried again" in caplog.messages


async def test_errors_that_task_groups_have_wrapped_are_told_like_others(tmp_path: Path) -> None:
    hosts = Hosts(laptop=[ExceptionGroup("tasks", [AWAY]), Said("Reader")], desk=[Said("Other")])
    async with hosts.all(tmp_path) as everything:
        await everything.known()
        assert everything.links("path")[0].state == AWAY.message
        await everything.manager.changed(everything.manager.snapshot.serial)
        assert shown(everything) == ["Reader", "Other"]


@pytest.mark.parametrize("error", [AWAY, RefusedError("refused the login", "")], ids=["away", "refused"])
async def test_a_host_that_is_waited_for_may_be_away_at_first_also_when_it_is_the_only_one(
    error: TransportError, tmp_path: Path
) -> None:
    hosts = Hosts(laptop=[error, error, Said("Reader")])
    async with hosts.all(tmp_path, wait=True) as everything:
        await everything.known()
        assert shown(everything) == []
        assert everything.links("path")[0].state == error.message
        await everything.manager.changed(everything.manager.snapshot.serial)
        assert shown(everything) == ["Reader"]


async def test_programs_are_served_soon_while_a_host_that_is_waited_for_says_nothing(tmp_path: Path) -> None:
    hosts = Hosts(laptop=[asyncio.Event()])
    start = now()
    async with hosts.all(tmp_path, wait=True) as everything:
        await everything.known()
        assert now() - start == pytest.approx(several._OTHERS_TIME)


async def test_a_bug_is_not_taken_for_a_host_that_is_away(tmp_path: Path) -> None:
    hosts = Hosts(laptop=[ZeroDivisionError()], desk=[Said("Reader")])
    assert isinstance(await hosts.play(tmp_path), ZeroDivisionError)


async def test_one_that_takes_its_time_keeps_the_others_waiting_for_seconds_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answers = asyncio.Event()
    hosts = Hosts(laptop=[answers, RefusedError("refused the login", "")], desk=[Said("Reader")])
    start = now()
    async with hosts.all(tmp_path) as everything:
        await everything.known()
        assert now() - start == pytest.approx(several._OTHERS_TIME)
        assert shown(everything) == ["Reader"]
        assert everything.links("path")[0].state == "connecting"
        answers.set()
        await quiet()
        assert everything.links("path")[0].state == "refused the login"
        assert shown(everything) == ["Reader"]


async def test_when_all_take_their_time_the_first_one_is_waited_for(tmp_path: Path) -> None:
    answers = asyncio.Event()
    hosts = Hosts(laptop=[asyncio.Event(), AWAY], desk=[answers, Said("Reader")])
    asyncio.get_running_loop().call_later(60, answers.set)
    start = now()
    async with hosts.all(tmp_path) as everything:
        await everything.known()
        assert now() - start >= 60
        assert shown(everything) == ["Reader"]


@pytest.mark.parametrize("terminal", [True, False])
async def test_at_a_terminal_one_after_the_other_may_ask_for_a_password(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(several, "in_foreground", lambda: terminal)
    typed = asyncio.Event()
    hosts = Hosts(laptop=[typed, Said("Reader")], desk=[Said("Other")])
    async with hosts.all(tmp_path) as everything:
        await quiet()
        assert hosts.attempts == (["laptop"] if terminal else ["laptop", "desk"])
        typed.set()
        await everything.known()
        assert shown(everything) == ["Reader", "Other"]


async def test_a_host_that_is_away_keeps_nobody_from_being_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(several, "in_foreground", lambda: True)
    hosts = Hosts(laptop=[AWAY], desk=[Said("Other")])
    async with hosts.all(tmp_path) as everything:
        await everything.known()
        assert shown(everything) == ["Other"]


async def test_who_uses_which_reader_is_told_under_the_names_that_programs_see(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hosts = Hosts(laptop=[Said("Reader", "Other")], desk=[Said("Reader")])
    async with hosts.all(tmp_path) as everything:
        await everything.known()
        context = await everything.manager.open(somebody("program"))
        await context.connect("Reader (desk)", ShareMode.SHARED, Protocol.ANY)
        contexts, slots = everything.users()
        assert contexts == 1
        assert [(slot.reader, slot.clients) for slot in slots] == [
            ("Reader", ["somebody"]),
            ("Other", ["somebody"]),
            ("Reader (desk)", ["somebody"]),
        ]
        await context.close()
