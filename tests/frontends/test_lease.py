"""Who has a card when, for users that know no transactions; another program of the same manager is beside them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cardferry.frontends.lease import IDLE, Insertion, Lease, LostCardError
from cardferry.manager import Settings
from cardferry.pcsc.constants import Protocol
from cardferry.pcsc.errors import ReturnCode
from tests.callers import somebody
from tests.manager.desk import APDU, ATR, EXCLUSIVE, LEAVE, OK, READER, RESET, T1, Desk, elapsed, quiet, raises

CARD = Insertion(READER, ATR)
T0 = Protocol.T0


@asynccontextmanager
async def leased(desk: Desk, keep: float | None = None) -> AsyncIterator[Lease]:
    """The desk's card with a user of its own."""
    async with Lease(desk.manager, somebody("machine"), CARD, keep) as lease:
        yield lease


async def test_nobody_comes_between_two_commands_and_then_whoever_waits_has_the_card() -> None:
    async with Desk() as desk, leased(desk) as lease:
        other = await desk.client("other")
        assert await lease.transmit(APDU) == OK
        begun = desk.start(other.card.begin())
        await asyncio.sleep(IDLE * 0.9)
        await lease.transmit(APDU)
        await asyncio.sleep(IDLE * 0.9)
        assert not begun.done
        assert 0 < await elapsed(begun) <= IDLE * 0.11
        await other.card.end(LEAVE)


async def test_a_command_waits_for_somebody_elses_transaction() -> None:
    async with Desk() as desk, leased(desk) as lease:
        other = await desk.client("other")
        await other.card.begin()
        waiting = desk.start(lease.transmit(APDU))
        await asyncio.sleep(25)
        assert not waiting.done
        await other.card.end(LEAVE)
        assert await waiting == OK


async def test_whoever_waited_first_comes_first() -> None:
    """The user's command waits in the one queue; its lease begins then, and not before."""
    async with Desk() as desk, leased(desk) as lease:
        await lease.transmit(APDU)
        await asyncio.sleep(IDLE * 1.1)
        first, third = await desk.client("first"), await desk.client("third")
        await first.card.begin()
        second = desk.start(lease.transmit(APDU))
        await quiet()
        last = desk.start(third.card.begin())
        await quiet()
        await first.card.end(LEAVE)
        assert await second == OK
        assert not last.done
        assert await elapsed(last) == pytest.approx(IDLE)
        await third.card.end(LEAVE)


async def test_who_takes_the_power_gives_the_card_back_at_once() -> None:
    async with Desk() as desk, leased(desk) as lease:
        await lease.transmit(APDU)
        await lease.power_off()
        assert desk.sharing == 0
        other = await desk.client("other", EXCLUSIVE)
        assert await elapsed(other.card.begin()) == 0


async def test_its_card_keeps_its_state_while_nobody_else_changes_it() -> None:
    async with Desk() as desk, leased(desk) as lease:
        await lease.transmit(APDU)
        await asyncio.sleep(3600)
        await lease.transmit(APDU)
        assert desk.reader.session == [APDU, APDU]


async def test_a_reset_by_somebody_else_between_two_leases_is_not_unseen() -> None:
    async with Desk() as desk, leased(desk) as lease:
        await lease.transmit(APDU)
        other = await desk.client("other")
        await other.card.begin()
        await other.card.transmit(APDU, T1)
        await other.card.end(RESET)
        with pytest.raises(LostCardError):
            await lease.transmit(APDU)
        assert desk.reader.session == [], "the command was not carried out"


async def test_a_reset_before_its_first_command_is_nothing_to_it() -> None:
    async with Desk() as desk, leased(desk) as lease:
        await lease.transmit(APDU)
        await lease.power_on()  # as its programs are told
        other = await desk.client("other")
        await other.card.begin()
        await other.card.end(RESET)
        assert await lease.transmit(APDU) == OK
        assert desk.reader.session == [APDU]


