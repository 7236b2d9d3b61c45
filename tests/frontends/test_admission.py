"""Who may come in: nothing is told to a program before it is known that it may."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cardferry.pcsc.caller import Caller
from tests.frontends.library import Build, CallError, Library
from tests.frontends.served import served

BUILD = Build(4)


async def test_who_may_not_come_in_sees_no_reader_and_gets_no_context(tmp_path: Path) -> None:
    asked: list[Caller] = []

    async def admit(caller: Caller) -> bool:
        asked.append(caller)
        return False

    async with served(tmp_path, ["Reader 00 00"], admit=admit) as here, Library(BUILD, here.path) as program:
        assert await program.readers() == []
        with pytest.raises(CallError, match="0x8010006A"):
            await program.establish()
        assert await program.wait() == []
        await program.stop()
    assert len(asked) == 1


async def test_nothing_is_told_before_that_is_known(tmp_path: Path) -> None:
    answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def admit(caller: Caller) -> bool:
        return await answer

    async with served(tmp_path, ["Reader 00 00"], admit=admit) as here, Library(BUILD, here.path) as program:
        states = asyncio.gather(program.readers())
        assert not (await asyncio.wait([states], timeout=1))[0]
        answer.set_result(True)
        assert [reader.name for reader in (await states)[0]] == ["Reader 00 00"]
        await program.establish()
