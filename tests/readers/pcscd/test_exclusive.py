"""A guest's exclusive connection, and the programs on the host: they are refused at once, or served in time."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from cardferry.pcsc.constants import Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import ReturnCode
from cardferry.readers.pcscd.connection import Connection
from cardferry.readers.pcscd.neighbours import CONNECTING
from cardferry.readers.pcscd.reader import PcscdReader
from cardferry.wire.pcsclite.messages import Connect, ConnectReply, Disconnect, Reconnect
from tests.readers.pcscd.fake import FakePcscd, FakeReader
from tests.readers.pcscd.test_reader import NAME, connected, failure, kinds, now, transmit


class Program:
    """A program on the host, at pcscd itself."""

    def __init__(self, connection: Connection, context: int) -> None:
        self._connection = connection
        self._context = context
        self.card = 0

    @classmethod
    async def at(cls, pcscd: FakePcscd) -> Program:
        connection = await Connection.open(pcscd.dial, pcscd.minor)
        return cls(connection, await connection.establish())

    async def connect(self, share: ShareMode = ShareMode.SHARED) -> int:
        """SCardConnect: its return value."""
        reply = cast(ConnectReply, await self._connection.post(Connect(self._context, NAME, share, Protocol.ANY)))
        self.card = reply.card
        return reply.rv

    def gone(self) -> None:
        self._connection.close()


async def exclusive(delay: float = 0.0) -> tuple[FakePcscd, FakeReader, PcscdReader]:
    pcscd, there, reader = await connected(delay=delay)
    assert await reader.claim(alone=True)
    return pcscd, there, reader


@pytest.mark.parametrize("share", [ShareMode.SHARED, ShareMode.DIRECT, ShareMode.EXCLUSIVE])
async def test_who_comes_is_refused_at_once_and_let_in_when_it_is_over(share: ShareMode) -> None:
    pcscd, there, reader = await exclusive()
    local = await Program.at(pcscd)
    before = now()
    assert await local.connect(share) == ReturnCode.E_SHARING_VIOLATION
    assert now() == before
    assert await transmit(reader) == b"\x90\x00"
    assert there.executed[-1][2], "the lock was ours"
    await reader.release()
    await asyncio.sleep(0.001)
    assert await local.connect(share) == 0
    assert now() - before < 0.01
    assert (there.owner, there.count, there.exclusive) == (0, 0, 0)


async def test_it_takes_no_more_than_one_round_trip_and_the_card_keeps_its_session() -> None:
    pcscd, there, reader = await connected(delay=0.025)
    before = now()
    assert await reader.claim(alone=True)
    assert now() == pytest.approx(before + 0.05)
    await reader.release()
    await asyncio.sleep(1)
    assert (there.owner, there.count, there.exclusive) == (0, 0, 0)
    assert Disconnect not in kinds(pcscd.dialled[0].requests)
    assert there.commands == []


async def test_where_others_are_connected_they_wait_and_it_says_so() -> None:
    _, there, reader = await connected()
    there.others = 1
    assert not await reader.claim(alone=True)
    assert await transmit(reader) == b"\x90\x00"
    assert there.exclusive == 0
    assert there.executed[-1][2], "the lock was ours"
    await reader.release()
    await asyncio.sleep(1)
    assert (there.owner, there.count) == (0, 0)


async def test_where_others_have_the_card_locked_it_waits_for_them() -> None:
    _, there, reader = await connected()
    there.lock()
    asyncio.get_running_loop().call_later(5, there.unlock)
    before = now()
    assert not await reader.claim(alone=True)
    assert now() - before <= 5.3
    assert await transmit(reader) == b"\x90\x00"
    await reader.release()
    await asyncio.sleep(1)
    assert there.owner == 0


async def test_who_waits_to_connect_already_is_let_in_first() -> None:
    """pcscd looks every 100 ms whether the lock is free; who waits so would wait for ever for an exclusive handle."""
    pcscd, there, reader = await connected()
    local = await Program.at(pcscd)
    await reader.claim()
    await transmit(reader)
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(local.connect())
        await asyncio.sleep(0.05)
        await reader.release()
        before = now()
        assert not await reader.claim(alone=True)  # somebody is connected now
        assert now() - before <= CONNECTING.gap + 0.001
    assert waiting.result() == 0
    assert there.exclusive == 0
    await reader.release()


async def test_inside_a_claim_it_is_not_known_who_waits() -> None:
    pcscd, there, reader = await connected()
    await reader.claim()
    assert not await reader.claim(alone=True)
    assert there.exclusive
    local = await Program.at(pcscd)
    assert await local.connect() == ReturnCode.E_SHARING_VIOLATION
    await reader.release()
    await asyncio.sleep(1)
    assert (there.owner, there.count, there.exclusive) == (0, 0, 0)


@pytest.mark.parametrize("disposition", [Disposition.RESET, Disposition.UNPOWER])
async def test_a_reset_does_not_end_it(disposition: Disposition) -> None:
    pcscd, there, reader = await exclusive()
    await reader.reset(disposition, Protocol.ANY)
    assert there.exclusive
    assert await (await Program.at(pcscd)).connect() == ReturnCode.E_SHARING_VIOLATION
    await reader.release()
    await asyncio.sleep(1)
    assert (there.owner, there.count, there.exclusive) == (0, 0, 0)


async def test_without_its_card_it_shuts_nobody_out_and_the_reader_can_be_used() -> None:
    pcscd, there, reader = await exclusive()
    there.remove()
    reader.card_gone()
    local = await Program.at(pcscd)
    assert await local.connect(ShareMode.DIRECT) == 0
    assert await reader.control(1, b"echo", 10) == b"echo"
    there.insert()
    assert await reader.connect(ShareMode.SHARED, Protocol.ANY) == Protocol.T1
    assert await transmit(reader) == b"\x90\x00"


async def test_a_card_that_does_not_answer_any_more_shuts_nobody_out_when_it_is_over() -> None:
    pcscd, there, reader = await exclusive()
    pcscd.script[Reconnect] = [ReturnCode.W_UNRESPONSIVE_CARD]
    await reader.release()
    await asyncio.sleep(1)
    assert (there.owner, there.count, there.exclusive) == (0, 0, 0)
    assert await (await Program.at(pcscd)).connect() == 0


@pytest.mark.parametrize("moment", [0.01, 0.04])
async def test_one_that_is_given_up_leaves_nothing_behind(moment: float) -> None:
    _, there, reader = await connected(delay=0.025)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(moment):
            await reader.claim(alone=True)
    await reader.release()
    await asyncio.sleep(1)
    assert (there.owner, there.count, there.exclusive) == (0, 0, 0)
    assert await transmit(reader) == b"\x90\x00"


async def test_disconnect_ends_it() -> None:
    _, there, reader = await exclusive()
    await reader.disconnect(Disposition.LEAVE)
    await asyncio.sleep(1)
    assert (there.owner, there.count, there.exclusive) == (0, 0, 0)


# opening a handle while others have the card locked: pcscd does not answer


async def test_the_word_of_a_reset_does_not_wait_for_who_goes_on_with_the_card() -> None:
    """Nor does the next call, without end: whoever makes it is told that somebody has the card, and decides."""
    _, there, reader = await connected(delay=0.025)
    there.reset_by_other()
    asyncio.get_running_loop().call_later(0.04, there.lock)
    before = now()
    assert await failure(reader) is ReturnCode.W_RESET_CARD
    assert await failure(reader) is ReturnCode.E_SHARING_VIOLATION
    assert now() - before < 2.1
    there.unlock()
    assert await transmit(reader) == b"\x90\x00"


async def test_a_claim_waits_for_a_handle_as_long_as_it_takes() -> None:
    _, there, reader = await connected(delay=0.025)
    there.reset_by_other()
    asyncio.get_running_loop().call_later(0.04, there.lock)
    assert await failure(reader) is ReturnCode.W_RESET_CARD
    asyncio.get_running_loop().call_later(100, there.unlock)
    before = now()
    await reader.claim()
    assert now() - before == pytest.approx(100, abs=1)
    assert await transmit(reader) == b"\x90\x00"
    assert there.executed[-1][2], "the lock was ours"
    await reader.release()
