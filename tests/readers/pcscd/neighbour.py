"""What another program at the same pcscd does."""

from __future__ import annotations

import asyncio

import pytest

from cardferry.pcsc.constants import Protocol
from cardferry.readers.pcscd.reader import PcscdReader
from tests.readers.pcscd.fake import LOCK_POLL, OTHER, FakeReader
from tests.readers.pcscd.test_reader import VERIFY, connected


async def quiet(there: FakeReader) -> None:
    """When all is done the lock is free."""
    await asyncio.sleep(1)
    assert there.owner in (0, OTHER)


def slip_in(there: FakeReader) -> None:
    """Another program takes the lock right behind the next command, for a second."""

    def response(apdu: bytes) -> bytes:
        there.response = lambda apdu: b"\x90\x00"
        there.lock()
        asyncio.get_running_loop().call_later(1, there.unlock)
        return b"\x90\x00"

    there.response = response


async def untold_reset() -> tuple[FakeReader, PcscdReader]:
    """Somebody slipped into a claim, so that the card was reset; who should have been told has given up before."""
    _, there, reader = await connected()
    there.lock()
    await reader.claim()
    asyncio.get_running_loop().call_later(LOCK_POLL / 2, there.unlock)
    slip_in(there)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await reader.transmit(VERIFY, Protocol.T1)
    return there, reader
