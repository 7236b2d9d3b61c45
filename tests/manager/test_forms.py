"""That the tests of this folder make their calls in the form that they say."""

from __future__ import annotations

from tests.manager.desk import APDU, LEAVE, OK, T1, Desk
from tests.manager.forms import AT_ONCE


async def test_the_form_is_the_one_that_was_chosen(form: str) -> None:
    async with Desk() as desk:
        card = (await desk.client()).card
        await card.begin()
        assert await card.transmit(APDU, T1) == OK
        await card.end(LEAVE)
        assert desk.reader.at_once == (3 if form == AT_ONCE else 0)
        assert desk.reader.calls[1:] == ["claim", "transmit", "release"]
