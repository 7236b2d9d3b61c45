"""Begin, end and transmit without a task: when they may be made so, and that nothing is left over, whatever happens.

That they do the same as the coroutines is what all other tests in this folder see to, which run in both forms.
"""

from __future__ import annotations

import pytest

from cardferry.pcsc.constants import MAX_APDU_SIZE, PROTOCOL_ANY_OLD, Protocol
from cardferry.pcsc.errors import ReturnCode
from tests.manager.desk import (
    APDU,
    DIRECT,
    EXCLUSIVE,
    LEAVE,
    RESET,
    SHARED,
    T1,
    UNPOWER,
    Client,
    Desk,
    quiet,
    raises,
)
from tests.manager.sent import Sent, leaves, nothing_at_once, owner


@pytest.fixture(autouse=True)
def form() -> None:
    """These tests choose the form themselves."""


# when


async def test_alone_everything_is_made_at_once() -> None:
    async with Desk() as desk:
        card = (await desk.client()).card
        assert await Sent(card).code() == 0
        assert not desk.reader.held()
        assert card.begin_at_once()
        assert desk.reader.held()
        assert await Sent(card).code() == 0
        assert desk.reader.held()
        assert card.end_at_once(LEAVE)
        assert not desk.reader.held()
        assert desk.reader.at_once == 4
        assert desk.reader.calls[1:] == ["transmit", "claim", "transmit", "release"]
        assert owner(desk) is None


async def test_transactions_are_counted() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        card = alice.card
        assert card.begin_at_once()
        await card.begin()
        assert card.begin_at_once()
        for _ in range(2):
            assert card.end_at_once(LEAVE)
            assert desk.reader.held()
            assert nothing_at_once(bob)
        await card.end(LEAVE)
        assert not desk.reader.held()
        assert not card.end_at_once(LEAVE)
        assert bob.card.begin_at_once()
        assert [call for call in desk.reader.calls if call != "transmit"][1:] == ["claim", "release", "claim"]
        assert bob.card.end_at_once(LEAVE)


async def test_an_exclusive_connection_is_no_transaction() -> None:
    async with Desk() as desk:
        card = (await desk.client(share=EXCLUSIVE)).card
        assert not card.end_at_once(LEAVE)
        assert card.begin_at_once()
        assert await Sent(card).code() == 0
        assert card.end_at_once(LEAVE)
        assert not card.end_at_once(LEAVE)
        assert desk.reader.held()
        assert desk.sharing == -1


@pytest.mark.parametrize("disposition", [RESET, UNPOWER])
async def test_an_end_that_resets_is_not_made_at_once(disposition: object) -> None:
    async with Desk() as desk:
        card = (await desk.client()).card
        assert card.begin_at_once()
        assert not card.end_at_once(disposition)  # type: ignore[arg-type]
        assert desk.reader.held()
        assert card.lock_count == 1


async def test_while_somebody_else_has_the_card_nothing_is_made_at_once() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        second = await alice.context.connect(desk.reader.name, SHARED, Protocol.ANY)
        assert alice.card.begin_at_once()
        for card in (bob.card, second):
            assert nothing_at_once(Client(bob.context, card))
        assert alice.card.end_at_once(LEAVE)


async def test_while_a_command_is_under_way_nothing_is_made_at_once() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        desk.reader.takes["transmit"] = 1
        sent = Sent(alice.card)
        await quiet()
        assert sent.under_way()
        assert nothing_at_once(alice)
        assert nothing_at_once(bob)
        assert await sent.code() == 0
        assert owner(desk) is None


async def test_while_a_coroutine_is_at_the_reader_nothing_is_made_at_once() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        desk.reader.takes["attribute"] = 1  # which needs no turn
        asked = desk.start(alice.card.attribute(1))
        await quiet()
        assert nothing_at_once(bob)
        assert owner(desk) is None
        await asked
        assert bob.card.begin_at_once()
        asked = desk.start(alice.card.attribute(1))
        await quiet()
        assert not leaves(bob.card)
        assert not bob.card.end_at_once(LEAVE)
        assert owner(desk) is bob.card
        await asked
        assert bob.card.end_at_once(LEAVE)


async def test_a_handle_that_must_be_told_something_is_told_by_the_coroutine() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        await alice.card.reconnect(SHARED, Protocol.ANY, RESET)
        assert nothing_at_once(bob)
        assert await Sent(alice.card).code() == 0
        with raises(ReturnCode.W_RESET_CARD):
            await bob.card.begin()
        desk.remove()
        assert nothing_at_once(alice)
        desk.insert()
        assert nothing_at_once(alice)
        with raises(ReturnCode.W_REMOVED_CARD):
            await alice.card.transmit(APDU, T1)


async def test_inside_a_transaction_a_handle_that_must_be_told_something_does_nothing_at_once() -> None:
    async with Desk() as desk:
        client = await desk.client()
        card = client.card
        assert card.begin_at_once()
        desk.reader.reset_by_others = True
        assert await Sent(card).code() is ReturnCode.W_RESET_CARD
        assert card.lock_count == 1
        assert nothing_at_once(client)
        await card.reconnect(SHARED, Protocol.ANY, LEAVE)
        assert await Sent(card).code() == 0
        assert card.end_at_once(LEAVE)