async def test_a_reset_is_one_and_everybody_is_told() -> None:
    async with Desk() as desk, leased(desk) as lease:
        other = await desk.client("other")
        await other.card.transmit(APDU, T1)
        await lease.transmit(APDU)
        await lease.reset()
        assert desk.reader.session == []
        await lease.transmit(APDU)
        with raises(ReturnCode.W_RESET_CARD):
            await other.card.transmit(APDU, T1)


async def test_a_reset_waits_for_its_turn_and_counts_as_done_when_somebody_else_did_it() -> None:
    async with Desk() as desk, leased(desk) as lease:
        await lease.transmit(APDU)
        other = await desk.client("other")
        begun = desk.start(other.card.begin())
        await begun
        reset = desk.start(lease.reset())
        await asyncio.sleep(5)
        assert not reset.done
        await other.card.end(RESET)
        await reset
        assert await lease.transmit(APDU) == OK


@pytest.mark.parametrize(("pause", "session"), [(0.0, []), (10.0, [APDU])])
async def test_power_that_comes_back_at_once_is_a_reset(pause: float, session: list[bytes]) -> None:
    """Power that comes back later is another program's, which must not take the card's state from other guests."""
    async with Desk() as desk, leased(desk) as lease:
        other = await desk.client("other")  # without anybody the card would lose its power
        await lease.transmit(APDU)
        await lease.power_off()
        await asyncio.sleep(pause)
        await lease.power_on()
        assert desk.reader.session == session
        await other.context.close()


async def test_who_is_gone_in_its_lease_leaves_no_state() -> None:
    async with Desk() as desk:
        async with leased(desk) as lease:
            other = await desk.client("other")
            await lease.transmit(APDU)
        await quiet()
        assert desk.reader.session == []
        await other.context.close()


async def test_who_is_gone_after_its_lease_resets_nothing() -> None:
    async with Desk() as desk:
        async with leased(desk) as lease:
            other = await desk.client("other")
            await lease.transmit(APDU)
            await asyncio.sleep(IDLE * 1.1)
        assert desk.reader.session == [APDU]
        await other.context.close()


async def test_a_card_that_is_gone_is_lost() -> None:
    async with Desk() as desk, leased(desk) as lease:
        await lease.transmit(APDU)
        desk.remove()
        with pytest.raises(LostCardError):
            await lease.transmit(APDU)
        with pytest.raises(LostCardError):
            await lease.reset()


async def test_who_loses_the_card_to_another_that_waits_too_long_begins_anew() -> None:
    """A user that sends one command after the other is subject to the manager's bounds, as everybody."""
    async with Desk(Settings(max_idle=5, max_hold=10)) as desk, leased(desk) as lease:
        other = await desk.client("other")
        await lease.transmit(APDU)
        begun = desk.start(other.card.begin())
        with pytest.raises(LostCardError):
            await _for_ever(lease)
        with raises(ReturnCode.W_RESET_CARD):
            await begun


async def _for_ever(lease: Lease) -> None:
    while True:
        await lease.transmit(APDU)
        await asyncio.sleep(IDLE / 2)


async def test_a_user_that_tells_nothing_of_power_lets_go_after_a_while() -> None:
    """Nobody could have the card exclusively otherwise."""
    told = 0

    def released() -> None:
        nonlocal told
        told += 1

    async with Desk() as desk, Lease(desk.manager, somebody(), CARD, 60, released) as lease:
        await lease.transmit(APDU)
        await asyncio.sleep(59)
        assert not lease.over
        await lease.transmit(APDU)
        await asyncio.sleep(59)
        assert (lease.over, told) == (False, 0)
        await asyncio.sleep(2)
        assert (lease.over, told) == (True, 1)


@pytest.mark.parametrize("protocol", [T0, T1])
async def test_a_card_gets_the_command_that_its_protocol_has(protocol: Protocol) -> None:
    async with Desk() as desk, leased(desk) as lease:
        desk.reader.protocol = protocol
        assert await lease.transmit(b"\x00\xca\x00\x00\x01\x02\x00", b"\x00\xca\x00\x00\x01\x02") == OK
        assert len(desk.reader.session[0]) == (6 if protocol is T0 else 7)
