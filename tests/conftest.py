"""What all tests share: options, and the one decision whether tests with real parts can run here."""

from __future__ import annotations

import gc
import itertools
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import Lab
from tests.lab.namespaces import missing_parts

# CPython 3.11 fails to parse a source ("AST constructor recursion depth mismatch") when something is finalized
# meanwhile; so nothing is until all files are read. It is faster, too.
gc.disable()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")
    parser.addoption("--write-pictures", action="store_true", help="write the pictures of docs/web.md")
    parser.addoption("--reader", metavar="NAME", help="also run tests/hardware with this real reader and its card")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        not_slow = pytest.mark.skip(reason="slow: run with --slow")
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(not_slow)
    items[:] = _mixed(items)


def _mixed(items: list[pytest.Item]) -> list[pytest.Item]:
    """Files whose tests wait for real parts, evenly among those that compute: side by side, neither has to wait."""
    waiting: list[list[pytest.Item]] = []
    computing: list[list[pytest.Item]] = []
    for _, found in itertools.groupby(items, key=lambda item: item.path):
        file = list(found)
        (waiting if any(item.get_closest_marker("real") for item in file) else computing).append(file)
    order: list[tuple[float, Path, list[pytest.Item]]] = []
    for files in (waiting, computing):
        order += [((number + 0.5) / len(files), file[0].path, file) for number, file in enumerate(files)]
    order.sort(key=lambda one: one[:2])
    return [item for _, _, file in order for item in file]


def pytest_collection_finish() -> None:
    """Thousands of tests look for what they have left with `gc.collect`: what was there before them is not theirs."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test marked ``real`` whose parts are missing is named as not run; in CI it fails."""
    if item.get_closest_marker("real") and missing_parts():
        reason = "not run, missing: " + "; ".join(missing_parts())
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """What a command does to logging when it runs in the tests' own process ends with the test."""
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in sorted(logging.root.manager.loggerDict))]
    before = [(logger, logger.level, logger.propagate, logger.handlers[:]) for logger in loggers]
    yield
    for logger, level, propagate, handlers in before:
        logger.setLevel(level)
        logger.propagate = propagate
        logger.handlers[:] = handlers


@pytest.fixture
def lab() -> Iterator[Lab]:
    """An empty lab, cleared away after the test."""
    with Lab() as lab:
        yield lab
