"""Tests against a pcscd of our own making, in virtual time."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Mapping

import pytest

from cardferry.pcsc.constants import Protocol
from cardferry.readers.base import Rest
from cardferry.readers.pcscd.reader import PcscdReader
from tests.virtual_time import VirtualTimeLoop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"virtual time": VirtualTimeLoop}


@pytest.fixture(autouse=True)
async def no_problems() -> AsyncIterator[None]:
    """Nothing goes wrong unseen."""
    yield
    gc.collect()
    loop = asyncio.get_running_loop()
    if isinstance(loop, VirtualTimeLoop):  # tests without await get a loop of the usual kind
        assert loop.problems == []


@pytest.fixture(autouse=True, params=["coroutines", "at once"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Claim, release and transmit as they are, and in the form without a task wherever that can be had.

    As a manager does, whose tests look after it: what was sent at once is never given up.
    """
    chosen: str = request.param
    if chosen == "at once":
        claim, release, transmit = PcscdReader.claim, PcscdReader.release, PcscdReader.transmit

        async def claim_at_once(self: PcscdReader, *, alone: bool = False) -> bool:
            return False if not alone and self.claim_at_once() else await claim(self, alone=alone)

        async def release_at_once(self: PcscdReader) -> None:
            if not self.release_at_once():
                await release(self)

        async def transmit_at_once(self: PcscdReader, apdu: bytes, protocol: Protocol) -> bytes:
            answer: asyncio.Future[tuple[bytes, Rest | None]] = asyncio.get_running_loop().create_future()
            left = False

            def answered(response: bytes, rest: Rest | None) -> None:
                assert left, "answered before it was sent"
                if not answer.cancelled():
                    answer.set_result((response, rest))

            left = self.transmit_at_once(apdu, protocol, answered)
            if not left:
                return await transmit(self, apdu, protocol)
            response, rest = await answer
            return response if rest is None else await rest()

        monkeypatch.setattr(PcscdReader, "claim", claim_at_once)
        monkeypatch.setattr(PcscdReader, "release", release_at_once)
        monkeypatch.setattr(PcscdReader, "transmit", transmit_at_once)
    return chosen
