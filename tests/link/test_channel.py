"""The channel by itself: back-pressure, order, and what it does with pipes."""

from __future__ import annotations

import asyncio

import pytest

from cardferry.link.channel import COALESCING, Channel
from cardferry.transports.memory import memory_pipe
from cardferry.wire.errors import WireError
from cardferry.wire.link.frames import Kind, encode
from cardferry.wire.link.greeting import Bye, Reason, Role
from cardferry.wire.link.session import Bounds, Session, SessionOverflowError, Timing
from tests.transports.test_contract import User
from tests.virtual_time import quiet

BOUNDS = Bounds(full_frames=1000, full_bytes=10_000, most_bytes=1_000_000)


class Owner:
    def __init__(self) -> None:
        self.heard: list[object] = []

    def connected(self) -> None:
        self.heard.append("connected")

    def disconnected(self, error: Exception | None) -> None:
        self.heard.append("disconnected")

    def returned(self, error: Exception | None) -> None:
        self.heard.append("returned")

    def spare_lost(self) -> None:
        self.heard.append("spare lost")

    def message(self, payload: bytes) -> None:
        if payload == b"bad":
            raise WireError("bad")
        self.heard.append(payload)

    def ended(self, bye: Bye) -> None:
        self.heard.append(bye.reason)


def channel(role: Role, owner: Owner | None = None) -> tuple[Channel, Owner]:
    owner = owner or Owner()
    session = Session(role, bytes(16), asyncio.get_running_loop().time(), timing=Timing(), bounds=BOUNDS)
    return Channel(session, owner), owner


async def joined() -> tuple[Channel, Owner, Channel, Owner]:
    guest, guest_owner = channel(Role.GUEST)
    host, host_owner = channel(Role.HOST)
    near, far = memory_pipe()
    guest.attach(near)
    host.attach(far)
    await quiet()
    assert guest_owner.heard == host_owner.heard == ["connected"]
    return guest, guest_owner, host, host_owner


async def test_messages_that_nobody_waits_for_wait_for_company() -> None:
    guest, _, _, heard = await joined()
    guest.send(b"one", urgent=False)
    guest.send(b"two", urgent=False)
    await quiet()
    assert heard.heard == ["connected"]
    guest.send(b"three", urgent=True)
    await quiet()
    assert heard.heard == ["connected", b"one", b"two", b"three"]
    guest.send(b"four", urgent=False)
    await asyncio.sleep(COALESCING)
    await quiet()
    assert heard.heard[-1] == b"four"


async def test_everything_of_one_pass_travels_together(monkeypatch: pytest.MonkeyPatch) -> None:
    guest, _, host, _ = await joined()
    assert host.end is not None
    writes: list[bytes] = []
    monkeypatch.setattr(host.end.pipe, "write", writes.append)
    for _ in range(10):
        host.post(b"answer")
    await quiet()
    assert len(writes) == 1
    assert not guest.ended


async def test_who_sends_too_much_waits() -> None:
    guest, _, host, heard = await joined()
    assert host.end is not None
    host.end.pipe.pause_reading()
    while not guest.full:
        guest.send(bytes(1000), urgent=True)
    waiting = asyncio.get_running_loop().create_task(guest.drain())
    await asyncio.sleep(1.5)
    assert not waiting.done()
    host.end.pipe.resume_reading()
    await waiting
    assert guest.session.kept[1] < BOUNDS.full_bytes
    assert all(len(payload) == 1000 for payload in heard.heard[1:] if isinstance(payload, bytes))


async def test_who_does_not_wait_is_stopped() -> None:
    guest, _, host, _ = await joined()
    assert host.end is not None
    host.end.pipe.pause_reading()
    for _ in range(BOUNDS.most_bytes // 1100):
        guest.send(bytes(1000), urgent=True)
    with pytest.raises(SessionOverflowError):
        guest.send(bytes(BOUNDS.full_bytes * 10), urgent=True)


async def test_nobody_waits_for_room_in_a_session_that_is_over() -> None:
    guest, owner, host, _ = await joined()
    assert host.end is not None
    host.end.pipe.pause_reading()
    while not guest.full:
        guest.send(bytes(1000), urgent=True)
    waiting = asyncio.get_running_loop().create_task(guest.drain())
    await quiet()
    guest.close(Bye(Reason.CLOSED))
    await waiting
    assert owner.heard[-1] is Reason.CLOSED
    await asyncio.sleep(5)


async def test_a_pipe_that_is_congested_is_left_alone() -> None:
    guest, _, _, heard = await joined()
    guest.congested(True)
    guest.send(b"later", urgent=True)
    await quiet()
    assert heard.heard == ["connected"]
    guest.congested(False)
    await quiet()
    assert heard.heard == ["connected", b"later"]


async def test_a_message_that_must_not_be_ends_the_session() -> None:
    guest, owner, _, heard = await joined()
    guest.send(b"bad", urgent=True)
    await quiet()
    assert heard.heard[-1] is Reason.PROTOCOL
    assert owner.heard[-1] is Reason.PROTOCOL


async def test_an_old_pipe_is_not_heard_any_more() -> None:
    guest, owner, host, heard = await joined()
    old = host.end
    assert old is not None
    near, far = memory_pipe()
    host.attach(far)
    guest.attach(near)
    await quiet()
    assert old.unused.done()
    assert old.gone.done()
    guest.send(b"new", urgent=True)
    await quiet()
    assert heard.heard == ["connected", "connected", b"new"]
    assert owner.heard == ["connected", "connected"]


async def test_a_session_without_a_pipe_ends_in_time() -> None:
    guest, owner, host, heard = await joined()
    guest.drop()
    timing = Timing()
    await asyncio.sleep(timing.grace + timing.silence - 0.1)
    assert heard.heard[-1] is Reason.UNKNOWN_SESSION
    assert not guest.ended
    await asyncio.sleep(0.2)
    assert owner.heard == ["connected", "disconnected", Reason.UNKNOWN_SESSION]
    assert heard.heard == ["connected", "disconnected", Reason.UNKNOWN_SESSION]
    assert host.ended


@pytest.mark.parametrize("split", [5, 21, 25])
async def test_a_spare_pipe_is_read_past_the_frame_that_was_on_its_way(split: int) -> None:
    """Half of a frame had come when the session moved to another pipe; the rest and a hello come later."""
    host, owner = channel(Role.HOST)
    guest = Session(Role.GUEST, bytes(16), 0.0)
    (near, far), (_, other) = memory_pipe(), memory_pipe()
    near.start(User())
    host.attach(far)
    guest.attach(0.0)
    near.write(guest.take())
    frame = encode(Kind.DATA, 1, 0, b"hello?")
    near.write(frame[:split])
    await quiet()
    end = host.end
    host.attach(other, spares=True)
    near.write(frame[split:])
    await quiet()
    assert host.spare is end
    guest.attach(0.0)
    near.write(guest.take() + frame)
    await quiet()
    assert host.end is end
    assert host.spare is None
    assert owner.heard == ["connected", "connected", b"hello?"]
