"""Which readers are offered, and in which order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Self, cast
from unittest.mock import AsyncMock

import pytest

from cardferry.pcsc.applications import Applications
from cardferry.pcsc.caller import Caller, Principal
from cardferry.pcsc.constants import CardState, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.interface import Context
from cardferry.pcsc.reader_state import ReaderState, Snapshot
from cardferry.pcsc.trouble import Cause, Trouble
from cardferry.policy.offered import Offered
from cardferry.policy.patterns import rank
from tests.callers import somebody


class Readers:
    """A resource manager with the readers that the test says."""

    def __init__(self, *names: str) -> None:
        self.context = AsyncMock()
        self._news = asyncio.Condition()
        self.snapshot = Snapshot(readers=_readers(names))

    async def become(self, *names: str, present: Sequence[str] = (), troubles: Sequence[Trouble] = ()) -> None:
        """From now on these, with cards in some."""
        async with self._news:
            readers = _readers(names, present)
            self.snapshot = Snapshot(self.snapshot.serial + 1, readers=readers, troubles=tuple(troubles))
            self._news.notify_all()

    async def changed(self, serial: int) -> Snapshot:
        async with self._news:
            await self._news.wait_for(lambda: self.snapshot.serial != serial)
            return self.snapshot

    def seen_by(self, principal: Principal) -> Self:
        return self

    def may_read(self, reader: str, applications: Applications, apdu: bytes) -> bool:
        return True

    async def open(self, caller: Caller, patience: float | None = None) -> Context:
        return cast("Context", self.context)


def _readers(names: Sequence[str], present: Sequence[str] = ()) -> tuple[ReaderState, ...]:
    return tuple(ReaderState(name, state=CardState.PRESENT if name in present else CardState.ABSENT) for name in names)


def shown(offered: Offered) -> list[str]:
    return [reader.name for reader in offered.snapshot.readers]


@pytest.mark.parametrize(
    ("name", "patterns", "expected"),
    [
        ("Acme 00 00", (), 0),
        ("Acme 00 00", ("*",), 0),
        ("Acme 00 00", ("Acme*",), 0),
        ("Acme 00 00", ("acme*",), 0),
        ("Acme 00 00", ("Acme",), None),
        ("Acme 00 00", ("Zeta*", "* 00 00"), 1),
        ("Acme 00 00", ("* 0[12] 00", "????? 00 00"), None),
        ("Acme [CCID] 00 00", ("Acme [CCID] 00 00",), 0),
        ("Acme [CCID] 00 00", ("Acme [[]CCID] *",), 0),
        ("Lesegerät 00 00", ("LESEGERÄT*",), 0),
    ],
)
def test_patterns(name: str, patterns: tuple[str, ...], expected: int | None) -> None:
    assert rank(name, patterns) == expected


async def test_only_matching_readers_are_offered_those_of_the_first_pattern_first() -> None:
    readers = Readers("Zeta 0", "Acme 1", "Other", "Acme 0", "Zeta 1")
    assert shown(Offered(readers, ["Acme*", "Zeta*"])) == ["Acme 1", "Acme 0", "Zeta 0", "Zeta 1"]


async def test_a_pattern_for_everything_else_may_come_last() -> None:
    readers = Readers(*(f"Reader {number}" for number in range(20)), "Mine")
    assert shown(Offered(readers, ["Mine", "*"]))[:16] == ["Mine", *(f"Reader {number}" for number in range(15))]


async def test_readers_that_are_not_offered_do_not_exist() -> None:
    readers = Readers("Acme", "Zeta")
    context = await Offered(readers, ["Acme"]).open(somebody("program"))
    await context.connect("Acme", ShareMode.SHARED, Protocol.ANY)
    with pytest.raises(PcscError) as refused:
        await context.connect("Zeta", ShareMode.SHARED, Protocol.ANY)
    assert refused.value.code is ReturnCode.E_UNKNOWN_READER
    readers.context.connect.assert_awaited_once_with("Acme", ShareMode.SHARED, Protocol.ANY)
    await context.close()
    readers.context.close.assert_awaited_once_with()


async def test_what_happens_at_readers_that_are_not_offered_wakes_nobody() -> None:
    readers = Readers("Acme", "Zeta")
    offered = Offered(readers, ["Acme"])
    before = offered.snapshot
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(offered.changed(before.serial))
        await asyncio.sleep(0)
        await readers.become("Acme", "Zeta", "More", present=["Zeta"])
        assert offered.snapshot is before
        await readers.become("Acme", present=["Acme"])
    after = waiting.result()
    assert after is offered.snapshot
    assert after.readers[0].state is CardState.PRESENT
    assert after.serial != before.serial


async def test_offered_readers_that_come_and_go_are_counted() -> None:
    readers = Readers("Acme 0", "Zeta")
    offered = Offered(readers, ["Acme*"])
    assert offered.snapshot.reader_events == 2, "one reader since the beginning"
    await readers.become("Acme 0", "Acme 1", "Other")
    assert offered.snapshot.reader_events == 3
    await readers.become("Acme 2")
    assert offered.snapshot.reader_events == 6
    await readers.become("Acme 2", "Other")
    assert offered.snapshot.reader_events == 6


async def test_that_no_reader_matches_is_a_trouble_and_those_below_are_passed_on() -> None:
    readers = Readers("Acme", "Zeta")
    offered = Offered(readers, ("Acme*",))
    assert offered.snapshot.troubles == ()
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(offered.changed(offered.snapshot.serial))
        await asyncio.sleep(0)
        await readers.become("Zeta", "O'Neill")
    (trouble,) = waiting.result().troubles
    assert str(trouble) == "no reader matches --reader 'Acme*'; there is Zeta, O'Neill"
    serial = offered.snapshot.serial
    down = Trouble(Cause.DOWN, "/run/pcscd/pcscd.comm")
    await readers.become(troubles=[down])
    assert (await offered.changed(serial)).troubles == (down,)
    await readers.become("Acme")
    assert (shown(offered), offered.snapshot.troubles) == (["Acme"], ())
