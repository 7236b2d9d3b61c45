"""Faults injected where this room calls others: what they raise is logged, and nobody else notices."""

from __future__ import annotations

import asyncio

import pytest

from cardferry.pcsc.constants import Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.readers.pcscd.connection import Connection
from cardferry.readers.pcscd.reader import PcscdReader
from cardferry.wire.pcsclite.messages import EstablishContext, GetReadersState, StatesReply, WaitReaderStateChange
from tests.readers.pcscd.fake import FakePcscd
from tests.readers.pcscd.test_reader import NAME, connected, transmit
from tests.readers.pcscd.test_source import A, B, running


class BugError(Exception):
    """Not a PcscError."""


def raising(*_: object) -> None:
    raise BugError("oops")


def logged(caplog: pytest.LogCaptureFixture) -> bool:
    """Whether the log has it, with its traceback."""
    return "BugError: oops" in caplog.text and "Traceback" in caplog.text


async def test_one_that_raises_when_its_reply_comes_costs_nobody_his_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pcscd, there, reader = await connected()
    there.apdu_time = 0.1
    reader.transmit(b"first one", Protocol.T1).then(raising)
    assert await reader.control(1, b"echo", 10) == b"echo"
    assert logged(caplog)
    assert await transmit(reader) == b"\x90\x00"
    assert len(pcscd.dialled) == 1


async def test_one_that_raises_when_there_is_no_reply_keeps_the_end_from_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pcscd, there, _ = await connected()
    there.apdu_time = 0.1
    connection = await Connection.open(pcscd.dial, 4)
    lost: list[bool] = []
    connection.on_lost = lambda: lost.append(True)
    connection.post(EstablishContext(2)).then(raising)
    behind = connection.post(GetReadersState())
    pcscd.dialled[-1].hang_up()
    with pytest.raises(PcscError) as caught:
        await behind
    assert caught.value.code is ReturnCode.E_READER_UNAVAILABLE
    assert lost == [True]
    assert logged(caplog)


async def test_one_that_raises_when_it_is_told_of_an_event(caplog: pytest.LogCaptureFixture) -> None:
    pcscd = FakePcscd(4)
    connection = await Connection.open(pcscd.dial, 4)
    connection.on_event = raising
    await connection.post(WaitReaderStateChange())
    pcscd.signal()
    assert isinstance(await connection.post(GetReadersState()), StatesReply)
    assert logged(caplog)
    connection.on_lost = raising
    caplog.clear()
    pcscd.dialled[0].hang_up()
    await asyncio.sleep(1)
    assert logged(caplog)


async def test_one_that_raises_when_a_handle_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    pcscd = FakePcscd(4)
    pcscd.add_reader(NAME).insert()
    reader = PcscdReader(NAME, pcscd.dial, 4, raising)
    await reader.connect(ShareMode.SHARED, Protocol.ANY)
    pcscd.dialled[0].hang_up()
    await asyncio.sleep(1)
    assert logged(caplog)
    assert await reader.connect(ShareMode.SHARED, Protocol.ANY) == Protocol.T1
    await reader.disconnect(Disposition.LEAVE)


async def test_one_that_raises_when_pcscd_comes_and_goes(caplog: pytest.LogCaptureFixture) -> None:
    pcscd = FakePcscd(4)
    pcscd.add_reader(A).insert()
    async with running(pcscd, on_state=raising) as (source, observer):
        await observer.wait_for("reader added", A)
        pcscd.stop()
        await observer.wait_for("reader removed", A)
        pcscd.start()
        source.reconnect_now()
        pcscd.add_reader(B)
        await observer.wait_for("reader added", B)
        assert logged(caplog)
