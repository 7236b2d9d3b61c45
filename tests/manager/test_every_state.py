"""Every state a handle can be in, with everything that can be asked of it, against the table in docs/semantics.md."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cardferry.manager.card import LocalCard
from cardferry.pcsc.errors import ReturnCode
from tests.manager.desk import APDU, DIRECT, EXCLUSIVE, LEAVE, READER, RESET, SHARED, T1, Client, Desk
from tests.virtual_time import quiet

INPUTS: dict[str, Callable[[Client, LocalCard], Awaitable[object]]] = {
    "begin": lambda _, card: card.begin(),
    "end": lambda _, card: card.end(LEAVE),
    "end reset": lambda _, card: card.end(RESET),
    "transmit": lambda _, card: card.transmit(APDU, T1),
    "control": lambda _, card: card.control(1, b"", 1),
    "attribute": lambda _, card: card.attribute(1),
    "set attribute": lambda _, card: card.set_attribute(1, b""),
    "status": lambda _, card: card.status(),
    "reconnect": lambda _, card: card.reconnect(SHARED, T1, LEAVE),
    "reconnect reset": lambda _, card: card.reconnect(SHARED, T1, RESET),
    "reconnect exclusive": lambda _, card: card.reconnect(EXCLUSIVE, T1, LEAVE),
    "disconnect": lambda _, card: card.disconnect(LEAVE),
    "disconnect reset": lambda _, card: card.disconnect(RESET),
    "connect": lambda client, _: client.context.connect(READER, SHARED, T1),
    "connect direct": lambda client, _: client.context.connect(READER, DIRECT, T1),
    "connect exclusive": lambda client, _: client.context.connect(READER, EXCLUSIVE, T1),
}


async def _alone(desk: Desk) -> Client:
    return await desk.client("me")


async def _shared(desk: Desk) -> Client:
    await desk.client("other")
    return await desk.client("me")


async def _in_transaction(desk: Desk) -> Client:
    me = await _shared(desk)
    await me.card.begin()
    return me


async def _in_two_transactions(desk: Desk) -> Client:
    me = await _in_transaction(desk)
    await me.card.begin()
    return me


async def _exclusive(desk: Desk) -> Client:
    return await desk.client("me", EXCLUSIVE)


async def _direct_without_card(desk: Desk) -> Client:
    desk.remove()
    return await desk.client("me", DIRECT)


async def _while_other_holds(desk: Desk) -> Client:
    other, me = await desk.client("other"), await desk.client("me")
    await other.card.begin()
    return me


async def _while_sibling_holds(desk: Desk) -> Client:
    me = await _shared(desk)
    sibling = await me.context.connect(READER, SHARED, T1)
    await sibling.begin()
    return me


async def _reset(desk: Desk) -> Client:
    other, me = await desk.client("other"), await desk.client("me")
    await other.card.reconnect(SHARED, T1, RESET)
    return me


async def _removed(desk: Desk) -> Client:
    me = await _shared(desk)
    desk.remove()
    return me


async def _reinserted(desk: Desk) -> Client:
    me = await _removed(desk)
    desk.insert()
    return me


async def _removed_in_transaction(desk: Desk) -> Client:
    me = await _in_transaction(desk)
    desk.remove()
    await quiet()
    return me


async def _evicted(desk: Desk) -> Client:
    me = await _in_transaction(desk)
    await (await desk.client("waiting", None)).context.connect(READER, SHARED, T1)
    return me


async def _dispossessed(desk: Desk) -> Client:
    me = await _exclusive(desk)
    await (await desk.client("waiting", None)).context.connect(READER, SHARED, T1)
    return me


async def _gone(desk: Desk) -> Client:
    me = await _shared(desk)
    desk.unplug()
    return me


STATES: dict[str, Callable[[Desk], Awaitable[Client]]] = {
    "alone": _alone,
    "shared": _shared,
    "in transaction": _in_transaction,
    "in two": _in_two_transactions,
    "exclusive": _exclusive,
    "direct, no card": _direct_without_card,
    "other holds": _while_other_holds,
    "sibling holds": _while_sibling_holds,
    "reset": _reset,
    "removed": _removed,
    "reinserted": _reinserted,
    "removed in trans.": _removed_in_transaction,
    "evicted": _evicted,
    "dispossessed": _dispossessed,
    "reader gone": _gone,
}

PAGE = Path(__file__).parents[2] / "docs" / "semantics.md"
WORDS = {
    ReturnCode.S_SUCCESS: "ok",
    None: "waits",
    ReturnCode.E_SHARING_VIOLATION: "busy",
    ReturnCode.E_NOT_TRANSACTED: "no transaction",
    ReturnCode.E_NO_SMARTCARD: "no card",
    ReturnCode.W_RESET_CARD: "reset",
    ReturnCode.W_REMOVED_CARD: "removed",
    ReturnCode.E_READER_UNAVAILABLE: "gone",
    ReturnCode.E_UNKNOWN_READER: "unknown",
}


def documented() -> dict[tuple[str, str], str]:
    """The table: by state and call, the answer."""
    text = PAGE.read_text().partition("## Every state, every call")[2]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    header, _rule, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {(state, row[0]): answer for row in rows for state, answer in zip(header[1:], row[1:], strict=True)}


DOCUMENTED = documented()


def test_the_page_knows_every_state_and_every_call() -> None:
    assert set(DOCUMENTED) == {(state, call) for state in STATES for call in INPUTS}


@pytest.mark.parametrize("call", INPUTS)
@pytest.mark.parametrize("state", STATES)
async def test_answer(state: str, call: str) -> None:
    async with Desk() as desk:
        me = await STATES[state](desk)
        started = desk.start(INPUTS[call](me, me.card))
        await quiet()
        assert WORDS[started.code] == DOCUMENTED[state, call]
        started.cancel()
