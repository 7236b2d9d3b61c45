"""Whether there is a link to an ssh host, and what a person is told; everything between the two computers is faked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import cast

import pytest

from cardferry.app.hosts.ssh_connection import SshConnector
from cardferry.app.hosts.ssh_link import link_state, linked, session_dial, why
from cardferry.app.runtime.signals import root_cause
from cardferry.link import Guest, LinkRefusedError, LinkServer, LinkState
from cardferry.pcsc.errors import CardferryError
from cardferry.transports.base import Pipe
from cardferry.transports.memory import memory_pipe
from cardferry.transports.ssh import NoShellError, SessionError, SshError
from cardferry.transports.ssh.guard import Facts
from cardferry.wire.link.greeting import Bye, Reason
from tests.callers import TESTER
from tests.fleet.hosts import Said
from tests.link.desk import becomes
from tests.virtual_time import loop_factories

LOOPS = loop_factories()

BOTH = Facts(pcscd="/run/pcscd/pcscd.comm", installed=frozenset({"pcscd", "cardferry"}))
BROKEN = SessionError("cardferry on laptop is broken", "install it anew", 1, told=False)


class Way:
    """The way to a host, in the place of a `SshConnector`.

    Attributes:
        said: what comes of logging in: facts, or an error.
        sessions: what comes of one session after the other: an error, or a link to this manager's readers. The last one
            comes from then on.
        commands: what the sessions were to run.
        pipes: the guest's ends of the pipes that were made.
    """

    def __init__(self, said: Facts | SshError, *sessions: Exception | Said) -> None:
        self.destination = "laptop"
        self.alone = False
        self.said = said
        self.sessions = list(sessions)
        self.commands: list[str] = []
        self.pipes: list[Pipe] = []
        self._servers: dict[Said, LinkServer] = {}
        self._tasks = asyncio.TaskGroup()

    async def connection(self) -> Way:
        if isinstance(self.said, Exception):
            raise self.said
        return self

    @property
    def facts(self) -> Facts:
        assert isinstance(self.said, Facts)
        return self.said

    async def round_trip(self) -> float:
        return 0.05

    async def session(self, command: str) -> Pipe:
        self.commands.append(command)
        there = self.sessions.pop(0) if len(self.sessions) > 1 else self.sessions[0]
        if isinstance(there, Exception):
            raise there
        near, far = memory_pipe()
        self.pipes.append(near)
        if there in self._servers:
            self._tasks.create_task(self._servers[there].serve(far, TESTER))
        return near

    @asynccontextmanager
    async def linked(self) -> AsyncIterator[Guest | None]:
        """The link for the block, None where plain forwarding must do."""
        async with AsyncExitStack() as stack:
            for there in self.sessions:
                if isinstance(there, Said):
                    self._servers[there] = await stack.enter_async_context(LinkServer(there))
            await stack.enter_async_context(self._tasks)
            yield await stack.enter_async_context(linked(cast("SshConnector", self)))


async def outcome(way: Way) -> bool | BaseException:
    """Whether there is a link, or what a person is told."""
    try:
        async with way.linked() as guest:
            return guest is not None
    except BaseExceptionGroup as group:
        return root_cause(group)
    except (CardferryError, OSError) as error:
        return error


async def test_cardferry_at_both_ends_is_linked() -> None:
    way = Way(BOTH, Said("Reader"))
    async with way.linked() as guest:
        assert guest is not None
        assert [reader.name for reader in guest.snapshot.readers] == ["Reader"]
        assert link_state(guest) == "up"
    (command,) = way.commands
    assert "cardferry host --stdio --called " in command


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (Facts(pcscd="/run/pcscd/pcscd.comm", installed=frozenset({"pcscd"})), "cardferry is not installed there"),
        (Facts(installed=frozenset({"cardferry"})), "there is no pcscd"),
    ],
    ids=["no cardferry", "no pcscd"],
)
async def test_without_cardferry_or_pcscd_there_plain_forwarding_must_do(
    facts: Facts, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    way = Way(facts, Said("Reader"))
    with caplog.at_level(logging.INFO):
        assert await outcome(way) is False
    assert f"laptop: plain forwarding, {reason}" in caplog.text
    assert way.commands == []


async def test_a_cardferry_that_is_no_good_is_passed_by(caplog: pytest.LogCaptureFixture) -> None:
    assert await outcome(Way(BOTH, BROKEN)) is False
    assert "no link to laptop: cardferry on laptop is broken; its pcscd is forwarded instead" in caplog.text


async def test_a_host_that_cannot_be_reached_is_no_reason_to_forward() -> None:
    away = SshError("laptop does not answer", "is it on?")
    assert await outcome(Way(away, Said("Reader"))) is away
    assert await outcome(Way(BOTH, away)) is away


async def test_a_key_that_may_do_nothing_else_is_linked_in_a_connection_of_its_own() -> None:
    way = Way(NoShellError("laptop gives no shell", ""), Said("Reader"))
    async with way.linked() as guest:
        assert way.alone
        assert guest is not None
        assert guest.state is LinkState.UP


async def test_where_there_is_neither_shell_nor_link_the_missing_shell_is_the_error() -> None:
    no_shell = NoShellError("laptop gives no shell", "")
    assert await outcome(Way(no_shell, BROKEN)) is no_shell


async def test_people_are_told_how_the_link_is_but_not_of_its_end(caplog: pytest.LogCaptureFixture) -> None:
    way = Way(BOTH, Said("Reader"))
    with caplog.at_level(logging.INFO, "cardferry.app"):
        async with way.linked() as guest:
            assert guest is not None
            way.pipes[-1].abort()
            await becomes(guest, LinkState.BROKEN)
            await becomes(guest, LinkState.UP)
    assert [record.getMessage() for record in caplog.records if record.name == "cardferry.app.hosts.ssh_link"] == [
        "laptop: linked, cardferry is at both ends",
        "lost laptop; programs wait",
        "laptop is back",
    ]


async def test_a_session_that_is_over_is_told_with_what_it_means(caplog: pytest.LogCaptureFixture) -> None:
    way = Way(BOTH, Said("Reader"), SshError("laptop does not answer", ""))
    async with way.linked() as guest:
        assert guest is not None
        way.pipes[-1].abort()
        await becomes(guest, LinkState.DOWN)
        assert link_state(guest) == "down: laptop does not answer"
    assert "the session with laptop is over: programs have lost what they held there" in caplog.text


def test_a_cardferry_of_another_age_is_named_as_that() -> None:
    told = why(LinkRefusedError(Bye(Reason.VERSION, "version 9 is needed")), "laptop")
    assert told == (
        "its cardferry is too far from this one in age (version 9 is needed); "
        "to bring it up to date: cardferry setup laptop"
    )
    assert why(BROKEN) == "cardferry on laptop is broken"
    assert why(TimeoutError("nothing was heard")).startswith("its agent does not answer: nothing was heard; ")


async def test_only_a_link_that_shall_be_direct_asks_for_it() -> None:
    way = Way(BOTH, Said("Reader"))
    for direct in (False, True):
        await session_dial(cast("SshConnector", way), direct=direct)()
    plain, asking = way.commands
    assert "--asks-direct" not in plain
    assert "--asks-direct" in asking


async def test_an_older_cardferry_is_asked_once_and_then_linked_as_ever() -> None:
    older = SessionError(
        "cardferry on laptop does not work: Error: No such option: --asks-direct", "try it", 2, told=False
    )
    way = Way(BOTH, older, Said("Reader"))
    dial = session_dial(cast("SshConnector", way), direct=True)
    for _ in range(2):
        await dial()
    assert ["--asks-direct" in command for command in way.commands] == [True, False, False]


async def test_another_error_of_that_session_is_passed_on() -> None:
    way = Way(BOTH, BROKEN)
    with pytest.raises(SessionError):
        await session_dial(cast("SshConnector", way), direct=True)()
    assert len(way.commands) == 1
