"""Pipes through NATS that loses messages, repeats them, or goes away; the contract of all transports is elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from cardferry.transports.nats import pipe as module
from cardferry.transports.nats.address import FleetAddress
from cardferry.transports.nats.connection import connect
from cardferry.transports.nats.errors import ExtraMissingError, NatsError, NatsRefusesError
from cardferry.transports.nats.pipe import WINDOW, LostError, NatsPipe
from cardferry.transports.nats.settings import FleetSettings
from cardferry.wire.nats import Kind, encode, parse
from tests.transports.nats.service import joined_name, service
from tests.transports.taking import listening
from tests.transports.test_contract import User


class Ends:
    """Two pipes, with what goes between them in hand."""

    def __init__(self) -> None:
        self.change: Callable[[bytes], list[bytes]] = lambda message: [message]
        self.sent: list[bytes] = []
        self.one = NatsPipe("one", self._to(lambda: self.two))
        self.two = NatsPipe("two", self._to(lambda: self.one))
        self.near, self.far = User(), User()
        self.one.start(self.near)
        self.two.start(self.far)

    def _to(self, other: Callable[[], NatsPipe]) -> Callable[[bytes], None]:
        def send(message: bytes) -> None:
            self.sent.append(message)
            for each in self.change(message):
                asyncio.get_running_loop().call_soon(lambda one: other().took(one), each)

        return send


@pytest.mark.parametrize("what", ["lost", "twice", "changed", "other"])
async def test_a_lost_message_ends_the_pipe_and_nothing_is_skipped(what: str) -> None:
    ends, count = Ends(), 0

    def change(message: bytes) -> list[bytes]:
        nonlocal count
        count += parse(message).kind is Kind.DATA
        if count != 3 or parse(message).kind is not Kind.DATA:
            return [message]
        wrong = {"lost": [], "twice": [message, message], "changed": [b"\x09" + message[1:]], "other": [b"GET /"]}
        return wrong[what]

    ends.change = change
    for number in range(6):
        ends.one.write(bytes([number]))
    async with asyncio.timeout(5):
        await ends.far.until(lambda: bool(ends.far.losses))
        await ends.near.until(lambda: bool(ends.near.losses))
    assert ends.far.data == bytes(range(3 if what == "twice" else 2)), "what came before it, and nothing after it"
    assert isinstance(ends.far.losses[0], LostError)


async def test_not_more_is_under_way_than_may_be() -> None:
    ends = Ends()
    ends.two.pause_reading()
    await asyncio.sleep(0)
    ends.one.write(bytes(4 * WINDOW))
    for _ in range(100):
        await asyncio.sleep(0)
    assert sum(len(parse(one).data) for one in ends.sent) <= WINDOW + 32 * 1024
    assert ends.near.congestion == [True]
    ends.two.resume_reading()
    async with asyncio.timeout(5):
        await ends.far.until(lambda: len(ends.far.data) == 4 * WINDOW)
    ends.one.abort()


async def test_who_sends_more_than_it_may_is_cut_off() -> None:
    ends = Ends()
    ends.two.pause_reading()
    await asyncio.sleep(0)
    for number in range(64):
        ends.two.took(encode(Kind.DATA, number * 16384, bytes(16384)))
    ends.two.resume_reading()
    await ends.far.until(lambda: bool(ends.far.losses))
    assert len(ends.far.data) == 0
    assert "more than it may" in str(ends.far.losses[0])


async def test_who_closes_and_is_not_answered_ends_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CLOSING_TIME", 0.05)
    ends = Ends()
    ends.change = lambda message: []
    ends.one.write(b"x")
    ends.one.close()
    async with asyncio.timeout(5):
        await ends.near.until(lambda: ends.near.losses == [None])


async def test_a_nats_that_goes_away_ends_pipes_and_the_next_one_is_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = joined_name(tmp_path, monkeypatch)
    async with asyncio.timeout(20), listening(address) as arrivals:
        for _ in range(2):
            while True:
                try:
                    near = await address.dial()
                    break
                except NatsError:
                    raise
                except Exception:  # noqa: BLE001 - the host comes back in a moment
                    await asyncio.sleep(0.05)
            user, other = User(), User()
            near.start(user)
            far = (await arrivals.get()).pipe
            far.start(other)
            near.write(b"x")
            await other.until(lambda: other.data == b"x")  # noqa: B023
            service().cut()
            await user.until(lambda: bool(user.losses))  # noqa: B023
            await other.until(lambda: bool(other.losses))  # noqa: B023
            assert isinstance(user.losses[0], ConnectionError)


async def test_nobody_at_nats_sees_what_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = joined_name(tmp_path, monkeypatch)
    async with asyncio.timeout(20), listening(address) as arrivals:
        near = await address.dial()
        near.start(User())
        far = (await arrivals.get()).pipe
        other = User()
        far.start(other)
        near.write(b"the PIN is 123456")
        await other.until(lambda: bool(other.data))
        assert not any(b"123456" in data for _, data in service().seen)
        assert any(f".{address.name}." in subject for subject, _ in service().seen)
        near.abort()


async def test_without_servers_or_the_library_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NatsRefusesError, match="no NATS server of a fleet is known here") as told:
        await connect(FleetSettings())
    assert "--fleet nats://HOST:4222" in told.value.hint
    monkeypatch.setitem(__import__("sys").modules, "nats.aio.client", None)
    with pytest.raises(ExtraMissingError) as missing:
        await FleetAddress("LAB-7").dial()
    assert "cardferry[fleet]" in missing.value.hint
