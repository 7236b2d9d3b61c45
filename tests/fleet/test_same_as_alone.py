"""Programs cannot tell a host among several from one alone: the same histories, with the same return codes."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings

from cardferry.pcsc.constants import Protocol, ShareMode
from cardferry.pcsc.interface import Card, Context, ResourceManager
from tests.callers import somebody
from tests.fleet.hosts import Said, shown, united
from tests.link.cards import CountingCard
from tests.link.desk import READER, Desk
from tests.link.test_same_as_near import SETTINGS, SETTLE, Program, World, histories
from tests.virtual_time import run

RENAMED = f"{READER} (desk)"


class Renaming:
    """A context for programs that know the reader by its old name."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.close = context.close

    async def connect(self, reader: str, share: ShareMode, protocols: Protocol) -> Card:
        assert reader == READER
        return await self._context.connect(RENAMED, share, protocols)


async def world(history: list[tuple[int, tuple[Any, ...]]], *, far: bool, among: bool) -> tuple[list[str], int, int]:
    card = CountingCard()
    async with Desk(card, delay=0.01, settings=SETTINGS) as desk:
        manager: ResourceManager = await desk.guest() if far else desk.manager
        async with united(laptop=Said(READER), desk=manager) as both:
            assert shown(both) == [READER, RENAMED]
            programs = [
                Program(
                    Renaming(await both.open(somebody(name), 0.5)) if among else await manager.open(somebody(name), 0.5)
                )
                for name in ("alice", "bob")
            ]
            play = World(desk, programs)
            for who, step in history:
                await play.play(who, step)
                await asyncio.sleep(SETTLE)
            for program in programs:
                await program.context.close()
            await asyncio.sleep(SETTLE)
    return play.seen, card.count, card.resets


@given(histories)
@settings(max_examples=60, deadline=None)
def test_a_program_cannot_tell_whether_its_host_is_one_of_several(history: list[tuple[int, tuple[Any, ...]]]) -> None:
    for far in (False, True):
        assert run(world(history, far=far, among=True)) == run(world(history, far=far, among=False))
