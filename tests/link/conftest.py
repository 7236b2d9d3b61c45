"""The link's tests run in virtual time; whatever goes wrong without a test's looking fails the test.

They run twice: with begin, end and transmit as they are, and in the form without a task wherever that can be had.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest

from tests.link.forms import AT_ONCE, FORMS, at_once_at_both_ends
from tests.virtual_time import loop_factories, no_problems

__all__ = ["no_problems"]


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return loop_factories()


@pytest.fixture(autouse=True, params=FORMS)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """In which form the calls are made."""
    chosen: str = request.param
    if chosen == AT_ONCE:
        at_once_at_both_ends(monkeypatch)
    return chosen
