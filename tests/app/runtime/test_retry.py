from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cardferry.app.runtime.retry import FIRST_PAUSE, REFUSED_PAUSE, Supervisor
from cardferry.backoff import HOURLY, RARELY
from cardferry.transports.errors import TransportError


class RefusedError(TransportError):
    heals = False


class OverError(Exception):
    """The play has ended."""


class Connection:
    """Stands until it is told otherwise."""

    def __init__(self) -> None:
        self.end: asyncio.Future[TransportError] = asyncio.get_running_loop().create_future()

    async def lost(self) -> TransportError:
        return await self.end


class Play:
    """Attempts go as the script says: ``up`` and lost again with a reason, or an error."""

    def __init__(self, script: list[str | TransportError], patient: bool = False) -> None:
        self.script = script
        self.delays: list[float] = []
        self.ups = 0
        self.open = 0
        self.supervisor = Supervisor("computer1", self.dial, self.on_up, self.sleep, lambda: 0.5, patient=patient)

    @asynccontextmanager
    async def dial(self) -> AsyncIterator[Connection]:
        if not self.script:
            raise OverError
        step = self.script.pop(0)
        if isinstance(step, TransportError):
            raise step
        connection = Connection()
        connection.end.set_result(TransportError(step, ""))
        self.open += 1
        try:
            yield connection
        finally:
            self.open -= 1

    def on_up(self) -> None:
        assert self.supervisor.state == "up"
        self.ups += 1

    async def sleep(self, seconds: float) -> None:
        assert self.open == 0, "the lost connection is closed before the pause"
        self.delays.append(seconds)

    async def run(self) -> None:
        with pytest.raises(OverError):
            await self.supervisor.run()


async def test_the_first_failure_is_the_commands_error() -> None:
    error = TransportError("no computer is known by the name computer1", "")
    play = Play([error])
    with pytest.raises(TransportError) as raised:
        await play.supervisor.run()
    assert raised.value is error
    assert play.delays == []


async def test_a_lost_connection_is_dialled_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    play = Play(["lost computer1: closed", "lost computer1: closed"])
    await play.run()
    assert play.ups == 2
    assert caplog.messages == [
        "lost computer1: closed; trying again in 1 s",
        "computer1 is back",
        "lost computer1: closed; trying again in 1 s",
    ]


async def test_failures_in_a_row_come_further_and_further_apart() -> None:
    play = Play(["lost", *(TransportError(f"failure {number}", "") for number in range(8)), "lost"])
    await play.run()
    assert play.delays == [1, 2, 4, 8, 16, 30, 30, 30, 30, 1]


async def test_a_failure_that_repeats_itself_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    play = Play(["lost", *(TransportError("does not answer", "") for _ in range(5)), "lost"])
    await play.run()
    assert [message.partition(";")[0] for message in caplog.messages] == [
        "lost",
        "does not answer",
        "computer1 is back",
        "lost",
    ]


async def test_a_host_that_is_away_is_told_twice_and_then_rarely_whatever_ssh_says(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    play = Play(["lost", *(TransportError(f"words {number % 3}", "") for number in range(60))])
    play.supervisor._clock = lambda: sum(play.delays)
    await play.run()
    said = [message.partition(";")[0] for message in caplog.messages]
    assert said[:2] == ["lost", "words 0"]
    assert len(said) == 2 + int(sum(play.delays) // RARELY)


async def test_what_waiting_cannot_heal_ends_it() -> None:
    refused = RefusedError("refused the login", "")
    play = Play(["lost", TransportError("does not answer", ""), refused, "never"])
    with pytest.raises(RefusedError):
        await play.supervisor.run()
    assert play.script == ["never"]


async def test_the_state_says_why_it_is_down() -> None:
    play = Play(["lost computer1: closed"])
    assert play.supervisor.state == ""
    await play.run()
    assert play.supervisor.state == "lost computer1: closed"


async def test_a_patient_one_waits_for_a_host_that_is_away_at_first() -> None:
    play = Play([TransportError("does not answer", ""), "lost"], patient=True)
    await play.run()
    assert play.ups == 1
    assert play.supervisor.tried.is_set()


async def test_a_patient_one_does_not_wait_for_what_cannot_heal() -> None:
    play = Play([RefusedError("refused the login", "")], patient=True)
    with pytest.raises(RefusedError):
        await play.supervisor.run()


async def test_an_enduring_one_ends_quietly_when_nothing_can_heal_any_more(caplog: pytest.LogCaptureFixture) -> None:
    refused = RefusedError("refused the login", "")
    play = Play(["lost", refused, "never"])
    play.supervisor = Supervisor("computer1", play.dial, play.on_up, play.sleep, lambda: 0.5, enduring=True)
    await play.supervisor.run()
    assert play.script == ["never"]
    assert (play.supervisor.state, play.supervisor.error) == ("refused the login", refused)
    assert caplog.messages[-1] == "refused the login; it is not tried again"


async def test_an_enduring_ones_first_failure_is_an_error_all_the_same() -> None:
    play = Play([RefusedError("refused the login", "")])
    play.supervisor = Supervisor("computer1", play.dial, play.on_up, play.sleep, lambda: 0.5, enduring=True)
    with pytest.raises(RefusedError):
        await play.supervisor.run()


async def test_one_that_waits_is_in_no_hurry_tells_it_hourly_and_never_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    away, refused = TransportError("does not answer", ""), RefusedError("refused the login", "")
    play = Play([*[away] * 130, refused, "lost", refused])
    play.supervisor = Supervisor(
        "computer1", play.dial, play.on_up, play.sleep, lambda: 0.5, clock=lambda: sum(play.delays), waits=True
    )
    await play.run()
    assert play.delays[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert play.delays[130:] == [REFUSED_PAUSE, 1, REFUSED_PAUSE], "who is refused often is locked out"
    said = [message.partition(";")[0] for message in caplog.messages]
    assert said[:2] == ["does not answer"] * 2
    assert said.count("does not answer") == 1 + sum(play.delays[:130]) // HOURLY


@pytest.mark.parametrize(("chance", "factor"), [(0.0, 0.9), (1.0, 1.1)])
async def test_many_computers_do_not_come_back_in_the_same_moment(chance: float, factor: float) -> None:
    play = Play(["lost"])
    play.supervisor = Supervisor("computer1", play.dial, play.on_up, play.sleep, lambda: chance)
    await play.run()
    assert play.delays == [pytest.approx(FIRST_PAUSE * factor)]


async def test_cancelling_ends_the_connection() -> None:
    play = Play([])
    up = asyncio.Event()

    @asynccontextmanager
    async def dial() -> AsyncIterator[Connection]:
        play.open += 1
        try:
            yield Connection()
        finally:
            play.open -= 1

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(Supervisor("computer1", dial, up.set).run())
        await up.wait()
        assert play.open == 1
        task.cancel()
    assert play.open == 0
