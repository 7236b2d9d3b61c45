"""Hostile ends: what they say ends their session with one documented error, and touches nobody else."""

from __future__ import annotations

import asyncio
import logging

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cardferry.link import Guest, Limits, LinkRefusedError, LinkState
from cardferry.link import messages as m
from cardferry.link.messages import decode_from_guest, decode_from_host, encode
from cardferry.pcsc.constants import ShareMode
from cardferry.transports.base import Pipe
from cardferry.transports.memory import memory_pipe
from cardferry.wire.errors import WireError
from cardferry.wire.link.frames import Frame, FrameReader, Kind
from cardferry.wire.link.frames import encode as frame
from cardferry.wire.link.greeting import Bye, Hello, Reason, Role
from tests.callers import TESTER
from tests.link.cards import COUNT
from tests.link.desk import ALICE, ANY, READER, SHARED, T1, Desk, becomes
from tests.virtual_time import quiet, run

IDENTITY = bytes(range(16))


class Peer:
    """An end of a pipe that says what it likes, and takes apart what it hears."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe
        self.frames: list[Frame] = []
        self.is_lost = False
        self.number = 0
        self._reader = FrameReader()
        pipe.start(self)

    def received(self, data: bytes) -> None:
        self.frames += self._reader.receive(data)

    def congested(self, congested: bool) -> None:
        """It goes on all the same."""

    def lost(self, error: Exception | None) -> None:
        self.is_lost = True

    def hello(self, role: Role, *, established: bool = False, version: int = 1, oldest: int = 1) -> None:
        hello = Hello(role, IDENTITY, established, 0, 10000, version, oldest)
        self.pipe.write(frame(Kind.HELLO, 0, 0, hello.encode()))

    def say(self, payload: bytes | m.FromGuest | m.FromHost) -> None:
        self.number += 1
        data = payload if isinstance(payload, bytes) else encode(payload)
        self.pipe.write(frame(Kind.DATA, self.number, 0, data))

    @property
    def bye(self) -> Bye | None:
        return next((Bye.parse(frame.payload) for frame in self.frames if frame.kind is Kind.BYE), None)


async def guest_of(desk: Desk) -> Peer:
    near, far = memory_pipe()
    desk.start(desk.host.serve(far, TESTER, "mallory"))
    peer = Peer(near)
    peer.hello(Role.GUEST)
    await quiet()
    return peer


OPEN = m.Open(1, "mallory", None, None, None)
CONNECT = m.Connect(0, 1, 1, READER, int(ShareMode.SHARED), 3, 2)


@pytest.mark.parametrize(
    "said",
    [
        [b""],
        [b"\xc1"],
        [b"\x90"],
        [b"\x93\x03\x01" + b"\x91" * 100_000],
        [msgspec.msgpack.encode([3, 1, bytes(200_000)])],
        [msgspec.msgpack.encode([99])],
        [encode(m.Welcome(1, 1, 1, 1))],
        [encode(m.Answer(1))],
        [OPEN, OPEN],
        [m.Open(0, "x", None, None, None)],
        [m.Close(1)],
        [OPEN, m.Close(1), m.Close(1)],
        [CONNECT],
        [OPEN, CONNECT, CONNECT],
        [m.Begin(0, 1)],
        [m.Transmit(1, 1, COUNT, 2)],
        [m.Disconnect(0, 1, 0)],
        [m.Used(1, 1, 1)],
        [OPEN, CONNECT, m.Close(1), m.Begin(0, 1)],
        [OPEN, CONNECT, m.Disconnect(0, 1, 0), m.Status(1, 1)],
        [msgspec.msgpack.encode([4, 1, 1, 1, READER, 7, 3, 0])],
        [msgspec.msgpack.encode([4, 1, 1, 1, "x" * 200, 2, 3, 0])],
        [msgspec.msgpack.encode([9, 1, 1, bytes(70000), 2])],
        [msgspec.msgpack.encode([1, 1, "x", None, None, -1.0])],
        [msgspec.msgpack.encode([1, 1, "x", None, None, float("nan")])],
        [msgspec.msgpack.encode([1, -1, "x", None, None, None])],
        [OPEN] + [m.Connect(n, 1, n, READER, 2, 3) for n in range(1, 10000)],
    ],
    ids=lambda said: str(said)[:80],
)
async def test_a_guest_that_says_what_it_must_not(said: list[bytes | m.FromGuest]) -> None:
    async with Desk() as desk:
        honest = await desk.guest()
        card = await (await honest.open(ALICE, 1.0)).connect(READER, SHARED, ANY)
        peer = await guest_of(desk)
        for one in said:
            peer.say(one)
        await quiet()
        assert peer.bye is not None
        assert peer.bye.reason in (Reason.PROTOCOL, Reason.LIMIT)
        assert peer.bye.text
        assert peer.is_lost
        assert len(desk.host.status.guests) == 1
        assert await card.transmit(COUNT, T1) == b"\0\0\0\1\x90\0"
        await asyncio.sleep(1)
        assert len(desk.manager.contexts) == 1


@pytest.mark.parametrize(
    "bytes_said",
    [
        b"GET / HTTP/1.1\r\n\r\n" * 3,
        b"\0" * 100,
        b"\xff" * 100,
        frame(Kind.ACK, 0, 0),
        frame(Kind.HELLO, 0, 0, b"who are you"),
        frame(Kind.HELLO, 0, 0, Hello(Role.HOST, IDENTITY, False, 0, 1).encode()),
        frame(Kind.HELLO, 0, 0, Hello(Role.GUEST, IDENTITY, False, 0, 1, 9, 8).encode()),
        frame(Kind.HELLO, 0, 0, Hello(Role.GUEST, IDENTITY, True, 0, 1).encode()),
        frame(Kind.HELLO, 0, 0, Hello(Role.GUEST, IDENTITY, False, 5, 1).encode()),
        frame(Kind.HELLO, 0, 0, Hello(Role.GUEST, IDENTITY, False, 0, 1).encode()) * 2,
        frame(Kind.HELLO, 0, 0, Hello(Role.GUEST, IDENTITY, False, 0, 1).encode()) + frame(Kind.DATA, 7, 0, b""),
        frame(Kind.HELLO, 0, 0, Hello(Role.GUEST, IDENTITY, False, 0, 1).encode()) + frame(Kind.ACK, 0, 999),
        frame(Kind.HELLO, 0, 0, Hello(Role.GUEST, IDENTITY, False, 0, 1).encode()) + bytes(200_000),
    ],
    ids=lambda said: said[:40].hex(),
)
@pytest.mark.parametrize("piece", [1, 1 << 20])
async def test_a_guest_that_is_none(bytes_said: bytes, piece: int) -> None:
    async with Desk() as desk:
        near, far = memory_pipe()
        serving = desk.start(desk.host.serve(far, TESTER))
        peer = Peer(near)
        for at in range(0, min(len(bytes_said), 1000 if piece == 1 else 1 << 20), piece):
            near.write(bytes_said[at : at + piece])
        await quiet()
        assert peer.bye is not None
        assert peer.is_lost
        await serving
        assert not desk.host.status.guests


async def test_a_frame_that_is_no_hello_is_not_waited_for() -> None:
    """It would be kept for as long as a hello may take, and is on no guest's account."""
    async with Desk() as desk:
        near, far = memory_pipe()
        serving = desk.start(desk.host.serve(far, TESTER))
        peer = Peer(near)
        near.write(frame(Kind.DATA, 1, 0, bytes(1 << 20))[:100_000])
        await quiet()
        assert peer.bye is not None
        assert peer.bye.reason is Reason.PROTOCOL
        assert peer.is_lost
        await serving


