"""Cards that dial in, over real TCP on the loopback."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cardferry.pcsc.constants import Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.readers import vpicc
from cardferry.readers.vpicc import VpiccPort, VpiccSource
from cardferry.wire.vpcd import CardSide, Control
from tests.readers.observer import Remembering

ATR = bytes.fromhex("3b80800101")
APDU = bytes.fromhex("00a40000023f00")
FIRST, SECOND = "cardferry vpicc 00 00", "cardferry vpicc 00 01"


class Card:
    """A card that dials in, and what was done to it. The test can take over by reading the stream itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.codec = CardSide()
        self.done: list[str] = []

    @classmethod
    async def dial(cls, port: int) -> Card:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def serve(self, atr: bytes = ATR, response: bytes = b"\x90\x00") -> None:
        """Answer until the reader hangs up."""
        while data := await self.reader.read(65536):
            for message in self.codec.receive(data):
                if isinstance(message, bytes):
                    self.done.append(message.hex())
                    self.writer.write(self.codec.answer(response))
                else:
                    self.done.append(message.name)
                    if message is Control.GET_ATR:
                        self.writer.write(self.codec.answer(atr))

    async def until_asked(self) -> None:
        """Read until the next question and leave it unanswered."""
        while not any(
            isinstance(message, bytes) or message is Control.GET_ATR
            for message in self.codec.receive(await self.reader.read(65536))
        ):
            pass

    async def answer(self, payload: bytes) -> None:
        self.writer.write(self.codec.answer(payload))
        await self.writer.drain()

    async def hung_up_on(self) -> None:
        """Wait until the reader hangs up."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionResetError:
            pass

    def hang_up(self) -> None:
        self.writer.close()


@asynccontextmanager
async def running(slots: int = 2) -> AsyncIterator[tuple[VpiccSource, Remembering, asyncio.TaskGroup]]:
    source, observer = VpiccSource(port=0, slots=slots), Remembering()
    await source.listen()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(source.run(observer))
        await observer.take(slots)
        yield source, observer, tasks
        task.cancel()


async def code_of(call: object) -> ReturnCode:
    with pytest.raises(PcscError) as caught:
        await call  # type: ignore[misc]
    return caught.value.code


async def test_a_card_comes_works_and_goes() -> None:
    async with running() as (source, observer, tasks):
        card = await Card.dial(source.ports[0])
        serving = tasks.create_task(card.serve())
        assert await observer.take(1) == [("card inserted", FIRST, ATR)]
        reader = source.readers[0]
        assert await reader.connect(ShareMode.SHARED, Protocol.ANY) == Protocol.T1
        assert await reader.transmit(APDU, Protocol.T1) == b"\x90\x00"
        await reader.reset(Disposition.RESET, Protocol.ANY)
        await reader.reset(Disposition.UNPOWER, Protocol.ANY)
        await reader.disconnect(Disposition.LEAVE)
        assert await reader.connect(ShareMode.SHARED, Protocol.ANY) == Protocol.T1
        on, off = ("POWER_ON", "GET_ATR"), ("POWER_OFF",)
        assert card.done == [*on, APDU.hex(), "RESET", "GET_ATR", *off, *on, *off, *on]
        card.hang_up()
        assert await observer.take(1) == [("card removed", FIRST)]
        assert await code_of(reader.transmit(APDU, Protocol.T1)) is ReturnCode.E_NO_SMARTCARD
        serving.cancel()


async def test_only_this_computer_can_dial_in_unless_told_otherwise() -> None:
    async with running() as (source, _, _):
        assert [server.sockets[0].getsockname()[0] for server in source._servers] == ["127.0.0.1", "127.0.0.1"]


async def test_no_delay_on_small_messages() -> None:
    async with running() as (source, observer, tasks):
        card = await Card.dial(source.ports[0])
        serving = tasks.create_task(card.serve())
        await observer.take(1)
        (port,) = source._inside
        assert port._transport is not None
        sock = port._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        serving.cancel()


async def test_the_second_card_at_a_port_gets_the_next_reader_and_the_third_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    async with running() as (source, observer, tasks):
        cards = []
        for name in (FIRST, SECOND):
            card = await Card.dial(source.ports[0])
            cards.append(tasks.create_task(card.serve()))
            assert await observer.take(1) == [("card inserted", name, ATR)]
        third = await Card.dial(source.ports[0])
        await third.hung_up_on()
        assert [record.message for record in caplog.records if "no free reader" in record.message]
        assert observer.reports == []
        for task in cards:
            task.cancel()


async def test_a_free_reader_is_used_again() -> None:
    async with running(1) as (source, observer, tasks):
        for _ in range(3):
            card = await Card.dial(source.ports[0])
            serving = tasks.create_task(card.serve())
            assert await observer.take(1) == [("card inserted", FIRST, ATR)]
            card.hang_up()
            assert await observer.take(1) == [("card removed", FIRST)]
            serving.cancel()


async def test_hanging_up_in_the_middle_of_a_command() -> None:
    async with running() as (source, observer, tasks):
        card = await Card.dial(source.ports[0])
        await card.until_asked()
        await card.answer(ATR)
        await observer.take(1)
        reader = source.readers[0]
        await reader.connect(ShareMode.SHARED, Protocol.ANY)
        call = tasks.create_task(code_of(reader.transmit(APDU, Protocol.T1)))
        await card.until_asked()
        card.writer.write(b"\x00\x10half")
        card.hang_up()
        assert await call is ReturnCode.E_NO_SMARTCARD
        assert await observer.take(1) == [("card removed", FIRST)]


async def test_an_answer_after_its_caller_has_gone_reaches_nobody_else() -> None:
    async with running() as (source, observer, _):
        card = await Card.dial(source.ports[0])
        await card.until_asked()
        await card.answer(ATR)
        await observer.take(1)
        reader = source.readers[0]
        await reader.connect(ShareMode.SHARED, Protocol.ANY)
        abandoned = reader.transmit(APDU, Protocol.T1)
        await card.until_asked()
        abandoned.cancel()
        await asyncio.sleep(0)
        following = reader.transmit(APDU, Protocol.T1)
        await asyncio.sleep(0)
        await card.answer(b"first\x90\x00")
        await card.until_asked()
        await card.answer(b"second\x90\x00")
        assert await following == b"second\x90\x00"


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x00",  # an empty message
        b"\x00\x01\x3b",  # no ATR
        b"\x00\x22" + b"\x3b" * 34,  # longer than any ATR
        b"\x00\x05" + ATR + b"\x00\x02\x90\x00",  # an answer that nobody asked for
        b"GET / HTTP/1.0\r\n\r\n" * 5000,
        b"\xff" * 100_000,
    ],
    ids=["empty", "short", "long", "unasked", "http", "ff"],
)
async def test_a_bad_card_is_dropped_with_a_line_in_the_log(sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with running() as (source, observer, tasks):
        bad = await Card.dial(source.ports[0])
        bad.writer.write(sent)
        await bad.hung_up_on()
        bad.hang_up()
        assert len([record for record in caplog.records if "is dropped" in record.message]) == 1
        good = await Card.dial(source.ports[0])
        serving = tasks.create_task(good.serve())
        await observer.wait_for("card inserted", FIRST, ATR)
        serving.cancel()


async def test_a_response_without_status_word_ends_the_card() -> None:
    async with running() as (source, observer, tasks):
        card = await Card.dial(source.ports[0])
        serving = tasks.create_task(card.serve(response=b"\x90"))
        await observer.take(1)
        reader = source.readers[0]
        await reader.connect(ShareMode.SHARED, Protocol.ANY)
        assert await code_of(reader.transmit(APDU, Protocol.T1)) is ReturnCode.F_COMM_ERROR
        assert await observer.take(1) == [("card removed", FIRST)]
        serving.cancel()


@pytest.mark.parametrize("apdu", [b"", b"\x00", b"\x00" * 65536])
async def test_what_the_protocol_cannot_carry_is_refused(apdu: bytes) -> None:
    async with running() as (source, observer, tasks):
        card = await Card.dial(source.ports[0])
        serving = tasks.create_task(card.serve())
        await observer.take(1)
        reader = source.readers[0]
        await reader.connect(ShareMode.SHARED, Protocol.ANY)
        assert await code_of(reader.transmit(apdu, Protocol.T1)) is ReturnCode.E_INVALID_PARAMETER
        assert await reader.transmit(b"\x00" * 65535, Protocol.T1) == b"\x90\x00"
        serving.cancel()


async def test_a_silent_card_is_dropped_in_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(vpicc, "ATR_TIMEOUT", 0.01)
    async with running() as (source, observer, _):
        card = await Card.dial(source.ports[0])
        await card.hung_up_on()
        assert "tells no ATR" in caplog.text
        assert observer.reports == []


async def test_a_card_that_falls_silent_at_a_reset_is_dropped_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as (source, observer, _):
        card = await Card.dial(source.ports[0])
        await card.until_asked()
        await card.answer(ATR)
        await observer.take(1)
        monkeypatch.setattr(vpicc, "ATR_TIMEOUT", 0.01)
        assert await code_of(source.readers[0].reset(Disposition.RESET, Protocol.ANY)) is (
            ReturnCode.W_UNRESPONSIVE_CARD
        )
        assert await observer.take(1) == [("card removed", FIRST)]


async def test_a_reset_whose_atr_is_none() -> None:
    async with running() as (source, observer, tasks):
        card = await Card.dial(source.ports[0])
        await card.until_asked()
        await card.answer(ATR)
        await observer.take(1)
        call = tasks.create_task(code_of(source.readers[0].reset(Disposition.RESET, Protocol.ANY)))
        await card.until_asked()
        await card.answer(b"\x3b")
        assert await call is ReturnCode.W_UNRESPONSIVE_CARD
        assert await observer.take(1) == [("card removed", FIRST)]


async def test_an_atr_without_meaning_is_a_mute_card() -> None:
    async with running() as (source, observer, tasks):
        card = await Card.dial(source.ports[0])
        serving = tasks.create_task(card.serve(atr=b"\x01\x02\x03"))
        assert await observer.take(1) == [("card inserted", FIRST, b"")]
        serving.cancel()


async def test_silent_connections_are_bounded_and_leave_the_reader_free() -> None:
    async with running(1) as (source, observer, tasks):
        silent = [await Card.dial(source.ports[0]) for _ in range(10)]
        for card in silent:
            await card.until_asked()
        good = await Card.dial(source.ports[0])
        serving = tasks.create_task(good.serve())
        assert await observer.take(1) == [("card inserted", FIRST, ATR)]
        await silent[0].answer(ATR)
        await silent[0].hung_up_on()
        crowd = [await Card.dial(source.ports[0]) for _ in range(40)]
        for card in crowd:
            await card.hung_up_on()
        assert len(source._dialling) <= 16
        for card in (*silent, *crowd):
            card.hang_up()
        serving.cancel()


async def test_a_thousand_bad_cards_in_a_row_leave_nothing_behind() -> None:
    async with running(1) as (source, observer, tasks):
        for _ in range(1000):
            bad = await Card.dial(source.ports[0])
            bad.writer.write(b"\x00\x00")
            await bad.hung_up_on()
            bad.hang_up()
        assert source._dialling == set()
        assert source._inside == {}
        card = await Card.dial(source.ports[0])
        serving = tasks.create_task(card.serve())
        assert await observer.take(1) == [("card inserted", FIRST, ATR)]
        serving.cancel()


async def test_the_end_hangs_up_and_closes_the_ports() -> None:
    async with running() as (source, observer, _):
        card = await Card.dial(source.ports[0])
        await card.until_asked()
        await card.answer(ATR)
        await observer.take(1)
        port = source.ports[0]
    await card.hung_up_on()
    with pytest.raises(ConnectionRefusedError):
        await Card.dial(port)


async def test_a_port_that_is_taken_closes_the_others_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        source = VpiccSource(port=port - 1, slots=2)
        with pytest.raises(OSError, match="in use"):
            await source.listen()
        assert source.ports == ()
        socket.create_server(("127.0.0.1", port - 1)).close()


async def test_a_port_used_before_its_connection_is_made_says_there_is_no_card() -> None:
    port = VpiccPort(VpiccSource(port=0), VpiccSource(port=0).readers[0])
    assert await code_of(port.power_off()) is ReturnCode.E_NO_SMARTCARD
