"""A module whose tests have nothing real in them says by ``LOOPS`` that they run in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    module = item.getparent(pytest.Module)
    loops: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] | None
    loops = getattr(module.obj, "LOOPS", None) if module is not None else None
    return loops or {"usual": asyncio.new_event_loop}
