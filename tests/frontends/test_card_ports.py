"""Readers at ports: vpcd's driver and QEMU are played by the test, over real sockets; the manager is a real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cardferry.frontends.card_ports import ABSENCE, CardPort, CardPorts, Connection
from cardferry.frontends.lease import IDLE, Lease
from cardferry.frontends.qemu import KEEP, QemuPort
from cardferry.frontends.vpcd import VpcdPort
from cardferry.wire.vpcd import Control, ReaderSide
from cardferry.wire.vscard import TO_MACHINE, Kind, Message, MessageStream
from tests.callers import TESTER
from tests.manager.desk import APDU, ATR, OK, RESET, Desk, FakeReader, elapsed, quiet

#: A card that prefers T=1, and what is told of it to a reader of T=0.
T1_ATR, T0_ATR = bytes.fromhex("3b82013031"), bytes.fromhex("3b82408f3031")


@asynccontextmanager
async def at_ports(desk: Desk, ports: Sequence[CardPort]) -> AsyncIterator[None]:
    """The desk's readers at ports."""
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(CardPorts(desk.manager, TESTER, ports).run())
        yield
        serving.cancel()


class Peer:
    """Whoever uses the cards: each connection of a port is a new one."""

    def __init__(self) -> None:
        self.connections: asyncio.Queue[Connection] = asyncio.Queue()
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def took(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.put_nowait((reader, writer))

    async def next(self) -> None:
        """Go on with the next connection."""
        self.reader, self.writer = await self.connections.get()

    async def gone(self) -> bytes:
        """What comes until the port hangs up."""
        try:
            return await self.reader.read()
        finally:
            self.writer.close()


class Driver(Peer):
    """vpcd's, for one slot."""

    codec: ReaderSide

    async def next(self) -> None:
        await super().next()
        self.codec = ReaderSide()

    async def ask(self, message: bytes) -> bytes:
        """Send something that has an answer."""
        self.writer.write(message)
        while not (answers := self.codec.receive(await self.reader.read(4096))):
            pass
        return answers[0]

    async def atr(self) -> bytes:
        """As at each look at the reader."""
        return await self.ask(self.codec.control(Control.GET_ATR))

    def order(self, control: Control) -> None:
        """Power or reset."""
        self.writer.write(self.codec.control(control))

    async def command(self, apdu: bytes = APDU) -> bytes:
        """A command APDU."""
        return await self.ask(self.codec.command(apdu))


@asynccontextmanager
async def driver(desk: Desk) -> AsyncIterator[Driver]:
    """vpcd's driver, with the desk's readers at its one slot."""
    peer = Driver()
    server = await asyncio.start_server(peer.took, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    async with server, at_ports(desk, [VpcdPort(port)]):
        yield peer


async def test_a_card_dials_in_and_answers() -> None:
    async with Desk() as desk, driver(desk) as vpcd:
        await vpcd.next()
        assert await vpcd.atr() == ATR
        vpcd.order(Control.POWER_ON)
        assert await vpcd.atr() == ATR
        assert desk.reader.calls == [], "until then nobody has needed the card"
        assert await vpcd.command() == OK
        vpcd.order(Control.RESET)
        assert await vpcd.atr() == ATR
        assert desk.reader.session == []
        vpcd.order(Control.POWER_OFF)
        assert await vpcd.atr() == ATR
        assert desk.sharing == 0


async def test_a_card_that_is_taken_out_hangs_up_and_the_next_one_comes_later() -> None:
    loop = asyncio.get_running_loop()
    async with Desk() as desk, driver(desk) as vpcd:
        await vpcd.next()
        await vpcd.atr()
        desk.remove()
        assert await vpcd.gone() == b""
        began = loop.time()
        desk.insert(T1_ATR)
        await vpcd.next()
        assert loop.time() - began == pytest.approx(ABSENCE)
        assert await vpcd.atr() == T1_ATR


async def test_a_card_that_is_taken_out_in_the_middle_of_a_command_answers_once_more() -> None:
    """Of a connection that ends there the driver makes a success without a byte."""
    async with Desk() as desk, driver(desk) as vpcd:
        await vpcd.next()
        desk.reader.gates["transmit"] = asyncio.Event()
        vpcd.writer.write(vpcd.codec.command(APDU))
        await asyncio.sleep(0.1)
        desk.remove()
        desk.reader.gates["transmit"].set()
        assert await vpcd.gone() == bytes.fromhex("0002 6f00")


async def test_a_reset_by_somebody_else_is_another_insertion() -> None:
    async with Desk() as desk, driver(desk) as vpcd:
        await vpcd.next()
        await vpcd.command()
        other = await desk.client("other")
        await other.card.begin()
        await other.card.end(RESET)
        assert await vpcd.command() == b"\x6f\x00"
        assert await vpcd.gone() == b""
        await vpcd.next()
        assert await vpcd.command() == OK


async def test_a_driver_that_speaks_nonsense_is_hung_up_on_and_dialled_again() -> None:
    async with Desk() as desk, driver(desk) as vpcd:
        await vpcd.next()
        vpcd.writer.write(b"\x00\x00")
        await vpcd.gone()
        await vpcd.next()
        assert await vpcd.atr() == ATR


async def test_who_hangs_up_in_a_lease_leaves_the_card_to_the_others() -> None:
    async with Desk() as desk, driver(desk) as vpcd:
        other = await desk.client("other")
        await vpcd.next()
        await vpcd.command()
        begun = desk.start(other.card.begin())
        await quiet()
        assert not begun.done
        vpcd.writer.close()
        assert await elapsed(begun) < IDLE / 2
        assert desk.reader.session == []


class Place(CardPort):
    """A port whose user only looks; ``dials`` counts its connections."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.shown: list[str] = []
        self.fails = 0

    def __str__(self) -> str:
        return self.name

    async def dial(self) -> Connection:
        if self.fails:
            self.fails -= 1
            raise ConnectionRefusedError(111, "Connection refused")
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        return reader, writer

    port = 0

    async def show(self, lease: Lease, connection: Connection) -> None:
        self.shown.append(lease.reader)
        await asyncio.get_running_loop().create_future()


@pytest.fixture
async def places() -> AsyncIterator[list[Place]]:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    Place.port = server.sockets[0].getsockname()[1]
    async with server:
        yield [Place("left"), Place("right")]


async def test_each_reader_has_a_place_and_keeps_it(places: list[Place], caplog: pytest.LogCaptureFixture) -> None:
    left, right = places
    async with Desk() as desk, at_ports(desk, places):
        second, third = FakeReader("Second"), FakeReader("Third")
        for reader in (second, third):
            desk.manager.reader_added(reader)
            desk.manager.card_inserted(reader, ATR)
        await asyncio.sleep(1)
        assert (left.shown, right.shown) == ([desk.reader.name], ["Second"])
        assert [one.getMessage() for one in caplog.records][2:] == ["there is no place for Third: all 2 are taken"]
        desk.unplug()
        await asyncio.sleep(ABSENCE * 1.1)
        assert (left.shown, right.shown) == ([desk.reader.name, "Third"], ["Second"])
        for reader in (second, third):
            desk.manager.reader_removed(reader)


async def test_a_user_that_is_not_there_yet_is_waited_for(
    places: list[Place], caplog: pytest.LogCaptureFixture
) -> None:
    places[0].fails = 5
    async with Desk() as desk, at_ports(desk, places[:1]):
        await asyncio.sleep(20)
        assert places[0].shown == [desk.reader.name]
    told = [one for one in caplog.records if one.levelname == "WARNING" and "cannot be reached" in one.message]
    assert len(told) == 1


class Qemu(Peer):
    """QEMU, for one machine."""

    stream: MessageStream

    async def next(self) -> None:
        await super().next()
        self.stream = MessageStream(TO_MACHINE)
        self._messages: list[Message] = []

    async def receive(self) -> Message:
        """The next message."""
        while not self._messages:
            self._messages = self.stream.receive(await self.reader.read(4096))
        return self._messages.pop(0)

    def send(self, message: Message) -> None:
        """Send one."""
        self.writer.write(message.encoded())

    async def command(self, tpdu: bytes = APDU) -> bytes:
        """What the card answers."""
        self.send(Message(Kind.APDU, tpdu))
        answer = await self.receive()
        assert answer.kind is Kind.APDU
        return answer.payload

    async def greeted(self, *, first: bool = True) -> Message:
        """Take the greeting and what follows, up to the card."""
        expected = [Message.init(), Message(Kind.READER_ADD), *([Message(Kind.CARD_REMOVE)] if first else [])]
        assert [await self.receive() for _ in expected] == expected
        self.send(Message.init())
        return await self.receive()


@asynccontextmanager
async def qemu(desk: Desk, folder: Path) -> AsyncIterator[Qemu]:
    """QEMU, with the desk's reader at its machine."""
    peer = Qemu()
    path = folder / "ccid"
    server = await asyncio.start_unix_server(peer.took, path)
    async with server, at_ports(desk, [QemuPort(path)]):
        yield peer


async def test_a_machine_gets_a_card_of_t0_and_its_commands_are_made_whole(tmp_path: Path) -> None:
    async with Desk(card=False) as desk, qemu(desk, tmp_path) as machine:
        desk.insert(T1_ATR)
        await machine.next()
        assert await machine.greeted() == Message(Kind.ATR, T0_ATR)
        assert await machine.command() == OK
        assert desk.reader.session == [APDU + b"\x00"]
        machine.send(Message(Kind.FLUSH))
        assert await machine.receive() == Message(Kind.FLUSH_COMPLETE)
        desk.remove()
        assert await machine.receive() == Message(Kind.CARD_REMOVE)


async def test_a_predecessor_that_left_without_a_word_is_cleared_away_once(tmp_path: Path) -> None:
    """The machine's driver waits for its answer otherwise, for ever; and it must have time to see the empty reader."""
    loop = asyncio.get_running_loop()
    async with Desk() as desk, qemu(desk, tmp_path) as machine:
        began = loop.time()
        await machine.next()
        await machine.greeted()
        assert loop.time() - began == pytest.approx(ABSENCE)
        machine.writer.close()
        await machine.next()
        assert await machine.greeted(first=False) == Message(Kind.ATR, ATR)


async def test_a_reset_by_somebody_else_is_another_insertion_in_a_machine(tmp_path: Path) -> None:
    async with Desk() as desk, qemu(desk, tmp_path) as machine:
        await machine.next()
        await machine.greeted()
        await machine.command()
        await asyncio.sleep(IDLE * 1.1)
        other = await desk.client("other")
        await other.card.begin()
        await other.card.end(RESET)
        machine.send(Message(Kind.APDU, APDU))
        assert await machine.receive() == Message(Kind.CARD_REMOVE)
        await machine.next()
        await machine.greeted(first=False)
        assert await machine.command() == OK


async def test_a_machine_that_is_idle_for_long_lets_the_card_go(tmp_path: Path) -> None:
    """It does not tell when its programs have gone; a program that wants the card to itself would never get it."""
    async with Desk() as desk, qemu(desk, tmp_path) as machine:
        await machine.next()
        await machine.greeted()
        await machine.command()
        await asyncio.sleep(KEEP - 1)
        assert desk.sharing == 1
        await asyncio.sleep(1.1)
        assert desk.sharing == 0
        assert await machine.receive() == Message(Kind.CARD_REMOVE)
        await machine.next()
        await machine.greeted(first=False)


async def test_what_a_machine_does_not_want_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with Desk() as desk, qemu(desk, tmp_path) as machine:
        await machine.next()
        await machine.greeted()
        machine.send(Message(Kind.ERROR, bytes.fromhex("00000001")))
        assert await machine.command() == OK
    assert "does not want what it was told: error 1" in caplog.text
