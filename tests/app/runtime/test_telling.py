"""What people are told of the readers that a command serves: once, and not too soon."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from cardferry.app.runtime.telling import LONG, SETTLED, telling
from cardferry.pcsc.reader_state import ReaderState, Use, User
from cardferry.pcsc.trouble import Cause, Trouble
from tests.fleet.hosts import Said
from tests.virtual_time import loop_factories, quiet

LOOPS = loop_factories()
DOWN = Trouble(Cause.DOWN, "/run/pcscd/pcscd.comm", host="nas")
AWAY = Trouble(Cause.AWAY, "nas", "nas cannot be reached: timed out", "nas")
SAID = f"{DOWN}; {DOWN.hint}"


class Manager(Said):
    """A resource manager with the snapshots that the test says."""

    def troubled(self, *troubles: Trouble) -> None:
        """The readers are gone, and why."""
        self.become(troubles=troubles)

    def used(self, use: Use) -> None:
        """Somebody uses the reader."""
        self.become(ReaderState("A", use=use), events=0)


async def test_a_trouble_is_told_once_when_it_has_lasted_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    manager = Manager("A")
    async with telling(manager):
        manager.troubled(DOWN)
        await asyncio.sleep(SETTLED - 0.1)
        assert caplog.messages == []
        await asyncio.sleep(0.2)
        assert caplog.messages == [SAID]
        await asyncio.sleep(3600)
        manager.become("A", "B")
        await asyncio.sleep(2 * SETTLED)
        assert caplog.messages == [SAID, "nas: readers are there: A, B"]


async def test_a_pcscd_that_is_restarted_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    manager = Manager("A")
    async with telling(manager):
        manager.troubled(DOWN)
        await asyncio.sleep(SETTLED / 2)
        manager.become("A")
        await asyncio.sleep(3600)
    assert caplog.messages == []


async def test_what_is_wrong_from_the_start_is_told_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """Before readers were ever seen, that is: a person waits for them."""
    manager = Manager()
    async with telling(manager):
        await asyncio.sleep(10)
        manager.troubled(DOWN)
        await quiet()
        assert caplog.messages == [SAID]
        await asyncio.sleep(3600)
        assert caplog.messages == [SAID]


async def test_who_keeps_a_connection_tells_of_it(caplog: pytest.LogCaptureFixture) -> None:
    manager = Manager("A")
    async with telling(manager):
        manager.troubled(AWAY)
        await asyncio.sleep(3600)
        manager.become("A")
        await asyncio.sleep(3600)
    assert caplog.messages == []


async def test_a_program_of_ours_that_waits_long_is_told_once_for_whom_and_in_which_place(
    caplog: pytest.LogCaptureFixture,
) -> None:
    manager = Manager("A")
    now = asyncio.get_running_loop().time()
    gpg = User("gpg (process 1, user 2)", "ssh:laptop", now, 1)
    holder = User("ssh on build1", "ssh:build1", now - 10, ours=False)
    theirs = User("p11 on build2", "ssh:build2", now, 2, ours=False)
    line = (
        "gpg (process 1, user 2) has waited 5 s for the card in A, place 2 in the queue: "
        "ssh on build1 as ssh:build1 has it, for 15 s now"
    )
    async with telling(manager):
        manager.used(Use(holder, (theirs, gpg)))
        await asyncio.sleep(LONG - 0.1)
        assert caplog.messages == []
        await asyncio.sleep(0.2)
        assert caplog.messages == [line]
        manager.used(Use(holder, (gpg,)))
        await asyncio.sleep(3600)
        assert caplog.messages == [line], "once for each wait"
        manager.used(Use())
        again = replace(gpg, since=asyncio.get_running_loop().time(), wait=3)
        manager.used(Use(None, (again,)))
        await asyncio.sleep(LONG + 1)
        assert len(caplog.messages) == 2
        assert caplog.messages[1].endswith("place 1 in the queue: nobody has it at this moment")


async def test_it_ends_with_the_block() -> None:
    manager = Manager()
    with pytest.raises(ExceptionGroup) as caught:
        async with telling(manager):
            raise ValueError
    assert caught.group_contains(ValueError)
    assert len(asyncio.all_tasks()) == 1
