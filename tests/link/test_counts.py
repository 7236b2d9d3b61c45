"""What a host counts of its links goes on when they are over."""

from __future__ import annotations

import asyncio

from cardferry.wire.link.greeting import Bye, Reason
from tests.callers import TESTER
from tests.link.desk import Desk


async def test_links_and_resumes_are_counted_beyond_their_end() -> None:
    async with Desk() as desk:
        guest = await desk.guest()
        assert guest.session is not None
        guest.session.channel.drop()
        await asyncio.sleep(5)
        count = desk.host.counts[str(TESTER)]
        assert (count.links, count.resumes) == (1, 1)
        guest.session.channel.close(Bye(Reason.CLOSED, "another session follows"))
        await asyncio.sleep(5)
        count = desk.host.counts[str(TESTER)]
        assert (count.links, count.resumes) == (2, 1)
        assert [one.resumes for one in desk.host.status.guests] == [0]
