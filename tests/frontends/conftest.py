"""The front's tests run in virtual time: both ends of each socket are in one process, so time never needs to pass.

A module that measures says by ``LOOPS`` that it wants another loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest

from tests.virtual_time import VirtualTimeLoop, loop_factories


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    module = item.getparent(pytest.Module)
    loops: Mapping[str, Callable[[], asyncio.AbstractEventLoop]]
    loops = getattr(module.obj, "LOOPS", None) or loop_factories() if module is not None else loop_factories()
    return loops


@pytest.fixture(autouse=True)
async def no_problems() -> AsyncIterator[None]:
    """Nothing goes wrong unseen."""
    yield
    loop = asyncio.get_running_loop()
    if isinstance(loop, VirtualTimeLoop):  # tests without await get a loop of the usual kind
        assert loop.problems == []
