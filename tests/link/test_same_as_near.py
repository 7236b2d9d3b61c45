"""Programs cannot tell a card far away from one at hand: the same histories, with the same return codes.

Two programs take turns at one reader, where cards come and go. After each step everything settles, so that the guest
knows what a program at hand would know. Steps in which a program would wait for the other one are left out: there
the link may say yes earlier (see ``docs/adr``).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cardferry.manager import Settings
from cardferry.pcsc.constants import Attribute, Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError
from cardferry.pcsc.interface import Card, Context, ResourceManager
from tests.callers import somebody
from tests.link.cards import COUNT, CountingCard
from tests.link.desk import ANY, READER, T1, Desk
from tests.virtual_time import run

#: s after each step; never a multiple of it until an unused card loses its power.
SETTLE = 0.2
SETTINGS = Settings(linger=SETTLE * 5.5)

shares = st.sampled_from(list(ShareMode))
dispositions = st.sampled_from([Disposition.LEAVE, Disposition.LEAVE, Disposition.RESET, Disposition.UNPOWER])
masks = st.sampled_from([ANY, ANY, T1, Protocol.T0, Protocol.RAW | ANY, Protocol.UNDEFINED])
steps = st.one_of(
    st.tuples(st.just("connect"), shares, masks),
    st.tuples(st.just("connect"), st.just(ShareMode.SHARED), st.just(ANY)),
    st.tuples(st.just("reconnect"), shares, masks, dispositions),
    st.tuples(st.just("disconnect"), dispositions),
    st.tuples(st.sampled_from(["begin", "transmit", "status", "transmit", "begin"])),
    st.tuples(st.just("end"), dispositions),
    st.tuples(st.just("attribute"), st.sampled_from([Attribute.VENDOR_NAME, Attribute.ATR_STRING, 0x4711])),
    st.tuples(st.sampled_from(["remove", "insert"])),
)
histories = st.lists(st.tuples(st.integers(0, 1), steps), max_size=25)


@dataclass
class Program:
    """A program, as far as the test must know what it holds."""

    context: Context
    card: Card | None = None
    depth: int = 0
    exclusive: bool = False

    @property
    def holds(self) -> bool:
        return self.depth > 0 or self.exclusive


@dataclass
class World:
    """Plays a history against some manager, and records what the programs see."""

    desk: Desk
    programs: list[Program]
    seen: list[str] = field(default_factory=list)

    async def play(self, who: int, step: tuple[Any, ...]) -> None:
        program, other = self.programs[who], self.programs[1 - who]
        name, *arguments = step
        if name in ("remove", "insert"):
            self.card_comes_or_goes(name)
            return
        if other.holds or (name != "connect") == (program.card is None):
            return
        try:
            self.seen.append(f"{who} {name} {await self.call(program, name, arguments)}")
        except PcscError as error:
            self.seen.append(f"{who} {name} {error.code.name}")

    def card_comes_or_goes(self, name: str) -> None:
        reader = self.desk.reader
        if name == "insert" and not reader.occupied:
            reader.insert(self.desk.card)
        elif name == "remove" and reader.occupied:
            reader.remove()
            for program in self.programs:
                program.depth = 0
                program.exclusive = False

    async def call(self, program: Program, name: str, arguments: list[Any]) -> object:
        if name == "connect":
            program.card = await program.context.connect(READER, *arguments)
            program.exclusive = arguments[0] is ShareMode.EXCLUSIVE
            return program.card.protocol
        card = program.card
        assert card is not None
        match name:
            case "disconnect":
                program.card, program.depth, program.exclusive = None, 0, False
                await card.disconnect(*arguments)
            case "reconnect":
                protocol = await card.reconnect(*arguments)
                program.exclusive = arguments[0] is ShareMode.EXCLUSIVE
                return protocol
            case "transmit":
                return (await card.transmit(COUNT, card.protocol or T1)).hex()
            case "begin":
                await card.begin()
                program.depth += 1
            case "end":
                await card.end(*arguments)
                program.depth = max(0, program.depth - 1)
            case _:
                return await getattr(card, name)(*arguments)
        return None


async def world(history: list[tuple[int, tuple[Any, ...]]], *, far: bool) -> tuple[list[str], int, int]:
    card = CountingCard()
    async with Desk(card, delay=0.01, settings=SETTINGS) as desk:
        manager: ResourceManager = await desk.guest() if far else desk.manager
        programs = [Program(await manager.open(somebody(name), 0.5)) for name in ("alice", "bob")]
        play = World(desk, programs)
        for who, step in history:
            await play.play(who, step)
            await asyncio.sleep(SETTLE)
        for program in programs:
            await program.context.close()
        await asyncio.sleep(SETTLE)
    return play.seen, card.count, card.resets


@given(histories)
@settings(max_examples=200, deadline=None)
def test_a_program_cannot_tell_how_far_the_card_is(history: list[tuple[int, tuple[Any, ...]]]) -> None:
    assert run(world(history, far=True)) == run(world(history, far=False))