async def test_a_guest_that_never_says_anything_is_not_waited_for() -> None:
    async with Desk() as desk:
        near, far = memory_pipe()
        serving = desk.start(desk.host.serve(far, TESTER))
        peer = Peer(near)
        await serving
        await quiet()
        assert peer.bye == Bye(Reason.PROTOCOL, "no hello came")


async def test_one_guest_too_many() -> None:
    async with Desk(limits=Limits(guests=1)) as desk:
        await desk.guest()
        with pytest.raises(LinkRefusedError, match="serves 1 guests") as caught:
            await desk.guest()
        assert caught.value.reason is Reason.FULL


# a host that lies


class HostileHost:
    """Is dialled, and says what it likes."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []

    async def dial(self) -> Pipe:
        near, far = memory_pipe()
        peer = Peer(far)
        self.peers.append(peer)
        asyncio.get_running_loop().call_soon(self._greet, peer)
        return near

    def _greet(self, peer: Peer) -> None:
        for got in peer.frames:
            if got.kind is Kind.HELLO:
                hello = Hello.parse(got.payload)
                answer = Hello(Role.HOST, hello.identity, False, 0, 10000)
                peer.pipe.write(frame(Kind.HELLO, 0, 0, answer.encode()))
                return
        asyncio.get_running_loop().call_soon(self._greet, peer)


WELCOME = m.Welcome(10, 10, 10, 1000)
ENTRY = m.ReaderEntry(READER, 1, 0x34, 0, b"\x3b\x80\x01\x81", 2, 0)


@pytest.mark.parametrize(
    "said",
    [
        [b"\xc1"],
        [b"\x93\x43\x01" + b"\x91" * 100_000],
        [encode(OPEN)],
        [WELCOME, WELCOME],
        [WELCOME, m.Readers(1, None, [ENTRY])],
        [WELCOME, m.Readers(1, [READER], [])],
        [WELCOME, m.Readers(1, [READER, READER], [ENTRY])],
        [WELCOME, m.Readers(1, [""], [])],
        [WELCOME, m.Readers(1, ["é" * 100], [])],
        [WELCOME, m.Readers(1, [], []), m.Answer(1)],
        [msgspec.msgpack.encode([65, 1, ["x"] * 2000, []])],
        [msgspec.msgpack.encode([65, 1, [READER], [[READER, 1, 0x34, 0, bytes(34), 2, 0]]])],
        [msgspec.msgpack.encode([65, 1, [READER], [[READER, 99999, 0x34, 0, bytes(33), 2, 0]]])],
        [msgspec.msgpack.encode([66, READER, 5, 1, 0, b""])],
    ],
    ids=lambda said: str(said)[:80],
)
async def test_a_host_that_says_what_it_must_not(said: list[bytes | m.FromHost]) -> None:
    host = HostileHost()
    async with Guest(host.dial) as guest:
        await becomes(guest, LinkState.UP)
        peer = host.peers[0]
        for one in said:
            peer.say(one)
        await becomes(guest, LinkState.DOWN)
        assert isinstance(guest.error, LinkRefusedError)
        assert guest.snapshot.readers == ()
        await quiet()
        assert peer.bye is not None
        assert peer.bye.reason is Reason.PROTOCOL
        began = len(host.peers)
        await asyncio.sleep(10)
        assert len(host.peers) - began < 15, "a host that misbehaves is not hammered"


@pytest.mark.parametrize("last_words", [None, Reason.UNKNOWN_SESSION])
async def test_a_host_that_greets_and_hangs_up_is_not_hammered(last_words: Reason | None) -> None:
    host = HostileHost()

    async def dial() -> Pipe:
        if len(host.peers) > 1000:
            raise ConnectionRefusedError("this would go on without end, at one moment")
        return await host.dial()

    def hang_up(state: LinkState) -> None:
        if state is LinkState.UP:
            if last_words is not None:
                host.peers[-1].pipe.write(frame(Kind.BYE, 0, 0, Bye(last_words).encode()))
            host.peers[-1].pipe.close()

    async with Guest(dial, report=hang_up):
        await asyncio.sleep(30)
        assert 30 < len(host.peers) < 150


async def test_a_host_cannot_fill_a_guests_memory_with_facts() -> None:
    host = HostileHost()
    async with Guest(host.dial) as guest:
        await becomes(guest, LinkState.UP)
        host.peers[0].say(WELCOME)
        host.peers[0].say(m.Readers(1, [READER], [ENTRY]))
        features = bytes.fromhex("0a0400000001") * 10_000
        for number in range(1000):
            host.peers[0].say(m.Fact(f"nobody {number}", 1, 0x42000D48, 0, b"\x0a\x04\0\0\0\1"))
            host.peers[0].say(m.Fact(READER, 1, 0x42000D48, 0, features))
            host.peers[0].say(m.Fact(READER, 1, number, 0, bytes(60_000)))
        await quiet()
        assert guest.session is not None
        assert list(guest.session.facts) == []


async def test_a_host_that_says_what_is_only_strange() -> None:
    host = HostileHost()
    async with Guest(host.dial) as guest:
        await becomes(guest, LinkState.UP)
        peer = host.peers[0]
        for one in (
            WELCOME,
            m.Readers(1, [READER], [ENTRY]),
            m.Failed(77, 0x80100068),
            m.Ahead(1, 77, 0, b"\x90\0"),
            m.Fact("nobody", 1, 0x42000D48, 0, b"whatever"),
        ):
            peer.say(one)
        await quiet()
        assert guest.state is LinkState.UP
        context = await guest.open(ALICE, 1.0)
        card = await context.connect(READER, SHARED, ANY)
        assert card.protocol == T1
        peer.say(m.Failed(1, 0x12345678))
        await quiet()
        assert guest.state is LinkState.UP


# any bytes at all


@given(st.binary(max_size=300))
@settings(max_examples=200)
def test_any_payload_is_a_message_or_the_one_error(payload: bytes) -> None:
    for decode in (decode_from_guest, decode_from_host):
        try:
            decode(payload)
        except WireError:
            continue


objects = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**31), 2**63)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=6),
    max_leaves=12,
)


@given(st.lists(st.tuples(st.integers(1, 70), st.lists(objects, max_size=8)), max_size=6))
@settings(max_examples=100, deadline=None)
def test_any_objects_leave_the_host_as_it_was(said: list[tuple[int, list[object]]]) -> None:
    logging.getLogger("cardferry.link").setLevel(logging.ERROR)

    async def whole() -> None:
        async with Desk() as desk:
            peer = await guest_of(desk)
            for one in (OPEN, CONNECT):
                peer.say(one)
            for tag, fields in said:
                peer.say(msgspec.msgpack.encode([tag, *fields]))
            await quiet()
            peer.pipe.abort()
            await asyncio.sleep(12)
            assert not desk.host.status.guests
            assert not desk.manager.contexts

    run(whole())