@pytest.mark.parametrize("how", ["disconnected", "closed", "unplugged"])
async def test_a_handle_that_is_no_more_does_nothing(how: str) -> None:
    async with Desk() as desk:
        client = await desk.client()
        if how == "disconnected":
            await client.card.disconnect(LEAVE)
        elif how == "closed":
            await client.context.close()
        else:
            desk.unplug()
            client.card.happened = None
        calls = list(desk.reader.calls)
        assert nothing_at_once(client)
        assert desk.reader.calls == calls


async def test_a_transaction_does_not_nest_or_end_on_a_reader_that_has_gone() -> None:
    async with Desk() as desk:
        client = await desk.client()
        assert client.card.begin_at_once()
        assert client.card.begin_at_once()
        desk.unplug()
        client.card.happened = None
        assert nothing_at_once(client)
        assert client.card.lock_count == 2


@pytest.mark.parametrize("protocol", [Protocol.T0, Protocol.RAW, PROTOCOL_ANY_OLD, Protocol.UNDEFINED, 0x10001])
async def test_only_the_protocol_in_force_is_sent_at_once(protocol: int) -> None:
    async with Desk() as desk:
        card = (await desk.client()).card
        assert not leaves(card, protocol=protocol)
        assert owner(desk) is None


async def test_no_protocol_in_force_nothing_sent() -> None:
    async with Desk(card=False) as desk:
        card = (await desk.client(share=DIRECT)).card
        assert not leaves(card, protocol=Protocol.UNDEFINED)
        assert card.begin_at_once(), "the reader can be held without a card"
        assert card.end_at_once(LEAVE)


async def test_the_longest_command() -> None:
    async with Desk() as desk:
        card = (await desk.client()).card
        assert not leaves(card, bytes(MAX_APDU_SIZE + 1))
        assert await Sent(card, bytes(MAX_APDU_SIZE)).code() == 0


@pytest.mark.parametrize("call", ["claim", "transmit"])
async def test_a_turn_is_not_kept_when_the_reader_cannot(call: str) -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        desk.reader.deliberate.add(call)
        assert not (alice.card.begin_at_once() if call == "claim" else leaves(alice.card))
        assert owner(desk) is None
        assert desk.slot.device.idle
        assert alice.card.lock_count == 0
        desk.reader.deliberate.clear()
        assert bob.card.begin_at_once()
        assert bob.card.end_at_once(LEAVE)


async def test_a_transaction_is_kept_when_the_reader_cannot() -> None:
    async with Desk() as desk:
        card = (await desk.client()).card
        assert card.begin_at_once()
        desk.reader.deliberate |= {"transmit", "release"}
        assert not leaves(card)
        assert not card.end_at_once(LEAVE)
        assert (card.lock_count, owner(desk)) == (1, card)
        await card.end(LEAVE)
        assert owner(desk) is None


# a place in the queue


@pytest.mark.parametrize("call", ["claim", "transmit"])
async def test_a_place_in_the_queue_is_not_lost_by_asking_in_vain(call: str) -> None:
    async with Desk() as desk:
        holder, alice = await desk.client("holder"), await desk.client("alice", patience=0.1)
        bob = await desk.client("bob", patience=0.1)
        await holder.card.begin()
        for waiting in (alice, bob):
            with raises(ReturnCode.E_SHARING_VIOLATION):
                await waiting.card.begin()
        await holder.card.end(LEAVE)
        desk.reader.deliberate.add(call)
        waiting_before = desk.slot.turns.waiting
        assert [place.caller for place in waiting_before] == [alice.card, bob.card]
        assert not (alice.card.begin_at_once() if call == "claim" else leaves(alice.card))
        assert desk.slot.turns.waiting == waiting_before


async def test_a_place_in_the_queue_is_used_up_by_the_turn_it_led_to() -> None:
    async with Desk() as desk:
        holder, alice = await desk.client("holder"), await desk.client("alice", patience=0.1)
        await holder.card.begin()
        with raises(ReturnCode.E_SHARING_VIOLATION):
            await alice.card.begin()
        await holder.card.end(LEAVE)
        if not alice.card.begin_at_once():
            await alice.card.begin()
        assert owner(desk) is alice.card
        assert desk.slot.turns.waiting == []


async def test_who_waits_comes_before_who_has_just_been_answered() -> None:
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        desk.reader.takes["transmit"] = 0.1
        sent = Sent(alice.card)
        waiting = desk.start(bob.card.begin())
        await quiet()
        again: list[bool] = []
        sent.then = lambda: again.append(leaves(alice.card) or alice.card.begin_at_once())
        assert await sent.code() == 0
        assert again == [False]
        await waiting
        assert owner(desk) is bob.card


async def test_who_waits_for_the_reader_alone_comes_in_between() -> None:
    """An attribute needs no turn: it comes between two commands of somebody who sends them without a pause."""
    async with Desk() as desk:
        alice, bob = await desk.client("alice"), await desk.client("bob")
        assert alice.card.begin_at_once()
        desk.reader.takes["transmit"] = 0.1
        sent = Sent(alice.card)
        asked = desk.start(bob.card.attribute(1))
        await quiet()
        assert not asked.done
        again: list[bool] = []
        sent.then = lambda: again.append(leaves(alice.card))
        assert await sent.code() == 0
        assert again == [False]
        await asked
        assert await Sent(alice.card).code() == 0
        assert alice.card.end_at_once(LEAVE)
