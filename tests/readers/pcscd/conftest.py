"""Tests against a pcscd of our own making, in virtual time."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Mapping

import pytest

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
